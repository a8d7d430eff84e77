"""Calibration: bins against their definition, the null against draws, temperatures at optima."""

import numpy as np
import pytest

from gesso.evaluation.calibration import (
    bin_counts,
    calibration,
    equal_width,
    fit_temperature,
)
from gesso.evaluation.sums import total


def predictions(n=2000, power=1.0):
    """Confidences above a half, and answers that are right with confidence ** power."""
    drawn = np.random.default_rng(0)
    sure = 1 - 0.5 * drawn.random(n) ** 2
    return sure, drawn.random(n) < sure**power


def ece_by_definition(sure, right, edges):
    gaps = 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            gaps += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return gaps


@pytest.mark.parametrize("bins", [15, 3])
def test_ece_is_its_definition_whole_and_in_batches(bins):
    sure, right = predictions(power=2.0)
    edges = equal_width(bins)
    expected = ece_by_definition(sure, right, edges)
    assert calibration(bin_counts(sure, right, edges=edges))["ece"] == pytest.approx(expected)
    parts = [bin_counts(sure[i : i + 512], right[i : i + 512], edges=edges)
             for i in range(0, 2048, 512)]  # fmt: skip
    figures = calibration(total(parts))
    assert figures["count"] == 2000
    assert figures["ece"] == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge():
    sure = [0.0, 0.5, 0.75, 1.0]
    assert bin_counts(sure, np.ones(4), edges=np.array([0, 0.5, 1]))["count"].tolist() == [2, 2]


@pytest.mark.parametrize(("n", "edges"), [(200, 15), (2000, 15), (300, 3)])
def test_the_null_band_is_that_of_simulated_perfect_models(n, edges):
    sure, right = predictions(n)
    edges = equal_width(edges)
    figures = calibration(bin_counts(sure, right, edges=edges), draws=4000)
    drawn = np.random.default_rng(5)
    simulated = [ece_by_definition(sure, drawn.random(n) < sure, edges) for _ in range(2000)]
    null = figures["null"]
    assert null["mean"] == pytest.approx(np.mean(simulated), rel=0.05)
    low, high = np.quantile(simulated, [0.025, 0.975])
    # Three standard errors of these quantiles of 2,000 draws, the lower one's relative to itself.
    assert null["low"] == pytest.approx(low, rel=0.25)
    assert null["high"] == pytest.approx(high, rel=0.1)
    assert null["low"] <= figures["ece"] <= null["high"]  # these answers are calibrated


def test_overconfidence_lies_outside_the_band_and_outside_its_bins():
    figures = calibration(bin_counts(*predictions(power=2.0), edges=equal_width()))
    assert figures["ece"] > 2 * figures["null"]["high"]
    assert figures["mce"] >= figures["rms"] >= figures["ece"]
    filled = [row for row in figures["bins"] if row["count"]]
    assert sum(row["accuracy"] < row["low"] for row in filled) >= len(filled) - 1
    empty = next(row for row in figures["bins"] if not row["count"])
    assert empty["accuracy"] is None


def test_logits_are_not_confidences():
    with pytest.raises(ValueError, match="2 confidences are not in 0..1"):
        calibration(bin_counts([2.0, np.nan], np.ones(2), edges=equal_width()))
    with pytest.raises(ValueError, match="nothing was counted"):
        calibration(bin_counts([], [], edges=equal_width()))


def overconfident(n=400, classes=4, factor=3.0):
    drawn = np.random.default_rng(1)
    logits = drawn.normal(size=(n, classes)) * 1.5
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = (share.cumsum(1) > drawn.random((n, 1))).argmax(1)
    return logits * factor, targets


def test_temperature_is_at_the_optimum_that_a_grid_and_scipy_find():
    optimize = pytest.importorskip("scipy.optimize")
    logits, targets = overconfident()

    def nll(inverse):
        scaled = logits * inverse
        top = scaled.max(1)
        whole = np.log(np.exp(scaled - top[:, None]).sum(1)) + top
        return (whole - scaled[np.arange(len(targets)), targets]).mean()

    found = fit_temperature(logits, targets)
    best = optimize.minimize_scalar(
        nll, bounds=(0.01, 2), method="bounded", options={"xatol": 1e-9}
    )
    assert 1 / found.temperature == pytest.approx(best.x, rel=1e-6)
    assert found.temperature == pytest.approx(3, rel=0.2)
    assert found.nll_after == pytest.approx(best.fun, abs=1e-12)
    assert found.nll_before == pytest.approx(nll(1.0))
    assert abs(found.slope) < 1e-12
    assert found.nll_after <= min(nll(found.temperature**-1 * f) for f in (0.99, 1.01))


def test_a_scaled_model_has_its_temperature_scaled():
    logits, targets = overconfident()
    once, tenfold = fit_temperature(logits, targets), fit_temperature(10 * logits, targets)
    assert tenfold.temperature == pytest.approx(10 * once.temperature, rel=1e-9)
    assert tenfold.nll_after == pytest.approx(once.nll_after)


def test_no_optimum_is_refused():
    logits = np.eye(3) * 5
    with pytest.raises(ValueError, match="every answer is right"):
        fit_temperature(logits, np.arange(3))
    with pytest.raises(ValueError, match="say nothing"):
        fit_temperature(-logits, np.arange(3))
