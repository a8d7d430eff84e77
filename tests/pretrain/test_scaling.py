"""The scaling law finds the law that made the runs, and says what the runs cannot tell."""

import numpy as np
import pytest

from gesso.reports.sweep.scaling import Point, fit, problems, variance_shares

SIZES, LENGTHS = np.geomspace(1e5, 1e8, 6), np.geomspace(1e7, 1e9, 4)
TRUE = {"E": 1.7, "A": 400.0, "a": 0.34, "B": 410.0, "b": 0.28}


def runs(*, floor=1.7, noise=0.0, seed=0):
    """24 runs whose losses follow the law of TRUE (https://arxiv.org/abs/2203.15556)."""
    draw = np.random.default_rng(seed)
    return [
        Point(
            parameters=n, tokens=d,
            loss=(floor + 400 / n**0.34 + 410 / d**0.28) * np.exp(noise * draw.normal()),
        )
        for n in SIZES for d in LENGTHS
    ]  # fmt: skip


def test_a_law_without_noise_is_found():
    law = fit(runs(), bootstraps=5)
    assert law.form == "irreducible"
    for name, value in TRUE.items():
        assert law.values[name] == pytest.approx(value, rel=1e-3), name
    assert law.error < 1e-6


def test_with_noise_the_intervals_hold_the_truth():
    law = fit(runs(noise=0.003), bootstraps=40)
    for name in ("E", "a", "b"):
        low, high = law.interval(name, level=0.98)  # bootstraps of 24 runs are narrow
        assert low < TRUE[name] < high, (name, low, high)
    low, high = law.band(np.array([1e6]), np.array([1e8]), level=0.98)
    assert low < 1.7 + 400 / 1e6**0.34 + 410 / 1e8**0.28 < high
    assert law.left_out["irreducible"] < law.left_out["none"]


def test_a_floor_that_is_not_there_is_not_claimed():
    law = fit(runs(floor=0.0, noise=0.003), bootstraps=3)
    assert law.form == "none" and law.values["E"] == 0.0
    assert law.values["a"] == pytest.approx(0.34, rel=0.1)


def test_the_optimum_is_one():
    """No other split of the budget has a lower loss."""
    law = fit(runs(), bootstraps=3)
    flops = 6 * 1e6 * 1e8
    best = law.optimum(flops)
    n, d = best["parameters"][0], best["tokens"][0]
    assert 6 * n * d == pytest.approx(flops)
    for factor in (0.8, 1.25):
        other = law.loss(np.array([n * factor]), np.array([d / factor]))
        assert best["loss"][0] < other[0]
    far = law.optimum(1e30)["parameters"][0]
    assert far == pytest.approx(4 * SIZES[-1]), "no statement about sizes nobody ran"
    small = fit(
        [Point(parameters=p.parameters, tokens=p.tokens / 1e4, loss=p.loss) for p in runs()],
        bootstraps=3,
    )
    spent = 6 * 1e6 * LENGTHS[-1] / 1e4
    assert small.optimum(spent)["tokens"][0] <= 4.001 * LENGTHS[-1] / 1e4, "nor about lengths"


def test_runs_that_carry_no_law_are_refused():
    assert "8 are needed" in problems(runs()[:5])
    same = [Point(parameters=1e6, tokens=p.tokens, loss=p.loss) for p in runs()]
    with pytest.raises(ValueError, match="1 sizes of model"):
        fit(same)


def test_what_a_setting_explains():
    choices = [{"rate": r, "seed": s} for r in (1, 2, 3) for s in (0, 1)]
    shares = variance_shares(choices, [c["rate"] ** 2 + 0.01 * c["seed"] for c in choices])
    assert list(shares) == ["rate", "seed"]
    assert shares["rate"] > 0.99 and shares["seed"] < 0.01
    drawn = np.random.default_rng(0).uniform(size=40)
    many = variance_shares([{"x": float(x)} for x in drawn], drawn.tolist())
    assert 0.8 < many["x"] < 1, "quarters of a range keep most of a straight line"
    assert variance_shares([{"x": 1}, {"x": 2}], [1.0, 1.0]) == {"x": 0.0}
