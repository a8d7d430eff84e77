"""Cross-entropy over the vocabulary, a part of the tokens at a time where memory asks for it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gesso.partitioning.axes import einsum, in_use, shard


class Scored(NamedTuple):
    """Of each position, f32[B, L]: the target's negative log-likelihood in nats, the log of the
    normaliser Z, whether no other id was likelier (1 or 0; it has no gradient), and the mean of the
    negative log-likelihoods of all ids (label smoothing)."""

    nll_BL: jax.Array
    log_z_BL: jax.Array
    correct_BL: jax.Array
    mean_nll_BL: jax.Array


def cross_entropy(
    x_BLD: jax.Array,
    targets_BL: jax.Array,
    table_VD: jax.Array,
    bias_V: jax.Array | None,
    *,
    chunk_tokens: int,
) -> Scored:
    """What the targets cost.

    chunk_tokens: at most about this many tokens' float32 logits exist at once (whole columns of the
    batch; as many equal chunks as divide L), forward and backward, at the price of computing them
    twice; 0 = all at once. Chunks are columns L / chunks apart, so that a batch split over B or L
    stays where it is.
    """
    rows, length = targets_BL.shape
    chunks = _chunks(rows, length, chunk_tokens) if chunk_tokens else 1
    if chunks == 1:
        return _from_features(x_BLD, targets_BL, table_VD, bias_V)

    def one(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, Scored]:
        x_BLD, targets_BL = shard(part[0], "BLD"), shard(part[1], "BL")
        return None, _from_features(x_BLD, targets_BL, table_VD, bias_V)

    table_VD = in_use(table_VD, "VD")  # gathered once, not once per chunk
    columns = length // chunks
    parts = (
        jnp.moveaxis(x_BLD.reshape(rows, columns, chunks, -1), 2, 0),
        jnp.moveaxis(targets_BL.reshape(rows, columns, chunks), 2, 0),
    )
    _, scored = jax.lax.scan(jax.checkpoint(one, prevent_cse=False), None, parts)
    whole = (jnp.moveaxis(each, 0, 2).reshape(rows, length) for each in scored)
    return Scored(*(shard(each, "BL") for each in whole))


def _chunks(rows: int, length: int, chunk_tokens: int) -> int:
    """The fewest equal chunks of whole columns that hold at most `chunk_tokens` tokens each."""
    return next(
        n
        for n in range(1, length + 1)
        if length % n == 0 and (n == length or rows * length <= n * chunk_tokens)
    )


@jax.custom_vjp
def _from_features(
    x_BLD: jax.Array, targets_BL: jax.Array, table_VD: jax.Array, bias_V: jax.Array | None
) -> Scored:
    return _forward(x_BLD, targets_BL, table_VD, bias_V)[0]


def _forward(x_BLD, targets_BL, table_VD, bias_V):
    logits_BLV = einsum("BLD,VD->BLV", x_BLD, table_VD, preferred_element_type=jnp.float32)
    if bias_V is not None:
        logits_BLV = logits_BLV + shard(bias_V, "V")
    highest_BL1 = jax.lax.stop_gradient(logits_BLV.max(-1, keepdims=True))
    log_z_BL = jnp.log(jnp.exp(logits_BLV - highest_BL1).sum(-1)) + highest_BL1[..., 0]
    # A comparison, not a gather: where the vocabulary is split, every device looks at its own part.
    picked_BL = jnp.where(_hits(logits_BLV, targets_BL), logits_BLV, 0).sum(-1)
    correct_BL = (picked_BL >= highest_BL1[..., 0]).astype(jnp.float32)
    mean_nll_BL = log_z_BL - logits_BLV.mean(-1)  # computed where somebody uses it
    scored = Scored(log_z_BL - picked_BL, log_z_BL, correct_BL, mean_nll_BL)
    return scored, (x_BLD, targets_BL, table_VD, bias_V, logits_BLV, log_z_BL)


def _backward(saved, gradients):
    x_BLD, targets_BL, table_VD, bias_V, logits_BLV, log_z_BL = saved
    dnll_BL, dlog_z_BL, _, dmean_BL = gradients
    # d nll = softmax - one-hot, d log Z = softmax, d mean = softmax - 1 / V: one pass over the
    # logits, which are all that is kept of this size. The products then run in the dtype of the
    # features.
    softmax_BLV = jnp.exp(logits_BLV - log_z_BL[..., None])
    d_BLV = softmax_BLV * (dnll_BL + dlog_z_BL + dmean_BL)[..., None]
    d_BLV = d_BLV - (dmean_BL / logits_BLV.shape[-1])[..., None]
    d_BLV = jnp.where(_hits(logits_BLV, targets_BL), d_BLV - dnll_BL[..., None], d_BLV)
    dbias_V = None if bias_V is None else d_BLV.sum((0, 1)).astype(bias_V.dtype)
    d_BLV = shard(d_BLV.astype(x_BLD.dtype), "BLV")
    dx_BLD = einsum("BLV,VD->BLD", d_BLV, table_VD)
    dtable_VD = einsum("BLV,BLD->VD", d_BLV, x_BLD)
    return dx_BLD, None, dtable_VD, dbias_V


def _hits(logits_BLV, targets_BL):
    vocab = jax.lax.broadcasted_iota(jnp.int32, logits_BLV.shape, 2)
    return vocab == targets_BL[..., None]


_from_features.defvjp(_forward, _backward)
