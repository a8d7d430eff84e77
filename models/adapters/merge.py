"""An adapter taken into the weights it adapts, in float32, and what their dtype makes of it."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gesso.models.adapters.adapters import AdapterError, adapted_names, side
from gesso.models.adapters.config import AdapterConfig
from gesso.models.layers.operators import inner_outer
from gesso.models.trees import Leaves, Params, flat, nest


@dataclass(frozen=True, kw_only=True)
class Merged:
    """params: the base's, numpy, in the dtypes it had or was asked for. changed: elements the
    adapter would change, by parameter; lost: those of them that the dtype rounded back."""

    params: Params
    changed: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    @property
    def lost_share(self) -> float:
        """Of all changes, those that the dtype rounded away."""
        return sum(self.lost.values()) / max(sum(self.changed.values()), 1)


def merge(
    base: Params, adapter: Params, config: AdapterConfig, letters: Params, dtype: str = ""
) -> Merged:
    """The base's parameters with LoRA's or (IA)3's product in them: W + scale A B, or W * by.

    base, adapter: numpy or JAX arrays. letters: of the base. dtype: of the result ("": the base's).
    One parameter at a time; the sum is in float32 whatever they are stored in. Raises AdapterError
    for a kind that is no change of weights.
    """
    if config.kind not in ("lora", "ia3"):
        raise AdapterError(
            f"an adapter of kind {config.kind} is not a change of weights and cannot be merged;"
            " keep it beside its base (gesso adapter export writes prompts for peft)"
        )
    params, parts, spelled = dict(flat(base)), flat(adapter), flat(letters)
    changed, lost = {}, {}
    for name in adapted_names(adapter):
        for whose, delta in _changes(config, name, params, parts, spelled[name]).items():
            was = np.asarray(params[whose])
            stored = was.astype(dtype or was.dtype)
            exact = was.astype(np.float32) + delta
            params[whose] = exact.astype(stored.dtype)
            moved = exact != was.astype(np.float32)
            changed[whose] = int(moved.sum())
            lost[whose] = int((moved & (params[whose] == stored)).sum())
    if dtype:
        params = {name: np.asarray(x).astype(dtype) for name, x in params.items()}
    return Merged(params=nest(params), changed=changed, lost=lost)


def product(a: ArrayLike, b: ArrayLike, letters: str, scale: float) -> np.ndarray:
    """scale A B, what a LoRA adds to the weight spelled by `letters`, in float32."""
    layers = "Z" if letters.startswith("Z") else ""
    inner, outer = inner_outer(letters)
    made = jnp.einsum(
        f"{layers}{inner}I,{layers}I{outer}->{letters}",
        jnp.asarray(a, jnp.float32),
        jnp.asarray(b, jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return np.asarray(made) * np.float32(scale)


def _changes(
    config: AdapterConfig, name: str, params: Leaves, parts: Leaves, letters: str
) -> dict[str, np.ndarray]:
    """What is added to a parameter, and to its bias, in float32."""
    base = np.asarray(params[name]).astype(np.float32)
    if config.kind == "lora":
        return {name: product(parts[f"{name}/a"], parts[f"{name}/b"], letters, config.scale)}
    by = np.asarray(parts[f"{name}/by"]).astype(np.float32)
    layers, own = by.shape[:1], by.shape[1:]
    if side(name) == "in":
        return {name: base * (by.reshape(*layers, *own, *[1] * (base.ndim - by.ndim)) - 1)}
    made = {name: base * (by.reshape(*layers, *[1] * (base.ndim - by.ndim), *own) - 1)}
    if (bias := f"{name}_bias") in params:
        made[bias] = np.asarray(params[bias]).astype(np.float32) * (by - 1)
    return made
