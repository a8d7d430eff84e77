"""The unigram model of each term against its definition, on the targets a model is scored on."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_stores import MemoryStore

from gesso.data.open import heldout
from gesso.data.tokenizers.bytes import BytesTokenizer
from gesso.evaluation.heldout.unigram import beside, format_term, unigram
from gesso.objectives.config import CausalLMConfig, DenoiseConfig, MixedConfig, MixedPart
from gesso.objectives.kinds import build

LENGTH, VOCAB = 32, 512
TRAIN = ["the cat sat on the mat", "the dog ate the cat", "a cat, a dog", "ünïcödé text", "x" * 99]
HELD = ["the cat ate the dog", "a dog sat", "ö", "", "the mat " * 20]
MIX = MixedConfig(
    parts={
        "r": MixedPart(objective=DenoiseConfig()),
        "c": MixedPart(objective=DenoiseConfig(form="causal")),
    }
)


class Training:
    """Rows of the train split in turn, as an order of one epoch."""

    def __init__(self, **shape):
        self.store = MemoryStore({"A": {"train": TRAIN * 4, "holdout": HELD}})
        swapped = MemoryStore({"A": {"train": [], "holdout": TRAIN * 4}})
        self.length = len(heldout(swapped, "A", **shape))
        self._every = heldout(swapped, "A", **shape).rows(0, self.length)

    def visit(self, start, n):
        return np.arange(start, start + n)

    def take(self, rows):
        return {name: leaf[rows] for name, leaf in self._every.items()}


def measured(config):
    model = SimpleNamespace(family="seq2seq", architecture="encoder_decoder", vocab=VOCAB, start=0)
    objective = build(config, tokenizer=BytesTokenizer(), model=model)
    shape = {
        "length": objective.row_length(LENGTH),
        "overlap": objective.overlap,
        "overhead": objective.overhead,
    }
    order = Training(**shape)
    settings = {"length": LENGTH, "vocab": VOCAB, "rows": 0, "training_rows": order.length}
    held = heldout(order.store, "A", **shape)
    trained_on = objective.host_batch(order.take(np.arange(order.length)))
    found = unigram(objective, order, **settings)
    return objective, found, trained_on, objective.host_batch(held.rows(0, len(held)))


@pytest.mark.parametrize("config", [CausalLMConfig(), DenoiseConfig(), MIX])
def test_each_terms_figures_are_their_definition(config):
    objective, found, trained_on, held = measured(config)
    for name, term in objective.terms.items():
        if not term.targets:
            continue
        seen, scored = (
            batch[term.targets][batch[term.weight] > 0].tolist() for batch in (trained_on, held)
        )
        counts = Counter(seen)
        total, kinds = len(seen), len(counts)
        nats = -sum(math.log((counts[i] + kinds / VOCAB) / (total + kinds)) for i in scored)
        assert found[name]["unigram_nll"] == pytest.approx(nats / len(scored))
        guess = min(i for i in counts if counts[i] == max(counts.values()))
        assert found[name]["unigram_accuracy"] == pytest.approx(scored.count(guess) / len(scored))
    assert found.keys() == objective.terms.keys(), "accuracies have the unigram's beside them"


def test_probabilities_add_up_to_one():
    from gesso.evaluation.heldout.unigram import _figures

    random = np.random.default_rng(0)
    seen = random.integers(0, 3, VOCAB)
    every = [_figures(seen, np.eye(VOCAB, dtype=int)[i])["unigram_nll"] for i in range(VOCAB)]
    assert np.exp(-np.array(every)).sum() == pytest.approx(1)
    blank = _figures(np.zeros(VOCAB, int), np.ones(VOCAB, int))
    assert blank["unigram_nll"] == pytest.approx(math.log(VOCAB))


def test_they_stand_beside_the_terms():
    figures = {
        "loss": 2.0,
        "terms": {"nll": {"mean": 2.0, "count": 9}, "accuracy": {"mean": 0.25, "count": 9}},
    }
    held = {"nll": {"unigram_nll": 3.0, "unigram_accuracy": 0.1}}
    held |= {"accuracy": {"unigram_accuracy": 0.1}}
    terms = beside(figures, held)["terms"]
    assert terms["nll"] == {"mean": 2.0, "count": 9, "unigram_nll": 3.0, "unigram_accuracy": 0.1}
    assert format_term("nll", terms["nll"]) == "nll 2.0000 (unigram 3.0000)"
    assert format_term("accuracy", terms["accuracy"]) == "accuracy 25.0% (unigram 10.0%)"
    assert format_term("unpaired", {"mean": None, "count": 0}) == "unpaired n/a"
