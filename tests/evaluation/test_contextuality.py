"""Contextuality equals what all pairs of float64 vectors give, one sentence at a time."""

import itertools

import jax
import numpy as np
import pytest
from evaluation_stores import MemoryStore

from gesso.data.tokenizers.load import load_tokenizer
from gesso.evaluation.contextuality.contextuality import contextuality
from gesso.evaluation.contextuality.sentences import heldout_sentences, plan, read_sentences
from gesso.models import BERTConfig, GPTConfig, Seq2SeqConfig, build
from gesso.partitioning.axes import placements
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh

CONFIG = GPTConfig(
    vocab=264, positions=64, layers=2, embed=16, heads=2, mlp=32, head="untied", init_std=0.3
)
SUBJECTS = ("a dog", "the old cat", "one very large and quite hungry bird", "she")
TEXTS = [f"{a} {b} {c}" for a in SUBJECTS for b in ("saw", "ate") for c in ("a fish", "it", "him")]
SETTINGS = {"contexts": 4, "matched": 3, "words": 6, "seed": 2}


@pytest.fixture(scope="module")
def made():
    model = build(CONFIG)
    return model, jax.jit(model.init)(jax.random.key(0)), load_tokenizer("bytes")


@pytest.fixture(scope="module")
def sentences(made):
    return read_sentences(TEXTS, made[2], longest=CONFIG.positions, framed=False).sentences


@pytest.fixture(scope="module")
def found(made, sentences):
    return contextuality(*made, sentences, batch=7, **SETTINGS)


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def pairs(vectors):
    return np.mean([cosine(one, other) for one, other in itertools.permutations(vectors, 2)])


