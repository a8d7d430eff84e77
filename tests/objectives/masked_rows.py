"""Rows for the tests of masked-token prediction: every token says where it came from."""

from types import SimpleNamespace

import numpy as np

from gesso.data.order.pack import assemble, gather, make_plan

PAD, UNK, CLS, SEP, MASK, FIRST = 0, 1, 2, 3, 4, 5
DOCUMENT = 4096  # tokens of document d are FIRST + d * DOCUMENT + 0, 1, 2, ...; its end is SEP
VOCAB = FIRST + 700 * DOCUMENT


def tokenizer(*, continues=None):
    """A vocabulary large enough that no token occurs twice."""
    lengths = np.full(VOCAB, 2, np.int32)
    lengths[:FIRST] = 0
    return SimpleNamespace(
        kind="test",
        vocab_size=VOCAB,
        eos=SEP,
        special={"pad": PAD, "unk": UNK, "cls": CLS, "sep": SEP, "mask": MASK},
        byte_lengths=lengths,
        continues=np.zeros(VOCAB, bool) if continues is None else continues,
    )


def document_of(tokens):
    return (np.asarray(tokens) - FIRST) // DOCUMENT


def make_rows(*, rows, length, overhead, first_row=0, mean=60.0, seed=0, companions=False):
    """Packed rows of documents of lognormal lengths, as Order.take gives them."""
    rng = np.random.default_rng(seed)
    documents = np.minimum(rng.lognormal(np.log(mean), 1.0, 300).astype(np.int64) + 1, 4000)
    text = np.concatenate(
        [np.append(FIRST + d * DOCUMENT + np.arange(n - 1), SEP) for d, n in enumerate(documents)]
    )
    plan = make_plan(documents, length=length, overlap=0, packing="best_fit", overhead=overhead)
    assert plan.rows >= rows, plan.rows
    starts, lengths, count = gather(plan, np.arange(rows))
    made = assemble(joined(text, starts, lengths), lengths, count, length=length)
    if companions:  # documents 300.. are never in the rows themselves; some texts are short
        sizes = np.maximum(1, lengths * (np.arange(len(lengths)) % 4 + 1) // 4)
        others = [FIRST + (300 + i % 400) * DOCUMENT + np.arange(n) for i, n in enumerate(sizes)]
        beside = assemble(np.concatenate(others), sizes, count, length=length)
        made |= {f"other_{name}": leaf for name, leaf in beside.items()}
    number = np.arange(first_row, first_row + rows)
    return made | {"component": np.zeros(rows, np.int32), "row": number}


def joined(text, starts, lengths):
    return np.concatenate([text[a : a + n] for a, n in zip(starts, lengths, strict=True)])


def unmasked(batch):
    """The batch's tokens with the predicted ones put back."""
    tokens = batch["tokens"].copy()
    row, column = np.nonzero(batch["mlm_weight"])
    tokens[row, batch["masked_places"][row, column]] = batch["targets"][row, column]
    return tokens


def pieces(batch, tokens=None):
    """{(row, segment): (first place, token types, tokens)} of a framed batch."""
    tokens = batch["tokens"] if tokens is None else tokens
    found = {}
    for row, segments in enumerate(batch["segments"]):
        for number in range(1, segments.max() + 1):
            places = np.flatnonzero(segments == number)
            assert (np.diff(places) == 1).all()
            found[row, number] = (
                places[0],
                batch["token_types"][row, places],
                tokens[row, places],
            )
    return found
