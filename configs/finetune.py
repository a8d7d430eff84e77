"""Fine-tuning of the whole model: instructions as FLAN's, and ULMFiT's way, slower below and layer
by layer from the top; each with a small one."""

from gesso.data.config import DataConfig, ExamplesConfig
from gesso.evaluation.config import EvaluationConfig
from gesso.models.config import GPTConfig
from gesso.pretrain.config import (
    CheckpointConfig,
    LoggingConfig,
    OptimizerConfig,
    ScheduleConfig,
    StageConfig,
)
from gesso.pretrain.experiment import Experiment

# Slanted triangular: a tenth of the updates up, the rest down, from and to 1/32 of the peak
# (https://arxiv.org/abs/1801.06146, section 3.2).
_SLANTED = ScheduleConfig(kind="stlr", final=1 / 32)
# Discriminative: each layer at 1/2.6 of the rate of the one above; Adam's b1 0.7, b2 0.99
# (section 4.1). The paper's peak, 0.004, is an LSTM's; a Transformer takes a tenth.
_DISCRIMINATIVE = OptimizerConfig(
    learning_rate=4e-4,
    schedule=_SLANTED,
    b1=0.7,
    b2=0.99,
    layer_decay=1 / 2.6,
    weight_decay=0.01,
    no_decay=("*bias", "*norm*"),
    clip_norm=1.0,
)
# The layers and what is behind them. The tables come last; that of words is the head, too.
_LAYERS = ("blocks/*", "norm/*")


def flan() -> Experiment:
    """Instruction tuning as FLAN's (https://arxiv.org/abs/2109.01652, section 2.4): tasks in
    proportion to their examples, at most 3,000 of each counted; rows packed, the loss on targets;
    Adafactor at 3e-5, 8,192 tokens an update, 30,000 updates.

        gesso import downloads/gpt2-medium runs/medium
        gesso instructions build recipe.toml --folder my-instructions
        gesso finetune flan --start runs/medium --data.store my-instructions

    The recipe names runs/medium/tokenizer (docs/instructions.md). The model is the source's, a
    decoder of any size; FLAN's had 137 billion parameters, and the paper finds that below 8 billion
    tuning helps the tasks it trains on and hurts others.
    """
    return Experiment(
        name="flan",
        model=GPTConfig(
            vocab=50257, positions=1024, layers=24, embed=1024, heads=16, mlp=4096
        ),
        data=DataConfig(store="my-instructions", examples=ExamplesConfig(cap=3000)),
        optimizer=OptimizerConfig(
            name="adafactor", learning_rate=3e-5, schedule=ScheduleConfig(kind="constant")
        ),
        steps=30_000,
        batch=8,
        length=1024,
        checkpoint=CheckpointConfig(every_steps=1000),
        evaluation=EvaluationConfig(every_steps=1000, rows=256),
    )  # fmt: skip


def debug_flan() -> Experiment:
    """Instruction tuning at toy size: which part of Python says this, in capitals, the last word,
    the next words; 3,000 examples made of the embedded corpus, as bytes.

        gesso pretrain debug-gpt-neo
        gesso finetune debug-flan --start runs/debug-gpt-neo
        gesso evaluate runs/debug-gpt-neo --store debug-flan
        gesso evaluate runs/debug-flan

    Twenty seconds on 2 cores; the loss on held-out answers goes from 4.0 nats per byte to 2.6.
    --data.examples.without words leaves a cluster out.
    """
    return Experiment(
        name="debug-flan",
        model=GPTConfig(vocab=264, positions=256, layers=4, embed=64, heads=4, mlp=256),
        data=DataConfig(store="embedded-instructions:bytes:2"),
        optimizer=OptimizerConfig(
            learning_rate=3e-3,
            schedule=ScheduleConfig(kind="linear", warmup_steps=10),
            b2=0.95,
            clip_norm=1.0,
        ),
        steps=100,
        batch=16,
        length=128,
        checkpoint=CheckpointConfig(every_steps=50),
        evaluation=EvaluationConfig(every_steps=50, rows=0),
        logging=LoggingConfig(every_steps=5),
    )


def ulmfit_lm() -> Experiment:
    """ULMFiT's second step (https://arxiv.org/abs/1801.06146, section 3.2): a language model taken
    to other text, all layers at once, each at 1/2.6 of the rate above it, the rate slanted.

        gesso import downloads/gpt2 runs/gpt2
        gesso corpus build mine/*.jsonl --folder my-store --tokenizer runs/gpt2/tokenizer
        gesso finetune ulmfit-lm --start runs/gpt2 --data.store my-store

    The model is the source's, a decoder of any size. The paper's model is an LSTM, its peak rate
    0.004. Not measured at this size; `debug-ulmfit` is.
    """
    return Experiment(
        name="ulmfit-lm",
        model=GPTConfig(
            vocab=50257,
            positions=1024,
            layers=12,
            embed=768,
            heads=12,
            mlp=3072,
            residual_dropout=0.1,
            embedding_dropout=0.1,
        ),
        data=DataConfig(store="my-store"),
        optimizer=_DISCRIMINATIVE,
        steps=2000,
        batch=32,
        length=512,
        checkpoint=CheckpointConfig(every_steps=500),
        evaluation=EvaluationConfig(every_steps=500, rows=256),
    )


def ulmfit_gradual() -> Experiment:
    """`ulmfit-lm` unfrozen from the top (section 3.3): the last layer, then two, four, eight, all
    of them, and at last the table of words; each stage with a slanted triangle of its own.

        gesso finetune ulmfit-gradual --start runs/gpt2 --data.store my-store
    """
    import dataclasses

    tops = ((200, -1), (400, -2), (600, -4), (800, -8), (1000, 0))
    return dataclasses.replace(
        ulmfit_lm(),
        name="ulmfit-gradual",
        stages=tuple(
            StageConfig(until=until, trainable=_LAYERS, first_layer=top, schedule=_SLANTED)
            for until, top in tops
        ),
    )


def debug_ulmfit() -> Experiment:
    """Gradual unfreezing at toy size: the last layer, the last two, all four, everything, on the
    embedded corpus as bytes.

        gesso pretrain debug-gpt-neo
        gesso finetune debug-ulmfit --start runs/debug-gpt-neo

    Twenty seconds on 2 cores, four compiled steps.
    """
    return Experiment(
        name="debug-ulmfit",
        model=GPTConfig(vocab=264, positions=256, layers=4, embed=64, heads=4, mlp=256),
        data=DataConfig(store="embedded:bytes:2", seed=1),
        optimizer=_DISCRIMINATIVE,
        steps=40,
        batch=16,
        length=128,
        stages=tuple(
            StageConfig(until=until, trainable=_LAYERS, first_layer=top, schedule=_SLANTED)
            for until, top in ((10, -1), (20, -2), (30, 0))
        ),
        checkpoint=CheckpointConfig(every_steps=20),
        evaluation=EvaluationConfig(every_steps=40, rows=8),
        logging=LoggingConfig(every_steps=5),
    )
