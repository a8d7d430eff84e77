"""Source to target: documents split at their separator, the others counted; label smoothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_sided_rows import EOS, documents, made, packed, pieces

from gesso.objectives.config import Seq2SeqLMConfig

TAB = ord("\t")
TEXTS = [
    b"one\teins",
    b"two\tzwei\tdue",
    b"no separator",
    b"\tno source",
    b"no target\t",
    b"a\tb",
    b"",
]


def split(text):
    """(source, target) of a piece, from the definition; None where it costs nothing."""
    text = text.tolist()
    if TAB not in text:
        return None
    source, target = text[: text.index(TAB)], text[text.index(TAB) + 1 :]
    return (source + [EOS], target) if source and target not in ([], [EOS]) else None


def encoded(texts):
    return [np.append(np.frombuffer(text, np.uint8).astype(np.int64), EOS) for text in texts]


@pytest.mark.parametrize("length", [24, 64])
def test_every_document_with_two_sides_is_split_and_the_others_counted(length):
    random = [np.where(each == 65, TAB, each) % 257 for each in documents(count=400, mean=60.0)]
    objective = made(Seq2SeqLMConfig())
    rows = packed(encoded(TEXTS * 5) + random, objective, length=length)
    batch = objective.host_batch(rows)
    texts = pieces(rows["tokens"], rows["segments"])
    lost = 0
    for row, row_texts in enumerate(texts):
        for number, text in enumerate(row_texts, 1):
            source, target, inputs = (
                batch[leaf][row][batch[segments][row] == number].tolist()
                for leaf, segments in (
                    ("source", "source_segments"),
                    ("targets", "segments"),
                    ("tokens", "segments"),
                )
            )
            expected = split(text)
            assert (source, target) == (expected or ([], []))
            assert inputs == ([0, *target[:-1]] if expected else [])
            assert batch["unpaired_weight"][row, number - 1] == (expected is None)
            lost += expected is None
    assert batch["document_weight"].sum() == sum(map(len, texts))
    assert batch["unpaired_weight"].sum() == lost > 0
    assert batch["lm_weight"].sum() == (batch["segments"] > 0).sum()


class Table:
    """The least that an objective needs of a model: features out of a table."""

    def __init__(self):
        self.table_VD = jax.random.normal(jax.random.key(0), (512, 16))

    def features(self, batch, key):
        return self.table_VD[batch["tokens"]] + batch["source"].mean()

    def head(self):
        return self.table_VD, None


def test_smoothed_loss_is_optaxs_and_the_plain_one_is_reported():
    objective = made(Seq2SeqLMConfig(label_smoothing=0.1))
    batch = objective.host_batch(packed(encoded(TEXTS), objective, length=24))
    batch = {name: jnp.asarray(leaf) for name, leaf in batch.items()}
    values = objective(Table(), batch, None)
    logits = Table().features(batch, None) @ Table().table_VD.T
    labels = optax.smooth_labels(jax.nn.one_hot(batch["targets"], 512), 0.1)
    # float32 sums over 512 ids of logits near 40: some epsilons of 1.2e-7.
    near = {"rtol": 1e-5, "atol": 1e-4}
    smoothed = optax.softmax_cross_entropy(logits, labels)
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    np.testing.assert_allclose(values["smoothed"], smoothed, **near)
    np.testing.assert_allclose(values["nll"], plain, **near)
    trained = {name: term.coefficient for name, term in objective.terms.items()}
    assert trained == {"nll": 0, "smoothed": 1, "accuracy": 0, "unpaired": 0}
    assert next(iter(objective.terms)) == "nll" and objective.terms["nll"].targets == "targets"
    assert objective.terms["smoothed"].targets is None, "it is no likelihood"
    counted = values["unpaired"][batch["document_weight"] > 0]
    assert counted.mean() == pytest.approx(4 / 7)
    plain = made(Seq2SeqLMConfig())
    assert {name: term.coefficient for name, term in plain.terms.items()} == {
        "nll": 1,
        "accuracy": 0,
        "unpaired": 0,
    }


def test_a_corpus_without_pairs_is_refused():
    objective = made(Seq2SeqLMConfig())

    def take(texts):
        rows = packed(encoded(texts), objective, length=24)
        return lambda numbers: {name: leaf[: len(numbers)] for name, leaf in rows.items()}

    objective.check(take(TEXTS))
    with pytest.raises(ValueError, match=r"none of the 12 documents.*the separator '\\t'"):
        objective.check(take([b"no separator", b"no target\t", b"\tno source"] * 4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"separator": "=>"}, r"'=>' is 2 ids of the store's bytes tokenizer \(\[61, 62\]\)"),
        ({"separator": ""}, "separator is empty"),
        ({"label_smoothing": 1.0}, "label_smoothing is a share"),
    ],
)
def test_what_cannot_be_is_said(fields, message):
    with pytest.raises(ValueError, match=message):
        made(Seq2SeqLMConfig(**fields))
