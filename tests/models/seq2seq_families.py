"""Small encoder-decoders with every published difference, and rows of several pieces for them."""

import jax
import numpy as np

from gesso.models import Seq2SeqConfig

SHAPE = {"vocab": 64, "embed": 32, "heads": 4, "mlp": 64}
T5 = {
    "position_encoding": "relative",
    "relative_buckets": 8,
    "relative_distance": 12,
    "embedding_scale": "none",
    "norm_kind": "rms",
    "attention_scale": "none",
    "embed_std": 1.0,
}
FAMILIES = {
    "transformer": Seq2SeqConfig(
        **SHAPE, head_dim=8, norm="post", biases=("mlp",), init="fan_average", embed_std=32**-0.5
    ),
    "learned": Seq2SeqConfig(
        **SHAPE,
        head_dim=8,
        decoder_layers=3,
        positions=36,
        position_encoding="learned",
        embedding="separate",
        head="untied",
        activation="gelu",
        biases=("qkv", "attention_out", "mlp", "head"),
    ),
    "t5": Seq2SeqConfig(**SHAPE, **T5, head_dim=12, head_scale="rsqrt_embed"),
    "t5_1_1": Seq2SeqConfig(
        **SHAPE, **T5, head_dim=8, head="untied", gating="gated", activation="gelu_tanh"
    ),
}
NAMES = ("source", "source_segments", "source_positions", "tokens", "segments", "positions")


def params_of(model, seed=0):
    """Random parameters drawn by numpy, which compiles nothing; biases and norms take part."""
    generator = np.random.default_rng(seed)

    def draw(letters, shape):
        values = generator.standard_normal(shape.shape, np.float32)
        if letters.strip("Z") in ("D", "F", "V", "NH"):
            return 0.1 * values + (letters.endswith("D") and 0.5)
        return values * (0.5 if "V" in letters else 32**-0.5)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(draw, model.letters, shapes)


def rows_of(pieces, *, rows, source, length):
    """A batch of `pieces`: (row, source ids, target ids) each; places behind them are padding."""
    batch = {
        name: np.zeros((rows, source if name.startswith("source") else length), np.int32)
        for name in NAMES
    }
    used = np.zeros((3, rows), np.int32)
    for row, *sides in pieces:
        used[2, row] += 1
        for side, (prefix, ids) in enumerate(zip(("source_", ""), sides, strict=True)):
            place = slice(used[side, row], used[side, row] + len(ids))
            batch["source" if prefix else "tokens"][row, place] = ids
            batch[f"{prefix}segments"][row, place] = used[2, row]
            batch[f"{prefix}positions"][row, place] = np.arange(len(ids))
            used[side, row] += len(ids)
    return batch


def packed_and_alone():
    """Three pieces in one row with padding behind; and the same, one to a row. Equal shapes."""
    generator = np.random.default_rng(0)
    pieces = [generator.integers(0, 64, n).tolist() for n in (5, 9, 8, 3, 2, 12)]
    pairs = list(zip(pieces[::2], pieces[1::2], strict=True))
    shape = {"rows": 3, "source": 20, "length": 28}
    packed = rows_of([(0, *pair) for pair in pairs], **shape)
    return packed, rows_of([(row, *pair) for row, pair in enumerate(pairs)], **shape)
