"""The jobs of benchmarks/gpu.sh, the most telling first: what is measured, and in which process."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

PARTS = ("packs", "steps", "attention", "trace")

# Settings of XLA:GPU that change what a step costs. XLA's own rematerialization repeats matrix
# products of activations that were saved on purpose; its Triton products are sometimes slower
# than cuBLAS.
FLAGS = {
    "": "",
    "no_xla_remat": "--xla_disable_hlo_passes=rematerialization",
    "no_triton_gemm": "--xla_gpu_enable_triton_gemm=false",
    "both": "--xla_disable_hlo_passes=rematerialization --xla_gpu_enable_triton_gemm=false",
    "latency_hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "no_command_buffer": "--xla_gpu_enable_command_buffer=",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process. `module` is given `specification` as JSON; it is stopped after `seconds`."""

    part: str
    name: str
    module: str
    specification: dict[str, Any]
    seconds: int = 150
    xla_flags: str = ""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """A model and its batch on one GPU. layers: 0 = all that the experiment has."""

    experiment: str
    length: int
    batch: int
    remat: str
    layers: int = 0
    seconds: int = 150


# GPT-J's four layers stand in for all 28 where those do not fit or time is short.
SHAPES = {
    "gpt-neo-125m": Shape("gpt-neo-125m", 2048, 16, "none"),
    "gpt2-124m": Shape("gpt2-124m", 1024, 32, "none"),
    "gpt-neo-1.3b": Shape("gpt-neo-1.3b", 2048, 8, "none"),
    "gpt-j-6b-4-layers": Shape("gpt-j-6b", 2048, 8, "none", layers=4),
    "gpt-j-6b": Shape("gpt-j-6b", 2048, 8, "full", seconds=280),
}


def jobs(*, device: str, tiny: bool, packs: str) -> list[Job]:
    """All of them, in the order they should run; `packs` is the folder of reference packs."""
    every = [*_packs(device, packs), *_steps(device), *_attention(device), *_trace(device)]
    common = {"device": device, "tiny": tiny}
    made: dict[tuple[str, str], Job] = {}
    for each in every:
        # Without cudnn two lists of changes can name the same job.
        made.setdefault(
            (each.part, each.name), replace(each, specification=each.specification | common)
        )
    return list(made.values())


def _packs(device: str, folder: str) -> Iterator[Job]:
    for compute, attention in (
        ("float32", "blocks"),
        ("float32", "dense"),
        ("bfloat16", "blocks"),
        ("bfloat16", "cudnn"),
    ):
        if attention == "cudnn" and device == "cpu":
            continue
        spec = {"packs": folder, "compute": compute, "attention": attention}
        yield Job(
            part="packs", name=f"{compute}-{attention}", module="gpu_packs", specification=spec
        )


def _steps(device: str) -> Iterator[Job]:
    fast = "cudnn" if device == "gpu" else "blocks"
    # First what every shape reaches, beside torch; then packed rows, then one change at a time.
    for shape in SHAPES:
        yield _ours(shape, attention=fast, rows="single")
        yield _torch(shape, attention="flash")
    yield _ours("gpt-j-6b", attention=fast, rows="single", remat="save_qkv_attention_mlp")
    yield _ours(
        "gpt-j-6b",
        attention=fast,
        rows="single",
        remat="save_qkv_attention_mlp",
        flags="no_xla_remat",
    )
    for shape in SHAPES:
        yield _ours(shape, attention="blocks", rows="packed")
    for shape in ("gpt-neo-1.3b", "gpt-j-6b-4-layers"):
        for flags in [name for name in FLAGS if name]:
            yield _ours(shape, attention=fast, rows="single", flags=flags)
        yield _ours(shape, attention=fast, rows="packed")
        yield _ours(shape, attention=fast, rows="single", remat="full")
        yield _ours(shape, attention=fast, rows="single", remat="dots")
        yield _ours(shape, attention=fast, rows="single", remat="save_qkv_attention_mlp")
        yield _ours(shape, attention="dense", rows="single", remat="save_qkv_attention_mlp")
        yield _ours(shape, attention=fast, rows="single", unroll=2)
        yield _ours(shape, attention=fast, rows="single", chunk_tokens=2048)
        yield _torch(shape, attention="cudnn")
        yield _torch(shape, attention="flash", mode="max-autotune-no-cudagraphs")


def _ours(shape: str, *, flags: str = "", **changes: Any) -> Job:
    spec = vars(SHAPES[shape]) | {"shape": shape, "flags": flags} | changes
    told = [str(v) if isinstance(v, str) else f"{k}{v}" for k, v in changes.items()]
    return Job(
        part="steps",
        name="-".join([shape, "ours", *told, *([flags] if flags else [])]),
        module="gpu_steps",
        specification=spec,
        seconds=SHAPES[shape].seconds,
        xla_flags=FLAGS[flags],
    )


def _torch(shape: str, *, attention: str, mode: str = "default") -> Job:
    spec = vars(SHAPES[shape]) | {"shape": shape, "attention": attention, "mode": mode}
    told = [] if mode == "default" else [mode]
    return Job(
        part="steps",
        name="-".join([shape, "torch", attention, *told]),
        module="gpu_torch",
        specification=spec | {"measure": "steps"},
        seconds=SHAPES[shape].seconds,
    )


def _attention(device: str) -> Iterator[Job]:
    for head_dim in (64, 128, 256):
        spec = {"head_dim": head_dim, "embed": 4096, "batch": 4, "length": 2048}
        yield Job(
            part="attention",
            name=f"ours-{head_dim}",
            module="gpu_attention",
            specification=spec,
        )
        yield Job(
            part="attention",
            name=f"torch-{head_dim}",
            module="gpu_torch",
            specification=spec | {"measure": "attention"},
        )


def _trace(device: str) -> Iterator[Job]:
    fast = "cudnn" if device == "gpu" else "blocks"
    for shape in ("gpt-neo-125m", "gpt-j-6b-4-layers"):
        spec = _ours(shape, attention=fast, rows="single").specification
        yield Job(
            part="trace", name=shape, module="gpu_steps", specification=spec | {"trace": True}
        )
