"""Held-out figures equal a direct computation, on any mesh, in batches of any size."""

import jax
import numpy as np
import pytest
from evaluation_stores import MemoryStore

from gesso.data.open import heldout
from gesso.evaluation.heldout.perplexity import NothingHeldOut, evaluate_heldout
from gesso.models import build
from gesso.models.config import GPTConfig
from gesso.objectives.causal import CausalLM
from gesso.objectives.config import CausalLMConfig
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.mesh import make_mesh

LENGTH = 16
OBJECTIVE = CausalLM(CausalLMConfig())
CONFIG = GPTConfig(vocab=264, positions=LENGTH, layers=2, embed=32, heads=4, mlp=64)
MODEL = build(CONFIG)
TEXTS = {
    "Code": {"train": ["x = 1"], "holdout": ["def f(x):\n    return x\n", "y = 'ä→b'", "a"]},
    "Empty": {"train": ["nothing held out"], "holdout": []},
    "Prose": {
        "train": ["one"],
        "holdout": ["The quick brown fox jumps over the lazy dog. " * 3, "Two words", "", "Ö!"] * 3,
    },
}


@pytest.fixture(scope="module")
def params():
    # Far from initialisation, so that tokens differ much in what they cost.
    return jax.tree.map(lambda x: x * 8, MODEL.init(jax.random.key(0)))


def evaluate(params, **options):
    settings = {"length": LENGTH, "rows": 0, "batch": 8} | options
    return evaluate_heldout(MODEL, OBJECTIVE, params, MemoryStore(TEXTS), **settings)


def directly(params, names, rows=0):
    """The definition, row by row and in float64: no batches, no padding, no mesh."""
    store, sums = MemoryStore(TEXTS), np.zeros(4)
    for name in names:
        held = heldout(store, name, length=LENGTH + 1, overlap=1)
        every = range(len(held))
        for row in [i * len(held) // rows for i in range(rows)] if rows else every:
            made = held.rows(row, 1)
            tokens, segments = made["tokens"][0], made["segments"][0]
            inputs = {key: made[key][:, :-1] for key in ("tokens", "positions", "segments")}
            logits = np.asarray(MODEL.apply(params, inputs)["logits"][0], np.float64)
            logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            for segment in range(1, segments.max() + 1):
                (at,) = np.nonzero(segments == segment)
                targets = tokens[at[1:]]
                text_bytes = bytes(targets[targets < 256].tolist())
                sums += (
                    -logs[at[1:] - 1, targets].sum(),
                    len(targets),
                    len(text_bytes),
                    len(text_bytes.decode(errors="replace").split()),
                )
    nats, tokens, size, words = sums
    return {
        "loss": nats / tokens,
        "perplexity": np.exp(nats / tokens),
        "bits_per_byte": nats / size / np.log(2),
        "word_perplexity": np.exp(nats / words),
        "tokens": tokens,
        "bytes": size,
        "words": words,
    }


def close(ours, expected):
    # float32 losses of 32-element sums, against float64: some epsilons of 1.2e-7. Perplexities are
    # compared as what they are exponentials of.
    for key, value in expected.items():
        if key.endswith("perplexity"):
            assert np.log(ours[key]) == pytest.approx(np.log(value), rel=3e-6), key
        elif key == "terms":
            assert set(ours[key]) == set(value)
            for name, term in value.items():
                close(ours[key][name], term)
        elif key != "components":
            assert ours[key] == pytest.approx(value, rel=3e-6), key


@pytest.mark.parametrize("rows", [0, 2])
def test_figures_equal_the_definition(params, rows):
    ours = evaluate(params, rows=rows)
    close(ours, directly(params, ["Code", "Prose"], rows))
    assert set(ours["components"]) == {"Code", "Prose"}, "nothing is held out in Empty"
    for name in ("Code", "Prose"):
        close(ours["components"][name], directly(params, [name], rows))


def test_every_target_of_every_document_counts_once(params):
    ours = evaluate(params)
    for name, figures in ours["components"].items():
        documents = TEXTS[name]["holdout"]
        assert figures["tokens"] == sum(len(text.encode()) for text in documents)
        assert figures["bytes"] == sum(max(len(text.encode()) - 1, 0) for text in documents)


@pytest.mark.parametrize("batch", [1, 3, 5, 64])
def test_the_batch_changes_no_figure(params, batch):
    ours, expected = evaluate(params, batch=batch), evaluate(params, batch=8)
    for name in ("Code", "Prose"):
        close(ours["components"][name], expected["components"][name])


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [
        ({"data": 8}, "replicated"),
        ({"data": 2, "fsdp": 4}, "fsdp"),
        ({"data": 2, "tensor": 4}, "tensor"),
        ({"fsdp": 2, "sequence": 2, "tensor": 2, "data": 1}, "fsdp_tensor"),
    ],
)
def test_eight_devices_give_the_figures_of_one(params, mesh, layout):
    ours = evaluate(params, mesh=make_mesh(MeshConfig(**mesh)), layout=layout, batch=3)
    one = evaluate(params, batch=3)
    for name in ("Code", "Prose"):
        close(ours["components"][name], one["components"][name])


def test_a_run_compiles_its_evaluation_once(params):
    evaluate(params, batch=7)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **about: compiled.append(event) if "compile" in event else None
    )
    evaluate(params, batch=7)
    again = list(compiled)
    evaluate(params, batch=9)
    jax.monitoring.clear_event_listeners()
    assert not again
    assert compiled, "another shape is another compilation, so the count can fail"


def test_chosen_components_and_their_order(params):
    ours = evaluate(params, components=["Prose"])
    assert list(ours["components"]) == ["Prose"]
    close(ours, evaluate(params)["components"]["Prose"])


def test_terms_hold_every_term_and_the_first_leads(params):
    objective = CausalLM(CausalLMConfig(z_loss=1e-3))
    ours = evaluate_heldout(
        MODEL, objective, params, MemoryStore(TEXTS), length=LENGTH, rows=0, batch=8
    )
    for figures in (ours, *ours["components"].values()):
        assert set(figures["terms"]) == {"lm", "z"}
        lm, z = figures["terms"]["lm"], figures["terms"]["z"]
        assert lm["mean"] == figures["loss"] and lm["perplexity"] == figures["perplexity"]
        assert lm["count"] == z["count"] == figures["tokens"]
        assert z["mean"] > 0 and "perplexity" not in z, "log(Z)^2 is no likelihood"
    parts = [each["terms"]["z"] for each in ours["components"].values()]
    mean = sum(part["mean"] * part["count"] for part in parts) / ours["tokens"]
    assert ours["terms"]["z"]["mean"] == pytest.approx(mean, rel=1e-9)


def test_an_unknown_component_is_named(params):
    with pytest.raises(ValueError, match=r"no component \['Prosa'\]; it has Code, Empty, Prose"):
        evaluate(params, components=["Prosa"])


def test_nothing_held_out_is_an_error(params):
    with pytest.raises(NothingHeldOut, match="Empty"):
        evaluate(params, components=["Empty"])


def test_bfloat16_is_what_the_step_multiplies_in(params):
    exact, rough = evaluate(params)["loss"], evaluate(params, compute="bfloat16")["loss"]
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.02)
