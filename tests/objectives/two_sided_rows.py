"""Packed rows for objectives with two sides, and what their batches say piece by piece."""

from types import SimpleNamespace

import numpy as np

from gesso.data.order.pack import assemble, gather, make_plan
from gesso.data.tokenizers.bytes import BytesTokenizer
from gesso.objectives.kinds import build

TOKENIZER = BytesTokenizer()
EOS = TOKENIZER.eos
MODEL = SimpleNamespace(family="seq2seq", architecture="encoder_decoder", vocab=512, start=0)
MODE = 300


def made(config, **model):
    return build(config, tokenizer=TOKENIZER, model=SimpleNamespace(**(vars(MODEL) | model)))


def packed(documents, objective, *, length, first_row=0):
    """Rows of the data as the order gives them, for this objective at this length."""
    row_length = objective.row_length(length)
    sizes = np.array([len(each) for each in documents])
    plan = make_plan(
        sizes, length=row_length, overlap=0, packing="best_fit", overhead=objective.overhead
    )
    starts, lengths, count = gather(plan, np.arange(plan.rows))
    joined = np.concatenate(documents)
    data = np.concatenate([joined[s : s + n] for s, n in zip(starts, lengths, strict=True)])
    return assemble(data, lengths, count, length=row_length) | {
        "component": np.zeros(plan.rows, np.int32),
        "row": first_row + np.arange(plan.rows),
    }


def documents(*, count=300, mean=30.0, seed=0):
    """Random bytes and the end of document; many of one or two tokens, some over a row."""
    random = np.random.default_rng(seed)
    sizes = random.geometric(1 / mean, count) - 1
    sizes[:20] = np.arange(20) % 4
    return [np.append(random.integers(0, 256, n), EOS) for n in sizes]


def pieces(tokens, segments):
    """[row][piece] -> its tokens."""
    return [
        [row[mine == k] for k in range(1, mine.max(initial=0) + 1)]
        for row, mine in zip(tokens, segments, strict=True)
    ]
