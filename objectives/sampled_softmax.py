"""Cross-entropy over the target and a sample of the vocabulary, where the whole is too large."""

import jax
import jax.numpy as jnp

from partitioning.axes import at_rest, einsum, shard

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

    Ids below `classes` are drawn from `log_uniform`, with replacement and once for all places; each
    logit is lowered by the log of how often its id is expected among the samples, so that the sum
    over the samples estimates the sum over the vocabulary (https://arxiv.org/abs/1412.2007,
    TensorFlow's sampled_softmax_loss). A sampled id that is a place's target counts once there.
    """
    sampled_V = log_uniform(key, classes=classes, samples=samples)
    log_samples = jnp.log(jnp.float32(samples))

    def rows(ids: jax.Array, letters: str) -> tuple[jax.Array, jax.Array]:
        # Rows are taken where the table rests: all of it is never gathered.
        found = at_rest(table_VD, "VD").at[ids].get(mode="clip")
        corrected = bias_V[ids] - (log_uniform_share(ids, classes=classes) + log_samples)
        return shard(found, letters + "D"), corrected

    sampled_VD, lowered_V = rows(sampled_V, "V")
    target_BLD, lowered_BL = rows(targets_BL, "BL")
    logits_BLV = einsum("BLD,VD->BLV", x_BLD, sampled_VD, preferred_element_type=jnp.float32)
    logits_BLV = logits_BLV + shard(lowered_V, "V")
    logits_BLV = jnp.where(sampled_V == targets_BL[..., None], _NEVER, logits_BLV)
    product_BLD = x_BLD.astype(jnp.float32) * target_BLD.astype(jnp.float32)
    target_logit_BL = product_BLD.sum(-1) + lowered_BL
    log_z_BL = jnp.logaddexp(jax.nn.logsumexp(logits_BLV, axis=-1), target_logit_BL)
    return shard(log_z_BL - target_logit_BL, "BL")


def log_uniform(key: jax.Array, *, classes: int, samples: int) -> jax.Array:
    """Ids i32[samples]; k is drawn with probability log((k + 2) / (k + 1)) / log(classes + 1), near
    to how often words occur when ids are sorted by their frequency."""
    uniform = jax.random.uniform(key, (samples,))
    drawn = jnp.exp(uniform * jnp.log(jnp.float32(classes + 1))).astype(jnp.int32) - 1
    return jnp.clip(drawn, 0, classes - 1)  # rounding may go one too far


def log_uniform_share(ids: jax.Array, *, classes: int) -> jax.Array:
    """The log of the probability of each id, float32."""
    return jnp.log(jnp.log1p(1 / (ids.astype(jnp.float32) + 1)) / jnp.log(jnp.float32(classes + 1)))
