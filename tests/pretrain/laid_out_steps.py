"""Every family's real training step at toy size, laid out on every mesh of eight devices."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from gesso import configs
from gesso.models import BERTConfig, EncoderDecoderConfig, GPTConfig
from gesso.objectives.kinds import build as build_objective
from gesso.partitioning.config import MeshConfig
from gesso.planning.plan import SEPARATOR, any_tokenizer, lay_out
from gesso.pretrain.checks import validate
from gesso.pretrain.experiment import override
from gesso.pretrain.setup import parts_and_optimizer
from gesso.pretrain.state import init_state

MESHES = {
    "replicated": ("replicated", MeshConfig(data=8)),
    "fsdp": ("fsdp", MeshConfig(data=2, fsdp=4)),
    "tensor": ("tensor", MeshConfig(data=4, tensor=2)),
    "fsdp_tensor": ("fsdp_tensor", MeshConfig(data=2, fsdp=2, tensor=2)),
    "sequence": ("fsdp", MeshConfig(data=1, fsdp=4, sequence=2)),
    "sequence_tensor": ("fsdp_tensor", MeshConfig(data=1, fsdp=2, sequence=2, tensor=2)),
    "fsdp_optimizer": ("fsdp_optimizer", MeshConfig(data=2, fsdp=4)),
    "replica": ("fsdp_tensor", MeshConfig(replica=2, data=1, fsdp=2, tensor=2)),
}
_GPT = {
    "model.layers": 2,
    "model.embed": 32,
    "model.mlp": 64,
    "model.positions": 32,
    "model.heads": 4,
    "model.attention_dropout": 0.0,
    "model.residual_dropout": 0.0,
    "model.embedding_dropout": 0.0,
    "length": 32,
}
_BYTES = {"model.vocab": 264}
_BERT = _GPT | {"model.vocab": 272, "length": 32}
_T5 = {"model.embed": 32, "model.mlp": 64, "model.head_dim": 8, "length": 32}
_SIDE = {"vocab": 264, "positions": 64, "layers": 2, "heads": 4, "mlp": 64}
_WIDE = BERTConfig(**_SIDE, embed=48, outputs=())
_JOINED = {
    "bert2bert": EncoderDecoderConfig(encoder=_WIDE, decoder=BERTConfig(**_SIDE, embed=32)),
    "bert2gpt": EncoderDecoderConfig(encoder=_WIDE, decoder=GPTConfig(**_SIDE, embed=32)),
}
# family -> (the experiment it is made of, what makes that small)
FAMILIES = {
    "gpt1": ("gpt1-117m", _GPT | _BYTES),
    "gpt2": ("debug-gpt2", _GPT),
    "gpt_neo": ("debug-gpt-neo", _GPT),
    "gpt_j": ("debug-gpt-j", _GPT),
    "gpt_neox": ("debug-gpt-neox", _GPT),
    "bert": ("debug-bert", _BERT),
    "roberta": ("roberta-base", _BERT | {"model.positions": 34}),
    "elmo": ("debug-elmo", {"model.vocab": 264, "model.embed": 32, "model.cell": 64, "length": 8}),
    "transformer": ("debug-transformer", _T5),
    "t5": ("debug-t5", _T5),
    "t5_1_1": (
        "t5-v1.1-small",
        _T5 | {"model.vocab": 384, "model.heads": 4, "objective.first_sentinel": 383},
    ),
    "bert2bert": ("debug-transformer", {"length": 32}),
    "bert2gpt": ("debug-transformer", {"length": 32}),
}
RECURRENT = ("elmo",)  # a row is read one token after the other: its length is not split


def experiment(family: str, mesh: str):
    """The toy experiment of a family on a mesh; mesh "single" is one device."""
    name, changes = FAMILIES[family]
    layout, sizes = MESHES.get(mesh, ("replicated", MeshConfig(data=1)))
    made = override(configs.experiment(name), {"batch": 16, "microbatches": 1} | changes)
    if family in _JOINED:
        made = dataclasses.replace(made, model=_JOINED[family])
    single_precision = dataclasses.replace(made.precision, compute="float32")
    made = dataclasses.replace(
        made, layout=layout, mesh=sizes, precision=single_precision, name=family
    )
    validate(made, devices=len(devices_of(mesh)))
    return made


def devices_of(mesh: str):
    return jax.devices()[: 1 if mesh == "single" else 8]


def random_batch(made, seed: int = 0):
    """Packed rows of documents of random lengths, then padding, as the objective makes a batch of
    them."""
    e = made.experiment
    random, tokenizer = np.random.default_rng(seed), any_tokenizer(e.model)
    letters = np.random.default_rng(1).integers(1, 250, tokenizer.spelling.shape)
    tokenizer.spelling = letters.astype(np.uint16)
    objective = build_objective(e.objective, tokenizer=tokenizer, model=e.model)
    width = objective.row_length(e.length)
    rows = {
        name: np.zeros((e.batch, width), np.int32) for name in ("tokens", "segments", "positions")
    }
    for row in range(e.batch):
        at = number = 0
        # An objective adds its own tokens to every piece.
        while (room := width - row % 4 - at - (number + 1) * objective.overhead) >= 3:
            end = at + min(room, int(random.integers(3, max(5, width // 2))))
            number += 1
            rows["segments"][row, at:end] = number
            rows["positions"][row, at:end] = np.arange(end - at)
            at = end
    drawn = random.integers(10, 130, (e.batch, width)).astype(np.int32)
    drawn[rows["positions"] == 2] = (
        SEPARATOR  # between a source and its target, where there are any
    )
    rows["tokens"] = np.where(rows["segments"] > 0, drawn, 0)
    if objective.companions:
        rows |= {f"other_{name}": np.roll(leaf, 1, axis=0) for name, leaf in rows.items()}
    component = (np.arange(e.batch) % 3).astype(np.int32)
    rows |= {"component": component, "row": np.arange(e.batch, dtype=np.int64)}
    return objective.host_batch(rows) | {"row_crc": np.arange(e.batch, dtype=np.uint32)}


def born(made):
    """The first state of a laid out experiment, on its mesh, drawn there."""
    e = made.experiment
    parts, optimizer = parts_and_optimizer(e, made.model, range(e.steps))
    return init_state(
        made.model,
        optimizer,
        seed=0,
        mesh=made.mesh,
        layout=made.layout,
        dtype=e.precision.params,
        carry=made.objective.carry,
        rows=e.batch,
        parts=parts,
    )


def laid_out(family: str, mesh: str):
    return lay_out(experiment(family, mesh), devices_of(mesh))


@contextlib.contextmanager
def compiler_says() -> Iterator[list[str]]:
    """The lines that C++ writes to standard error inside, filled in at the end. Nothing is taken
    from the compilation cache: what was compiled before says nothing."""
    lines: list[str] = []
    settings: Any = jax.config
    kept, cached = os.dup(2), settings.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    with tempfile.TemporaryFile() as taken:
        os.dup2(taken.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            jax.config.update("jax_enable_compilation_cache", cached)
            compilation_cache.reset_cache()
            taken.seek(0)
            lines += taken.read().decode(errors="replace").splitlines()
