"""Figures of a task: the same on any mesh and batch, those of libraries, beside their baselines."""

import jax
import numpy as np
import pytest
from sklearn import metrics
from task_stores import model_of, objective_of, store_of

from gesso.evaluation.labelled.metrics import answers_of, task_metrics
from gesso.evaluation.labelled.predictions import Predictions, predict_task
from gesso.evaluation.labelled.tasks import evaluate_task
from gesso.finetune.labelled.build import build_task
from gesso.finetune.labelled.config import TaskConfig
from gesso.partitioning.axes import placements
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh

KINDS = ("classify", "regress", "tag", "qa")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return {kind: store_of(folder, kind, heldout=21) for kind in KINDS}


def made(store, logits, targets, *, kind="classify", examples=None):
    first = store.count["train"]
    examples = first + np.arange(len(targets)) if examples is None else examples
    return Predictions(
        kind=kind, examples=examples, logits=np.asarray(logits, np.float32),
        targets=np.asarray(targets), spans={}, terms={}, rows=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["classify", pytest.param("regress", marks=pytest.mark.slow),
     pytest.param("tag", marks=pytest.mark.slow), "qa"],
)  # fmt: skip
def test_no_mesh_batch_or_packing_changes_a_prediction(stores, kind):
    store, model = stores[kind], model_of(kind, positions=100)
    params = model.init(jax.random.key(0))
    settings = {"stride": 10, "question": 6} if kind == "qa" else {}
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    split = jax.device_put(params, placements(model.letters, LAYOUTS["fsdp"].at_rest, mesh))
    found = []
    for where, batch, per_row, length in ((params, 5, 1, 60), (split, 3, 4, 100)):
        objective = objective_of(kind, store, model, per_row=per_row, **settings)
        if kind == "qa":
            length = 60  # windows depend on it
        found.append(evaluate_task(
            model, objective, where, store, length=length, batch=batch
        ))  # fmt: skip
    (figures, one), (others, two) = found
    assert (one.examples == two.examples).all() and len(set(one.examples.tolist())) in (0, 21)
    np.testing.assert_allclose(one.logits, two.logits, atol=2e-5)
    assert (one.targets == two.targets).all()
    for name, leaf in one.spans.items():
        np.testing.assert_allclose(leaf, two.spans[name], atol=2e-5)
    assert figures["task"]["examples"] == 21
    np.testing.assert_allclose(figures["loss"], others["loss"], rtol=1e-5)
    for name, each in figures["terms"].items():
        np.testing.assert_allclose(each["mean"], others["terms"][name]["mean"], rtol=1e-5)
        assert each["count"] == others["terms"][name]["count"]
    if kind != "qa":
        assert len(one.targets) == figures["terms"][next(iter(figures["terms"]))]["count"]


def test_some_rows_are_evenly_spread(stores):
    store, model = stores["classify"], model_of("classify")
    objective = objective_of("classify", store, model)
    params = model.init(jax.random.key(0))
    some = predict_task(model, objective, params, store, length=60, batch=4, rows=7)
    assert some.rows == 7 and (np.diff(some.examples) == 3).all()


def test_nothing_held_out_is_said(stores, tmp_path):
    file = str(stores["regress"].folder.parent / "regress.jsonl")
    config = TaskConfig(task="regress", files=(file,), holdout=0)
    store, model = build_task(config, tmp_path / "store"), model_of("regress")
    with pytest.raises(ValueError, match="no examples in split"):
        predict_task(model, objective_of("regress", store, model), {}, store, length=60, batch=2)


def test_classes_are_scikit_learns(stores):
    rng = np.random.default_rng(0)
    store = stores["classify"]
    targets = rng.integers(0, 3, 60)
    logits = rng.normal(size=(60, 3)) + 2 * np.eye(3)[targets]
    figures = task_metrics(store, made(store, logits, targets))
    said, scores = logits.argmax(1), figures["scores"]
    assert np.isclose(scores["accuracy"], metrics.accuracy_score(targets, said))
    assert np.isclose(scores["macro_f1"], metrics.f1_score(targets, said, average="macro"))
    assert np.isclose(scores["mcc"], metrics.matthews_corrcoef(targets, said))
    assert np.isclose(figures["loss"], metrics.log_loss(targets, _softmax(logits)), rtol=1e-5)
    commonest = int(np.argmax(store.record["statistics"]["labels"]))
    assert figures["floor"]["accuracy"] == (targets == commonest).mean()
    assert figures["confusion"] == metrics.confusion_matrix(targets, said).tolist()
    low, high = figures["interval"]["low"], figures["interval"]["high"]
    assert low < scores["accuracy"] < high
    assert figures["calibration"]["count"] == 60
    assert len(figures["temperature"]["values"]) == 2