def test_every_figure_is_what_all_pairs_give(made, sentences, found):
    model, params, _ = made
    apply = jax.jit(lambda tokens: model.apply(params, {"tokens": tokens}, hidden=True)["hidden"])
    vectors = []  # of every sentence [layers, words, D]
    for sentence in sentences:
        tokens = np.zeros((1, CONFIG.positions), np.int32)
        tokens[0, : len(sentence.ids)] = sentence.ids
        hidden = np.asarray(apply(tokens)[:, 0], np.float64)
        parts = [np.array(sentence.word) == place for place in range(len(sentence.words))]
        vectors.append(
            np.stack([hidden[:, : len(part)][:, part].mean(1) for part in parts], axis=1)
        )
    planned = plan(sentences, **SETTINGS)
    assert len(found["layers"]) == CONFIG.layers + 1 and found["words"] == 6
    for layer, figures in enumerate(found["layers"]):
        of = [each[layer] for each in vectors]
        by_word = [
            [of[s][p] for s in range(len(of)) for p in np.flatnonzero(planned.kind[s] == word)]
            for word in range(6)
        ]
        drawn = [each[place] for each, place in zip(of, planned.drawn, strict=True)]
        within = [np.mean([cosine(each, s.mean(0)) for each in s]) for s in of]
        expected = {
            "self_similarity": np.mean([pairs(each) for each in by_word]),
            "random_similarity": pairs(drawn),
            "within_sentence": np.mean(within),
        }
        for name, slots in (("explained", planned.slot), ("random", planned.random_slot)):
            matrices = {}
            for s, places in enumerate(slots):
                for p in np.flatnonzero(places >= 0):
                    matrices.setdefault(places[p] // 3, []).append(of[s][p])
            assert all(len(each) == 3 for each in matrices.values())
            for variant in ("uncentred", "centred"):
                shares = []
                for each in matrices.values():
                    rows = np.array(each) - (np.mean(each, 0) if variant == "centred" else 0)
                    squares = np.linalg.eigvalsh(rows @ rows.T)
                    total = squares.sum()
                    # Equal vectors, as embeddings at equal places are: one explains all.
                    shares.append(squares[-1] / total if total > 1e-12 else 1.0)
                expected[f"{name}_{variant}"] = np.mean(shares)
        for name, value in expected.items():
            # float32 sums of up to 24 units, and float32 vectors
            assert figures[name] == pytest.approx(value, abs=2e-5), (layer, name)
        assert figures["self_over"] == pytest.approx(
            expected["self_similarity"] - expected["random_similarity"], abs=1e-4
        )


def test_centred_is_what_principal_components_explain():
    decomposition = pytest.importorskip("sklearn.decomposition")
    from gesso.evaluation.contextuality.contextuality import _first_share

    vectors = np.random.default_rng(0).normal(size=(4, 5, 8)) + 3
    for name, centred in (("PCA", True), ("TruncatedSVD", False)):
        given = vectors - vectors.mean(1, keepdims=True) if centred else vectors
        shares = []
        for each in vectors:
            fitted = getattr(decomposition, name)(n_components=4).fit(each)
            squares = fitted.singular_values_**2
            # TruncatedSVD's own ratio is of centred variance; the paper's formula of squares.
            whole = (each**2).sum() if not centred else squares.sum()
            shares.append(squares[0] / whole)
        assert _first_share(given) == pytest.approx(np.mean(shares), rel=1e-6)


def test_noise_and_equal_vectors():
    from gesso.evaluation.contextuality.contextuality import _first_share

    noise = np.random.default_rng(0).normal(size=(50, 5, 512))
    noise -= noise.mean(1, keepdims=True)
    assert 0.25 < _first_share(noise) < 0.33
    assert _first_share(np.zeros((1, 5, 8))) == 1


def test_batches_and_meshes_change_nothing(made, sentences, found):
    model, params, tokenizer = made
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    placed = jax.device_put(params, placements(model.letters, LAYOUTS["fsdp_tensor"].at_rest, mesh))
    told = []
    other = contextuality(
        model, placed, tokenizer, sentences, batch=16, told=told.append, **SETTINGS
    )
    assert sum(told) == len(sentences) == len(TEXTS)
    for one, two in zip(found["layers"], other["layers"], strict=True):
        assert two == pytest.approx(one, abs=1e-5)


def test_padding_is_no_word(made, sentences, found):
    """24 sentences are no multiple of 7: the last rows are empty."""
    assert len(sentences) % 7
    first = found["layers"][0]
    # Nothing but a word's own tokens and their places is in an embedding.
    assert 0 < first["self_similarity"] < 1 and first["within_sentence"] > 0


class Pieces:
    """Two ids a word, [CLS] 1 and [SEP] 2, and no space anywhere."""

    vocab_size, eos, special = 40, 2, {"cls": 1, "sep": 2}

    def encode(self, text):
        made = [[3 + len(word) % 5, 10 + ord(word[0]) % 20] for word in text.split()]
        return np.array([each for word in made for each in word], np.uint32)


@pytest.mark.slow  # two more families compiled
def test_an_encoder_reads_its_frame_and_a_seq2seq_its_source():
    read = read_sentences(TEXTS, Pieces(), longest=16, framed=True)
    first = read.sentences[0]
    assert first.ids[0] == 1 and first.ids[-1] == 2 and first.word[:4] == [-1, 0, 0, 1]
    shape = {"vocab": 40, "embed": 16, "heads": 2, "mlp": 32}
    bert = build(BERTConfig(**shape, layers=1, positions=16))
    found = contextuality(
        bert, jax.jit(bert.init)(jax.random.key(0)), Pieces(), read.sentences, **SETTINGS
    )
    assert len(found["layers"]) == 2
    config = Seq2SeqConfig(**shape, head_dim=8, positions=16, position_encoding="learned")
    model = build(config)
    params = jax.jit(model.init)(jax.random.key(0))
    found = contextuality(model, params, Pieces(), read.sentences, **SETTINGS)
    assert all(abs(each["self_similarity"]) <= 1 for each in found["layers"])


def test_sentences_that_say_nothing_are_counted(made):
    class Merging(Pieces):
        def encode(self, text):
            return np.array([len(text) % 40], np.uint32)

    texts = ["two words", "two  words", "one", "two others"]
    read = read_sentences(texts, made[2], longest=64, framed=False)
    assert (len(read.sentences), read.repeated, read.short, read.unclear) == (2, 1, 1, 0)
    assert read_sentences(texts, Merging(), longest=64, framed=False).unclear == 2
    cut = read_sentences(["aa bb cc dd"], made[2], longest=9, framed=False).sentences[0]
    assert cut.words == ["aa", "bb", "cc"] and len(cut.ids) == 8


def test_heldout_text_is_cut_into_sentences():
    texts = {"a": {"train": [], "holdout": ["One is. Two are!\nThree", "Four? Five."] * 3}}
    found = list(heldout_sentences(MemoryStore(texts), most=4))
    assert found == ["One is.", "Two are!", "Three", "One is."]


def test_too_little_text_is_refused(made, sentences):
    with pytest.raises(ValueError, match="no word is in 50 of the 24 sentences"):
        contextuality(*made, sentences, contexts=50)
