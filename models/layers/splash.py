"""The fused attention of TPUs: JAX's own Pallas kernel on every device's rows and heads.

Logits stay in the chip's own memory, 512 queries by 512 keys at a time, and blocks that no query
sees are skipped. The kernel is jax.experimental.pallas.ops.tpu.splash_attention.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gesso.partitioning.axes import current, spec

INTERPRET = False  # tests run the kernel's program without a TPU
_BLOCKS = (512, 256, 128)  # 1024 do not fit a v5e's vector memory with heads of 256


def runs_here(length: int) -> bool:
    """Whether rows of this length are for the kernel, on the devices that are being traced for."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return (platform == "tpu" or INTERPRET) and length % _BLOCKS[-1] == 0


def fused_attention(
    q_BLNH: jax.Array,
    k_BLNH: jax.Array,
    v_BLNH: jax.Array,
    *,
    segments_BL: jax.Array | None,
    window: int | None,
    scale: float,
) -> jax.Array:
    """Causal attention within segments, BLNH; of padding (segment 0) to padding. Its result and the
    softmax's sums are what remat policies call "attention"."""
    q_BLNH = (q_BLNH.astype(jnp.float32) * scale).astype(q_BLNH.dtype)
    if segments_BL is None:
        segments_BL = jnp.ones(q_BLNH.shape[:2], jnp.int32)
    layout = current()
    if layout is None:
        return _on_each(q_BLNH, k_BLNH, v_BLNH, segments_BL, window=window)
    # Whole rows on any mesh: queries are placed as keys are, whose places (S) no axis splits.
    heads, rows = spec("BSNH", layout.in_flight), spec("BS", layout.in_flight)
    return jax.shard_map(
        lambda *arrays: _on_each(*arrays, window=window),
        in_specs=(heads, heads, heads, rows),
        out_specs=heads,
        check_vma=False,
    )(q_BLNH, k_BLNH, v_BLNH, segments_BL)


def _on_each(
    q_BLNH: jax.Array,
    k_BLNH: jax.Array,
    v_BLNH: jax.Array,
    segments_BL: jax.Array,
    *,
    window: int | None,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, length, heads, _ = q_BLNH.shape
    square = (length, length)
    if window is None or window >= length:
        mask = masks.CausalMask(square)
    else:
        mask = masks.LocalMask(square, (window - 1, 0), 0)
    block = next(each for each in _BLOCKS if length % each == 0)
    sizes = kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        residual_checkpoint_name="attention",
        interpret=INTERPRET,
    )

    def row(q_LNH, k_LNH, v_LNH, segments_L):
        q_NLH, k_NLH, v_NLH = (x.swapaxes(0, 1) for x in (q_LNH, k_LNH, v_LNH))
        y_NLH: Any = attend(q_NLH, k_NLH, v_NLH, kernel.SegmentIds(segments_L, segments_L))
        return y_NLH.swapaxes(0, 1)

    return jax.vmap(row)(q_BLNH, k_BLNH, v_BLNH, segments_BL)