def test_two_classes_have_areas(tmp_path):
    rng = np.random.default_rng(1)
    store = store_of(tmp_path, "classify")
    object.__setattr__(store, "labels", ("no", "yes"))
    store.record["statistics"]["labels"] = [10, 14]
    targets = rng.integers(0, 2, 40)
    logits = rng.normal(size=(40, 2)) + np.eye(2)[targets]
    scores = task_metrics(store, made(store, logits, targets))["scores"]
    sure = logits.astype(np.float32)[:, 1] - logits.astype(np.float32)[:, 0]
    assert np.isclose(scores["f1"], metrics.f1_score(targets, logits.argmax(1)))
    assert np.isclose(scores["roc_auc"], metrics.roc_auc_score(targets, sure))
    assert np.isclose(scores["average_precision"], metrics.average_precision_score(targets, sure))
    # All of one class: no area, and no score that is no number.
    one = task_metrics(store, made(store, logits, np.zeros(40, int)))
    assert "roc_auc" not in one["scores"] and np.isfinite(list(one["scores"].values())).all()


def test_numbers(stores):
    from scipy.stats import pearsonr, spearmanr

    rng = np.random.default_rng(2)
    truth = rng.normal(size=30)
    said = truth + rng.normal(size=30)
    store = stores["regress"]
    figures = task_metrics(store, made(store, said[:, None], truth, kind="regress"))
    said = said.astype(np.float32)
    assert np.isclose(figures["scores"]["spearman"], spearmanr(said, truth).statistic)
    assert np.isclose(figures["scores"]["pearson"], pearsonr(said, truth).statistic)
    assert np.isclose(figures["loss"], ((said - truth) ** 2).mean())
    mean = store.record["statistics"]["mean"]
    assert np.isclose(figures["floor"]["mean_squared_error"], ((mean - truth) ** 2).mean())


def test_tags_are_entities_of_sentences(stores):
    store = stores["tag"]
    assert store.labels == ("B-X", "I-X", "O")
    # Two sentences with an entity each, of which the second one is missed.
    targets, said = [0, 1, 2, 0, 2], [0, 1, 2, 2, 2]
    examples = store.count["train"] + np.array([0, 0, 0, 1, 1])
    figures = task_metrics(
        store, made(store, np.eye(3)[said] * 5, targets, kind="tag", examples=examples)
    )
    assert figures["scores"]["entity_precision"] == 1 and figures["scores"]["entity_recall"] == 0.5
    assert figures["scores"]["accuracy"] == 0.8 and figures["words"] == 5
    assert figures["examples"] == 2


def test_answers_are_the_best_of_all_windows(stores):
    store = stores["qa"]
    example = store.count["train"]
    context = store.facts[example]["context"]
    words = context.split()
    tokens = store.lengths[example, 1]
    second = len(words[0]) + 1
    spans = {
        "example": np.array([example, example, example + 1]),
        "score": np.array([1.0, 3.0, -np.inf]),
        "null": np.array([0.5, 2.0, 1.0]),
        "first": np.array([0, second, 0]),
        "last": np.array([tokens - 1, second + len(words[1]) - 1, 0]),
    }
    found = Predictions(
        kind="qa", examples=spans["example"], logits=np.zeros((0, 0)), targets=np.zeros(0),
        spans=spans, terms={}, rows=1,
    )  # fmt: skip
    assert answers_of(store, found) == {example: words[1], example + 1: ""}
    # 3.0 against the least null of its windows, 0.5.
    assert answers_of(store, found, null=2.4)[example] == words[1]
    assert answers_of(store, found, null=2.5)[example] == ""
    store.facts[example]["answers"] = [f"The {words[1]}!"]
    store.facts[example + 1]["answers"] = ["something"]
    figures = task_metrics(store, found)
    assert figures["scores"] == {"f1": 0.5, "exact": 0.5} and figures["unanswered"] == 1
    assert figures["floor"] == {"f1": 0.0, "exact": 0.0}


def _softmax(logits):
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)
