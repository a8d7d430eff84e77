"""Experiments that take seconds on a laptop, one per family, and the quickstart's own."""

from typing import Any

from gesso.data.config import DataConfig
from gesso.evaluation.config import EvaluationConfig
from gesso.models.config import GPTConfig
from gesso.pretrain.config import CheckpointConfig, LoggingConfig, OptimizerConfig, ScheduleConfig
from gesso.pretrain.experiment import Experiment

# The sizes of a toy decoder.
SMALL: dict[str, Any] = {
    "vocab": 264,
    "positions": 256,
    "layers": 4,
    "embed": 64,
    "heads": 4,
    "mlp": 256,
}


def debug(
    name: str, model: GPTConfig, *, no_decay: tuple[str, ...] = ("*bias", "*norm*")
) -> Experiment:
    """A decoder of toy size on 2 MB of the embedded corpus as bytes."""
    return Experiment(
        name=name,
        model=model,
        data=DataConfig(store="embedded:bytes:2"),
        optimizer=OptimizerConfig(
            learning_rate=3e-3,
            schedule=ScheduleConfig(kind="cosine", warmup_steps=10, final=0.1),
            b2=0.95,
            weight_decay=0.1,
            no_decay=no_decay,
            clip_norm=1.0,
        ),
        steps=100,
        batch=16,
        length=128,
        checkpoint=CheckpointConfig(every_steps=50),
        evaluation=EvaluationConfig(every_steps=50, rows=8, sample_every_steps=100),
        logging=LoggingConfig(every_steps=5),
    )


def debug_gpt_neo() -> Experiment:
    """GPT-Neo's block (local and global attention in turn, unscaled logits) at toy size, on 2 MB of
    the embedded corpus as bytes.

        gesso pretrain debug-gpt-neo

    Half a minute on 2 cores; the held-out loss ends near 2.2 nats per byte (uniform: 5.6).
    """
    return debug(
        "debug-gpt-neo",
        GPTConfig(
            **SMALL,
            pattern=("global", "local"),
            window=32,
            attention_scale="none",
            biases=("attention_out", "mlp"),
        ),
    )


def debug_gpt_j() -> Experiment:
    """GPT-J's block (parallel, one shared norm, interleaved rotary, untied head with a bias) at toy
    size, on 2 MB of the embedded corpus as bytes.

        gesso pretrain debug-gpt-j
    """
    return debug(
        "debug-gpt-j",
        GPTConfig(
            **SMALL,
            position_encoding="rotary",
            rotary_dims=8,
            block="parallel_shared_norm",
            biases=("mlp", "head"),
            head="untied",
        ),
    )


def debug_gpt2() -> Experiment:
    """GPT-2's block at toy size, on 2 MB of the embedded corpus as bytes.

    gesso pretrain debug-gpt2
    """
    return debug("debug-gpt2", GPTConfig(**SMALL, residual_init="depth"))


def debug_gpt_neox() -> Experiment:
    """GPT-NeoX's block (parallel, two norms, half rotary on a quarter of each head) at toy size, on
    2 MB of the embedded corpus as bytes.

        gesso pretrain debug-gpt-neox
    """
    return debug(
        "debug-gpt-neox",
        GPTConfig(
            **SMALL,
            position_encoding="rotary",
            rotary_dims=4,
            rotation="half",
            block="parallel",
            activation="gelu",
            head="untied",
        ),
    )


def quickstart() -> Experiment:
    """A small GPT-Neo on the whole embedded corpus with a sentencepiece tokenizer of 4096 pieces.

        gesso quickstart                 # the run and what is around it
        gesso pretrain quickstart        # the run alone

    About two minutes on 2 cores; the held-out bits per byte fall below a byte 3-gram's.
    """
    return Experiment(
        name="quickstart",
        model=GPTConfig(
            vocab=4096,
            positions=256,
            layers=4,
            embed=192,
            heads=6,
            mlp=768,
            pattern=("global", "local"),
            window=64,
            attention_scale="none",
            biases=("attention_out", "mlp"),
        ),
        data=DataConfig(store="embedded:sentencepiece"),
        optimizer=OptimizerConfig(
            learning_rate=4e-3,
            schedule=ScheduleConfig(kind="cosine", warmup_steps=30, final=0.1),
            b2=0.95,
            weight_decay=0.1,
            no_decay=("*bias", "*norm*"),
            clip_norm=1.0,
        ),
        steps=300,
        batch=8,
        length=256,
        checkpoint=CheckpointConfig(every_steps=100),
        evaluation=EvaluationConfig(
            every_steps=50, rows=16, sample_every_steps=100, sample_tokens=64
        ),
        logging=LoggingConfig(every_steps=5),
    )
