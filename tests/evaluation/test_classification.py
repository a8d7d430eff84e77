"""Classification figures equal scikit-learn's, however the examples are cut into batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gesso.evaluation.labelled.classification import (
    classification,
    confusion,
    ranking,
    score_table,
)
from gesso.evaluation.labelled.correlation import spearman
from gesso.evaluation.labelled.entities import (
    add_entities,
    entity_counts,
    entity_f1,
    entity_spans,
)
from gesso.evaluation.sums import total

metrics = pytest.importorskip("sklearn.metrics")


def padded_batches(*arrays, size):
    """Batches of `size`, the last one filled with values that must not count."""
    for start in range(0, len(arrays[0]), size):
        parts = [each[start : start + size] for each in arrays]
        missing = size - len(parts[0])
        filled = [np.concatenate([part, np.full(missing, 1, part.dtype)]) for part in parts]
        yield *filled, np.arange(size) < size - missing


def labels(classes=5, n=203):
    drawn = np.random.default_rng(0)
    targets = drawn.integers(0, classes - 1, n)  # the last class is never a target
    predictions = np.where(drawn.random(n) < 0.5, targets, drawn.integers(0, classes, n))
    predictions[predictions == 1] = 2  # and class 1 is never predicted
    return targets.astype(np.int32), predictions.astype(np.int32)


@pytest.mark.parametrize("size", [7, 64, 203])
def test_figures_equal_scikit_learn_for_any_batches(size):
    targets, predictions = labels()
    count = jax.jit(functools.partial(confusion, classes=6))
    sums = total(
        count(t, p, counted=kept) for t, p, kept in padded_batches(targets, predictions, size=size)
    )
    figures = classification(sums)
    assert figures["accuracy"] == metrics.accuracy_score(targets, predictions)
    assert figures["mcc"] == pytest.approx(metrics.matthews_corrcoef(targets, predictions))
    assert figures["balanced_accuracy"] == pytest.approx(
        np.mean(
            metrics.recall_score(
                targets, predictions, average=None, labels=np.unique(targets), zero_division=0
            )
        )
    )
    for name in ("precision", "recall", "f1"):
        reference = functools.partial(
            getattr(metrics, f"{name}_score"), targets, predictions, zero_division=0
        )
        for average in ("micro", "macro", "weighted"):
            assert figures[name][average] == pytest.approx(reference(average=average), abs=1e-12)
        assert figures[name]["classes"] == pytest.approx(reference(average=None, labels=range(6)))
    assert figures["f1"]["macro"] != pytest.approx(figures["f1"]["micro"], abs=0.01)


def test_counts_are_the_same_on_a_mesh_of_eight_devices():
    targets, predictions = (each[:200] for each in labels())
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("data"))
    count = jax.jit(functools.partial(confusion, classes=5))
    sharded = count(jax.device_put(targets, split), jax.device_put(predictions, split))
    np.testing.assert_array_equal(
        sharded["confusion"], metrics.confusion_matrix(targets, predictions, labels=range(5))
    )


def test_labels_outside_the_classes_are_counted_and_refused():
    sums = confusion(jnp.array([0, -1, 1]), jnp.array([0, 1, 2]), classes=2)
    assert int(sums["outside"]) == 2 and int(sums["confusion"].sum()) == 1
    with pytest.raises(ValueError, match="2 targets or predictions"):
        classification(sums)


def test_mcc_and_f1_of_one_class_alone_are_zero_by_zero():
    figures = classification(confusion(jnp.zeros(4, int), jnp.zeros(4, int), classes=2))
    assert figures["mcc"] == 0 and figures["f1"]["classes"] == [1, 0]
    assert figures["f1"]["macro"] == 1  # a class that does not occur is not averaged


def scored(n=301):
    drawn = np.random.default_rng(1)
    positive = drawn.random(n) < 0.2
    scores = np.round(drawn.normal(positive * 0.8), 1)  # many ties
    return scores.astype(np.float32), positive


def test_areas_equal_scikit_learn_with_ties():
    scores, positive = scored()
    figures = ranking(score_table(scores, positive))
    assert figures["roc_auc"] == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)
    assert figures["average_precision"] == pytest.approx(
        metrics.average_precision_score(positive, scores), abs=1e-12
    )
    kept = np.arange(len(scores)) % 3 > 0
    assert ranking(score_table(scores, positive, counted=kept)) == ranking(
        score_table(scores[kept], positive[kept])
    )


def test_nan_scores_are_refused_and_one_kind_has_no_area():
    with pytest.raises(ValueError, match="1 scores are NaN"):
        score_table([0.1, np.nan], [1, 0])
    assert np.isnan(ranking(score_table([0.1, 0.2], [1, 1]))["roc_auc"])


def test_spearman_equals_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    x, y = np.random.default_rng(3).integers(0, 9, (2, 150))
    y = y + x
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    with pytest.raises(ValueError, match="no NaN"):
        spearman([1.0, np.nan], [1, 2])


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-P I-P O", [("P", 1, 3)]),
        ("B-P B-P I-Q", [("P", 0, 1), ("P", 1, 2), ("Q", 2, 3)]),
        ("I-P I-P O I-Q", [("P", 0, 2), ("Q", 3, 4)]),
        ("B-P I-P E-P S-P I-P", [("P", 0, 3), ("P", 3, 4), ("P", 4, 5)]),
        ("E-P O", [("P", 0, 1)]),
        ("", []),
    ],
)
def test_entities_are_read_as_conlleval_reads_them(tags, spans):
    assert entity_spans(tags.split()) == spans


@pytest.mark.parametrize("tag", ["X-P", "B", "B-", "O-P", "", "BI-P"])
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(ValueError, match="is not a tag"):
        entity_spans([tag])


def test_entity_f1_needs_type_start_and_end():
    target = ["B-P", "I-P", "O", "B-Q", "O", "B-P"]
    called = ["B-P", "I-P", "O", "B-P", "O", "B-P"]
    parts = [entity_counts(target, called), entity_counts(["B-Q", "I-Q"], ["B-Q", "O"])]
    figures = entity_f1(add_entities(*parts))
    # right: the two P; called: 3 + 1; support: 3 + 1
    assert figures["precision"] == figures["recall"] == figures["f1"] == 0.5
    assert figures["types"]["P"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1,
        "f1": 0.8,
        "support": 2,
    }
    assert figures["macro_f1"] == pytest.approx(0.4)


def test_sums_of_two_metrics_do_not_add():
    with pytest.raises(ValueError, match="two metrics"):
        total([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="not one batch"):
        total([])
