"""Causal attention, forward alone and with its backward pass: ours and JAX's, for one head dim."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Literal

import jax
import jax.numpy as jnp

from benchmarks.gpu_shapes import attention_flops, attention_sizes
from benchmarks.record import job, timed
from gesso.models.layers.kernels import blocks, cudnn, dense


def main() -> None:
    spec, record = job()
    device = jax.devices()[0]
    record.add({"device": device.device_kind, "jax": jax.__version__})
    if spec["device"] == "gpu" and device.platform != "gpu":
        raise SystemExit(f"jax sees no GPU here, only {jax.devices()}")
    batch, length, heads, head_dim = attention_sizes(spec)
    shape = (batch, length, heads, head_dim)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, dy = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
    found: dict[str, Any] = {}
    record.add({"shape": f"{batch} x {length} x {heads} x {head_dim}", "variants": found})
    for name, attend in variants(spec, head_dim):
        forward = jax.jit(attend)
        both = jax.jit(
            jax.grad(
                lambda q, k, v, attend=attend: jnp.sum(attend(q, k, v) * dy, dtype=jnp.float32),
                argnums=(0, 1, 2),
            )
        )
        try:
            found[name] = {}
            for what, run in (("forward", forward), ("both", both)):
                timing = timed(
                    lambda run=run: run(q, k, v), jax.block_until_ready, window_seconds=0.3
                )
                work = attention_flops(spec) * (1.0 if what == "forward" else 3.5)
                found[name][what] = asdict(timing) | {
                    "teraflops": round(work / timing.median / 1e12, 3)
                }
                record.add({"variants": found})
        except Exception as error:  # what one implementation refuses is a figure too
            found[name]["failed"] = f"{type(error).__name__}: {error}"[:300]
            record.add({"variants": found})


def variants(spec: dict[str, Any], head_dim: int) -> Iterator[tuple[str, Callable[..., Any]]]:
    ours: dict[str, Any] = {
        "segments_BL": None,
        "window": None,
        "scale": head_dim**-0.5,
        "logits": "float32",
        "rate": 0.0,
        "key": None,
    }
    every = {"blocks": blocks, "dense": dense, "cudnn": cudnn}
    on_gpu = spec["device"] == "gpu"
    for name, function in every.items():
        if name != "cudnn" or on_gpu:
            yield name, lambda q, k, v, f=function: f(q, k, v, **ours)
    batch, length, _, _ = attention_sizes(spec)
    segments = jnp.arange(length)[None] * 4 // length + jnp.ones((batch, 1), jnp.int32)
    for name in ("blocks", "cudnn"):
        if name != "cudnn" or on_gpu:
            yield (
                f"{name}, 4 documents a row",
                lambda q, k, v, f=every[name]: f(q, k, v, **ours | {"segments_BL": segments}),
            )
    kinds: tuple[Literal["xla", "cudnn"], ...] = ("xla", "cudnn") if on_gpu else ("xla",)
    for implementation in kinds:
        attend = functools.partial(
            jax.nn.dot_product_attention,
            is_causal=True,
            scale=head_dim**-0.5,
            implementation=implementation,
        )
        yield f"jax.nn {implementation}", attend


if __name__ == "__main__":
    main()
