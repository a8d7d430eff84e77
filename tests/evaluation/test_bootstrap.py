"""Intervals and p-values against closed forms, scipy and full enumeration."""

import itertools

import numpy as np
import pytest

from gesso.evaluation.bootstrap import compare, interval


def accuracy(sums):
    return sums["right"] / sums["count"]


def f1(sums):
    return 2 * sums["cells"][0] / (sums["cells"][1] + sums["cells"][2])


def answers(n=400, chance=0.7, seed=0):
    right = np.random.default_rng(seed).random(n) < chance
    return {"right": right, "count": np.ones(n)}


def test_the_interval_of_a_mean_has_the_normal_width():
    sums = answers()
    found = interval(sums, accuracy)
    error = np.sqrt(found.value * (1 - found.value) / 400)
    assert found.value == sums["right"].mean() and found.units == 400
    assert found.error == pytest.approx(error, rel=0.06)
    assert [found.low, found.high] == pytest.approx(
        [found.value - 1.96 * error, found.value + 1.96 * error], abs=0.012
    )
    assert found == interval(sums, accuracy) != interval(sums, accuracy, seed=1)


def test_a_ratio_of_sums_covers_its_truth_as_often_as_it_says():
    drawn, covered = np.random.default_rng(3), 0
    for trial in range(150):
        truth, called = drawn.random((2, 120)) < [[0.4], [0.5]]
        called = np.where(drawn.random(120) < 0.5, truth, called)
        sums = {"cells": np.stack([truth & called, truth, called], 1)}
        found = interval(sums, f1, draws=300, seed=trial)
        # In expectation: truth .4, called .45, both .5 * .4 + .5 * .4 * .5
        covered += found.low <= 2 * 0.3 / (0.4 + 0.45) <= found.high
    assert covered / 150 == pytest.approx(0.95, abs=0.05)


def test_clusters_are_drawn_together():
    n = 40
    right = np.repeat(np.random.default_rng(0).random(n) < 0.5, 10)  # ten copies of each answer
    sums = {"right": right, "count": np.ones(10 * n)}
    clusters = [f"text {i}" for i in np.repeat(np.arange(n), 10)]
    together = interval(sums, accuracy, clusters=clusters)
    once = interval({"right": right[::10], "count": np.ones(n)}, accuracy)
    assert together.units == n
    assert together.error == pytest.approx(once.error, rel=0.06)
    assert together.error > 2.5 * interval(sums, accuracy).error


def test_bca_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).lognormal(size=40)
    sums = {"x": values, "count": np.ones(40)}
    found = interval(sums, lambda s: s["x"] / s["count"], kind="bca", draws=20000)
    expected = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=20000, rng=np.random.default_rng(0)
    )
    width = found.high - found.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.02 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.03 * width)


def test_p_is_that_of_all_exchanges():
    first, second = answers(9, 0.4), answers(9, 0.9, seed=2)
    found = compare(first, second, accuracy)
    a, b = first["right"].astype(float), second["right"].astype(float)
    differences = [
        abs(np.where(swap, a, b).mean() - np.where(swap, b, a).mean())
        for swap in itertools.product([False, True], repeat=9)
    ]
    assert found.p == np.mean(np.array(differences) >= abs(b.mean() - a.mean()) - 1e-12)
    assert found.difference.value == pytest.approx(b.mean() - a.mean())
    reverse = compare(second, first, accuracy)
    assert reverse.p == found.p and reverse.difference.value == -found.difference.value


def test_random_exchanges_give_the_sign_test_of_mcnemar():
    stats = pytest.importorskip("scipy.stats")
    first, second = answers(300, 0.6), answers(300, 0.66, seed=5)
    found = compare(first, second, accuracy, draws=5000)
    better = int((second["right"] & ~first["right"]).sum())
    worse = int((first["right"] & ~second["right"]).sum())
    assert found.p == pytest.approx(stats.binomtest(better, better + worse).pvalue, abs=0.02)


def test_pairing_sees_what_two_intervals_do_not():
    first = answers(1000, 0.5)
    second = {**first, "right": first["right"] | (np.arange(1000) < 40)}
    found = compare(first, second, accuracy)
    apart = [interval(each, accuracy) for each in (first, second)]
    assert apart[0].high > apart[1].low
    assert found.difference.low > 0 and found.p < 0.001
    assert compare(first, first, accuracy).p == 1


def test_p_is_uniform_where_models_are_alike():
    values = [
        compare(answers(60, 0.5, 2 * t), answers(60, 0.5, 2 * t + 1), accuracy, draws=200).p
        for t in range(100)
    ]
    assert np.mean(np.array(values) <= 0.1) < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": np.ones(3)}, "one value per example"),
        ({"right": np.ones(1), "count": np.ones(1)}, "at least 2"),
        ({"count": np.zeros(400)}, "inf"),
    ],
)
def test_what_has_no_interval_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        interval({**answers(), **change}, accuracy)


def test_other_examples_cannot_be_compared():
    with pytest.raises(ValueError, match="same examples"):
        compare(answers(10), answers(11), accuracy)
