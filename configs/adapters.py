"""Adapters trained over a frozen model: LoRA and prompts on GPT-2, LoRA on GPT-J, a toy."""

from gesso.data.config import DataConfig
from gesso.evaluation.config import EvaluationConfig
from gesso.models.adapters.config import AdapterConfig
from gesso.models.config import GPTConfig
from gesso.pretrain.config import (
    CheckpointConfig,
    LoggingConfig,
    OptimizerConfig,
    PrecisionConfig,
    ScheduleConfig,
)
from gesso.pretrain.experiment import Experiment


def lora_gpt2() -> Experiment:
    """LoRA as its authors trained GPT-2 (https://arxiv.org/abs/2106.09685, table 11): q and v, rank
    4, alpha 32, dropout 0.1, rate 2e-4, weight decay 0.01, 500 updates of warmup, linear.

        gesso import downloads/gpt2 runs/gpt2
        gesso corpus build mine/*.jsonl --folder my-store --tokenizer runs/gpt2/tokenizer
        gesso finetune lora-gpt2 --start runs/gpt2 --data.store my-store

    The model is the source's, a decoder of any size. A checkpoint holds 0.1 % of its parameters.
    """
    return Experiment(
        name="lora-gpt2",
        model=GPTConfig(
            vocab=50257, positions=1024, layers=12, embed=768, heads=12, mlp=3072,
            residual_dropout=0.1, embedding_dropout=0.1, attention_dropout=0.1,
        ),
        adapter=AdapterConfig(kind="lora", rank=4, alpha=32, dropout=0.1),
        data=DataConfig(store="my-store"),
        optimizer=OptimizerConfig(
            learning_rate=2e-4,
            schedule=ScheduleConfig(kind="linear", warmup_steps=500),
            b2=0.999,
            weight_decay=0.01,
        ),
        steps=5000,
        batch=8,
        length=512,
        checkpoint=CheckpointConfig(every_steps=500),
        evaluation=EvaluationConfig(every_steps=500, rows=256),
    )  # fmt: skip


def lora_gpt_j() -> Experiment:
    """LoRA on every product of GPT-J's layers, rank 16 (rsLoRA, https://arxiv.org/abs/2312.03732),
    the base held in bfloat16: 12 GB at rest, over the devices of the mesh.

        gesso import downloads/gpt-j-6b runs/gpt-j
        gesso finetune lora-gpt-j --start runs/gpt-j --data.store my-store --mesh.fsdp 8

    Not measured at this size.
    """
    return Experiment(
        name="lora-gpt-j",
        model=GPTConfig(
            vocab=50400, positions=2048, layers=28, embed=4096, heads=16, mlp=16384,
            position_encoding="rotary", rotary_dims=64, block="parallel_shared_norm",
            biases=("mlp", "head"), head="untied", remat="save_attention",
        ),
        adapter=AdapterConfig(
            kind="lora", targets=("blocks/attention/*", "blocks/mlp/*"), rank=16, alpha=16,
            scaling="sqrt_rank", dropout=0.05,
        ),
        data=DataConfig(store="my-store"),
        optimizer=OptimizerConfig(
            learning_rate=1e-4,
            schedule=ScheduleConfig(kind="cosine", warmup_steps=100, final=0.1),
            clip_norm=1.0,
        ),
        precision=PrecisionConfig(params="bfloat16", compute="bfloat16"),
        steps=2000,
        batch=16,
        length=2048,
        checkpoint=CheckpointConfig(every_steps=200),
        evaluation=EvaluationConfig(every_steps=200, rows=64),
    )  # fmt: skip


def prompt_gpt2() -> Experiment:
    """Prompt tuning (https://arxiv.org/abs/2104.08691): 20 virtual tokens in front of every
    document, begun as rows of the table of words; the rate is the paper's order for Adafactor, 0.3,
    taken down for AdamW.

        gesso finetune prompt-gpt2 --start runs/gpt2 --data.store my-store
    """
    import dataclasses

    return dataclasses.replace(
        lora_gpt2(),
        name="prompt-gpt2",
        adapter=AdapterConfig(kind="prompt", tokens=20),
        optimizer=OptimizerConfig(
            learning_rate=0.03, schedule=ScheduleConfig(kind="linear", warmup_steps=100)
        ),
    )


def debug_lora() -> Experiment:
    """LoRA at toy size, over a model of the embedded corpus as bytes.

        gesso pretrain debug-gpt-neo
        gesso finetune debug-lora --start runs/debug-gpt-neo
        gesso adapter merge runs/debug-lora runs/debug-merged

    Ten seconds on 2 cores; any other kind as well: --adapter.kind prompt, prefix, ia3.
    """
    return Experiment(
        name="debug-lora",
        model=GPTConfig(vocab=264, positions=256, layers=4, embed=64, heads=4, mlp=256),
        adapter=AdapterConfig(kind="lora"),
        data=DataConfig(store="embedded:bytes:2", seed=1),
        optimizer=OptimizerConfig(
            learning_rate=1e-2, schedule=ScheduleConfig(kind="linear", warmup_steps=5)
        ),
        steps=20,
        batch=16,
        length=128,
        checkpoint=CheckpointConfig(every_steps=10),
        evaluation=EvaluationConfig(every_steps=20, rows=8),
        logging=LoggingConfig(every_steps=5),
    )
