"""Pieces in their frame: nothing of the text is lost, and pairs are what their labels say."""

import numpy as np
import pytest
from masked_rows import CLS, SEP, document_of, make_rows, pieces, tokenizer, unmasked

from gesso.objectives import MaskedLM, MaskedLMConfig


def framed(pairs, *, rows=60, length=128, **settings):
    config = MaskedLMConfig(pairs=pairs, **settings)
    objective = MaskedLM(config, tokenizer=tokenizer())
    made = make_rows(
        rows=rows, length=length, overhead=objective.overhead, companions=objective.companions
    )
    return objective, made, objective.host_batch(made)


def text_of(rows):
    """{(row, segment): tokens without the document's end} of rows as the order gives them."""
    found = {}
    for row, segments in enumerate(rows["segments"]):
        for number in range(1, segments.max() + 1):
            tokens = rows["tokens"][row][segments == number]
            found[row, number] = tokens[:-1] if tokens[-1] == SEP else tokens
    return found


def beside_of(rows, key):
    """Tokens of another document's text beside a piece."""
    return (rows["other_segments"][key[0]] == key[1]).sum() if "other_segments" in rows else 0


@pytest.mark.parametrize("pairs", ["none", "nsp", "sop"])
def test_every_piece_is_there_in_its_frame(pairs):
    _, rows, batch = framed(pairs)
    want, found = text_of(rows), pieces(batch, unmasked(batch))
    assert found.keys() == want.keys()
    labels, shorter = {}, 0
    for row in range(len(rows["tokens"])):
        for place, label, weight in zip(
            batch["pair_places"][row] if pairs != "none" else [],
            batch["pair_labels"][row] if pairs != "none" else [],
            batch["nsp_weight"][row] if pairs != "none" else [],
            strict=True,
        ):
            if weight:
                labels[row, int(batch["segments"][row, place])] = int(label)
    for key, (_, types, tokens) in found.items():
        positions = batch["positions"][key[0]][batch["segments"][key[0]] == key[1]]
        assert positions.tolist() == list(range(len(tokens)))
        ends = np.flatnonzero(tokens == SEP)
        assert tokens[0] == CLS and ends[-1] == len(tokens) - 1
        assert types.tolist() == [0] * (ends[0] + 1) + [1] * (len(tokens) - ends[0] - 1)
        a, b = tokens[1 : ends[0]], tokens[ends[0] + 1 : -1]
        if key not in labels:
            assert len(ends) == 1 and a.tolist() == want[key].tolist()
        elif labels[key] == 0:  # B continues A in the document
            assert np.concatenate([a, b]).tolist() == want[key].tolist()
            assert b[0] == a[-1] + 1
        elif pairs == "sop":
            assert np.concatenate([b, a]).tolist() == want[key].tolist()
        else:  # B is of another document, A begins the piece
            assert a.tolist() == want[key][: len(a)].tolist()
            other = rows["other_tokens"][key[0]][rows["other_segments"][key[0]] == key[1]]
            assert b.tolist() == other[: len(b)].tolist()
            assert set(document_of(b)).isdisjoint(document_of(want[key]))
            assert 4 <= len(b) == min(len(other), len(want[key]) - len(a))
            shorter += len(other) < len(want[key]) - len(a)
        if key in labels:
            assert min(len(a), len(b)) >= 4
        else:
            assert pairs == "none" or len(want[key]) < 8 or beside_of(rows, key) < 4
    if pairs != "none":
        assert len(labels) == batch["nsp_weight"].sum() > 60
        can = [key for key, each in want.items() if len(each) >= 8]
        if pairs == "nsp":
            can = [key for key in can if beside_of(rows, key) >= 4]
            assert shorter > 5
        assert labels.keys() == set(can)


@pytest.mark.parametrize("pairs", ["nsp", "sop"])
def test_half_of_the_pairs_are_of_each_label(pairs):
    _, _, batch = framed(pairs, rows=150)
    counted = batch["nsp_weight"] > 0
    n = counted.sum()
    assert abs(batch["pair_labels"][counted].mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
    assert not batch["pair_labels"][~counted].any()


def test_the_shorter_frame_gives_its_place_to_padding():
    """A document's end in the store becomes the last [SEP]: one place more is left over."""
    _, rows, batch = framed("none")
    ends = sum(
        rows["tokens"][row][segments == number][-1] == SEP
        for row, segments in enumerate(rows["segments"])
        for number in range(1, segments.max() + 1)
    )
    pieces_in_all = rows["segments"].max(1).sum()
    grown = (batch["segments"] > 0).sum() - (rows["segments"] > 0).sum()
    assert ends > 0 and grown == 2 * pieces_in_all - ends


def test_pairs_fit_their_columns():
    """Rows full of the shortest pieces that make pairs."""
    objective = MaskedLM(MaskedLMConfig(pairs="sop"), tokenizer=tokenizer())
    width = objective.frame.most_pairs(128)
    size = 2 * objective.config.pair_tokens
    segments = np.repeat(np.arange(1, width + 1), size)
    rows = {
        "tokens": np.pad(np.arange(5, 5 + len(segments)), (0, 128 - len(segments)))[None],
        "segments": np.pad(segments, (0, 128 - len(segments)))[None],
        "positions": np.pad(np.tile(np.arange(size), width), (0, 128 - len(segments)))[None],
        "component": np.zeros(1, np.int32),
        "row": np.zeros(1, np.int64),
    }
    batch = objective.host_batch(rows)
    assert batch["nsp_weight"].sum() == width == 11
    assert batch["pair_places"][0].tolist() == [11 * k for k in range(width)]


def test_no_text_of_another_document_no_pair():
    objective, rows, batch = framed("nsp")
    blank = rows | {name: np.zeros_like(rows[name]) for name in rows if name.startswith("other_")}
    alone = objective.host_batch(blank)
    assert batch["nsp_weight"].any() and not alone["nsp_weight"].any()
    want = text_of(rows)
    for key, (_, types, tokens) in pieces(alone, unmasked(alone)).items():
        assert tokens.tolist() == [CLS, *want[key], SEP] and not types.any()


@pytest.mark.parametrize("pairs", ["none", "nsp", "sop"])
def test_padding_rows(pairs):
    objective = MaskedLM(MaskedLMConfig(pairs=pairs), tokenizer=tokenizer())
    shape = {name: np.zeros((2, 64), np.int32) for name in ("tokens", "segments", "positions")}
    if objective.companions:
        shape |= {f"other_{name}": leaf for name, leaf in shape.items()}
    batch = objective.host_batch(
        shape | {"component": np.zeros(2, np.int32), "row": np.zeros(2, np.int64)}
    )
    assert not any(leaf.any() for leaf in batch.values())


def test_a_tokenizer_whose_end_is_another_token():
    """The end of a document never stands before a [SEP] of its own."""
    other_end = tokenizer()
    other_end.eos = 900_000
    objective = MaskedLM(MaskedLMConfig(), tokenizer=other_end)
    tokens = np.array([[10, 11, 900_000, 20, 900_000, 0, 0, 0, 0, 0]])
    rows = {
        "tokens": tokens,
        "segments": np.array([[1, 1, 1, 2, 2, 0, 0, 0, 0, 0]]),
        "positions": np.array([[0, 1, 2, 0, 1, 0, 0, 0, 0, 0]]),
        "component": np.zeros(1, np.int32),
        "row": np.zeros(1, np.int64),
    }
    batch = objective.host_batch(rows)
    assert unmasked(batch).tolist() == [[CLS, 10, 11, SEP, CLS, 20, SEP, 0, 0, 0]]
    assert batch["segments"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 0, 0, 0]]
