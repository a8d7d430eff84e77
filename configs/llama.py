"""Runs of Llama's shape, and where each number is from."""

from typing import Any

from gesso.configs.debug import SMALL, debug
from gesso.configs.recipes import recipe
from gesso.data.config import DataConfig
from gesso.models.config import GPTConfig
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.config import OptimizerConfig, ScheduleConfig
from gesso.pretrain.experiment import Experiment

_NORMS = ("*norm*",)  # what is not decayed: there are no biases
# What all Llamas are, whatever their sizes.
_LLAMA: dict[str, Any] = {
    "position_encoding": "rotary",
    "rotation": "half",
    "norm_kind": "rms",
    "gating": "gated",
    "activation": "silu",
    "biases": (),
}


def debug_llama() -> Experiment:
    """Llama's block (RMS norms, gated SiLU, two query heads to a key, rotary on whole heads, an
    untied head) at toy size, on 2 MB of the embedded corpus as bytes.

        gesso pretrain debug-llama
    """
    model = GPTConfig(**SMALL | {"mlp": 176}, **_LLAMA, key_heads=2, rotary_dims=16, head="untied")
    return debug("debug-llama", model, no_decay=_NORMS)


def llama_1_1b() -> Experiment:
    """TinyLlama 1.1B, 22 layers of 2048, 32 query heads on 4 keys, rows of 2048.

        gesso pretrain llama-1.1b --data.store stores/slimpajama-llama --mesh.fsdp 16

    Zhang et al. 2024 (https://arxiv.org/abs/2401.02385, sections 2.2 and 2.3; shape: the released
    config.json): AdamW (0.9, 0.95), 4e-4 after 2,000 updates, cosine to a tenth, decay 0.1,
    clipping at 1, batches of 2M tokens: 1,430,000 updates of 1024 rows are its 3e12 tokens of
    SlimPajama and Starcoderdata. Tokenizer: Llama's sentencepiece of 32,000 ids.

    Hardware: 16 A100 of 40 GB as published, or a TPU v4-32.
    """
    return recipe(
        "llama-1.1b",
        model=GPTConfig(
            vocab=32_000,
            positions=2048,
            layers=22,
            embed=2048,
            heads=32,
            key_heads=4,
            mlp=5632,
            rotary_dims=64,
            head="untied",
            remat="full",
            **_LLAMA,
        ),
        data=DataConfig(store="stores/slimpajama-llama", packing="concat"),
        optimizer=OptimizerConfig(
            learning_rate=4e-4,
            schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, final=0.1),
            b1=0.9,
            b2=0.95,
            weight_decay=0.1,
            no_decay=_NORMS,
            clip_norm=1.0,
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=1_430_000,
        batch=1024,
        length=2048,
        microbatches=8,
    )
