"""Cross-entropy over the target and a sample of the vocabulary, where the whole is too large."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from gesso.partitioning.axes import at_rest, einsum, shard

_NEVER = -1e30  # a logit without a share of any sum, and without a NaN in its gradient


def sampled_cross_entropy(
    x_BLD: jax.Array,
    targets_BL: jax.Array,
    table_VD: jax.Array,
    bias_V: jax.Array,
    *,
    classes: int,
    samples: int,
    key: jax.Array,
) -> jax.Array:
    """What the targets cost, f32[B, L] in nats, among themselves and `samples` sampled ids.

    Different ids below `classes` are drawn once for all places. Every logit, the target's too, is
    lowered by the log of the probability that its id is drawn (https://arxiv.org/abs/1412.2007; as
    TensorFlow's sampled_softmax_loss), so that the best model is that of the full softmax; where
    all classes are drawn it is the full softmax. A sampled id that is a place's target counts once.
    """
    sampled_V = draw(key, classes=classes, samples=samples)

    def rows(ids: jax.Array, letters: str) -> tuple[jax.Array, jax.Array]:
        # Rows are taken where the table rests: all of it is never gathered.
        found = at_rest(table_VD, "VD").at[ids].get(mode="clip")
        lowered = bias_V[ids] - log_inclusion(ids, classes=classes, samples=samples)
        return shard(found, letters + "D"), lowered

    sampled_VD, lowered_V = rows(sampled_V, "V")
    target_BLD, lowered_BL = rows(targets_BL, "BL")
    logits_BLV = einsum("BLD,VD->BLV", x_BLD, sampled_VD, preferred_element_type=jnp.float32)
    logits_BLV = logits_BLV + shard(lowered_V, "V")
    logits_BLV = jnp.where(sampled_V == targets_BL[..., None], _NEVER, logits_BLV)
    product_BLD = x_BLD.astype(jnp.float32) * target_BLD.astype(jnp.float32)
    target_logit_BL = product_BLD.sum(-1) + lowered_BL
    log_z_BL = jnp.logaddexp(jax.nn.logsumexp(logits_BLV, axis=-1), target_logit_BL)
    return shard(log_z_BL - target_logit_BL, "BL")


def draw(key: jax.Array, *, classes: int, samples: int) -> jax.Array:
    """Different ids i32[samples], drawn one after the other with probabilities in proportion to
    log((k + 2) / (k + 1)): near to how often words occur when ids are sorted by frequency."""
    # The largest sums of log weight and Gumbel noise are such a draw.
    weighed = jnp.log(jnp.log1p(1 / (jnp.arange(classes, dtype=jnp.float32) + 1)))
    noise = jax.random.gumbel(key, (classes,))
    return jax.lax.top_k(weighed + noise, samples)[1].astype(jnp.int32)


def log_inclusion(ids: jax.Array, *, classes: int, samples: int) -> jax.Array:
    """The log of the probability that each id is among `draw`'s, float32: 1 - (1 - p)^tries, where
    so many tries with replacement are expected to find `samples` different ids."""
    if samples == classes:
        return jnp.zeros(ids.shape, jnp.float32)
    share = jnp.log1p(1 / (ids.astype(jnp.float32) + 1)) / math.log(classes + 1)
    return jnp.log(-jnp.expm1(_tries(classes, samples) * jnp.log1p(-share)))


@functools.lru_cache(maxsize=8)
def _tries(classes: int, samples: int) -> float:
    missed = np.log1p(-np.log1p(1 / np.arange(1.0, classes + 1)) / math.log(classes + 1))
    low, high = 0.0, float(samples)
    while -np.expm1(high * missed).sum() < samples and high < 1e15:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        few = -np.expm1(middle * missed).sum() < samples
        low, high = (middle, high) if few else (low, middle)
    return high
