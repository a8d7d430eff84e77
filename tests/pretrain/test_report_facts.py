"""Curves are thinned and smoothed without losing what matters; odd records do no harm."""

import math

import numpy as np
import pytest

from gesso.records.quantities import value_text
from gesso.reports.facts import Curve, curve, decimate, latest, smooth, tokens_seen, typical
from gesso.reports.plots import Plot, Series, draw


def make(y):
    return Curve(name="loss", x=np.arange(len(y)), y=np.asarray(y, float))


def test_a_million_steps_become_a_thousand_points_with_every_spike():
    y = np.random.default_rng(0).normal(2, 0.1, 1_000_000)
    spikes = {17: 50.0, 500_000: -3.0, 999_998: 40.0}
    for at, value in spikes.items():
        y[at] = value
    thin = decimate(make(y), limit=1000)
    assert 900 < len(thin.x) <= 1000
    assert (thin.x[0], thin.x[-1]) == (0, 999_999) and (np.diff(thin.x) > 0).all()
    for at, value in spikes.items():
        assert thin.y[thin.x == at] == [value]
    np.testing.assert_array_equal(thin.y, y[thin.x])


def test_a_gap_of_no_numbers_is_still_a_gap():
    y = np.ones(10_000)
    y[4000:6000] = np.nan
    y[7000] = np.inf
    thin = decimate(make(y), limit=100)
    inside = (thin.x >= 4100) & (thin.x < 5900)
    assert inside.any() and np.isnan(thin.y[inside]).all()
    assert np.isfinite(thin.y[thin.x < 3900]).all()


@pytest.mark.parametrize("n", [0, 1, 2, 5, 999, 1000, 1001, 1003])
def test_few_points_are_kept(n):
    thin = decimate(make(np.arange(n)), limit=1000)
    assert len(thin.x) <= 1000
    if n <= 1000:
        np.testing.assert_array_equal(thin.y, np.arange(n))


def test_smoothing_keeps_constants_and_straight_lines_to_their_ends():
    line = np.linspace(5, 1, 101)
    np.testing.assert_allclose(smooth(make(line), window=20).y, line, rtol=1e-12)
    noisy = line + np.random.default_rng(0).normal(0, 0.1, 101)
    assert np.std(smooth(make(noisy), window=20).y - line) < 0.05


def test_smoothing_steps_over_what_is_no_number():
    y = np.ones(50)
    y[20] = np.nan
    assert (smooth(make(y), window=10).y == 1).all()
    assert np.isnan(smooth(make([np.nan] * 9), window=4).y).all()


def test_curves_take_the_records_that_have_the_number():
    records = [
        {"step": 1, "components": {"A": 2.0}},
        {"step": 2, "components": {}},
        {"step": 3, "components": {"A": None}},
        {"step": 4, "components": None},
    ]
    found = curve(records, "components", "A")
    assert found.x.tolist() == [1, 3] and found.y[0] == 2.0 and math.isnan(found.y[1])


def test_summaries():
    records = [{"step": 10 * (i + 1), "loss": float(i), "tokens": 7} for i in range(100)]
    assert latest(records, "loss") == np.mean([95, 96, 97, 98, 99])
    assert typical(records, "loss") == 50.0
    assert math.isnan(latest([], "loss")) and math.isnan(typical([], "loss"))


def test_tokens_of_logged_steps_stand_for_those_between():
    class Run:
        train = [
            {"step": 10, "tokens": 100},
            {"step": 20, "tokens": 100},
            {"step": 25, "tokens": 90},
        ]

    assert tokens_seen(Run()) == 10 * 100 + 10 * 100 + 5 * 90


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(
    "y", [[1.0], [0.0, 0.0], [-1.0, -2.0], [1e-30, 1e30], [np.nan, 3.0, np.inf], [1e308, -1e308]]
)
def test_any_numbers_can_be_drawn(y, scale):
    plot = Plot(
        key="k",
        title="T",
        unit="u",
        scale=scale,
        series=[Series(label="s", curve=make(y), color=1)],
    )
    figure = draw(plot)
    assert figure is not None and "<path" in figure.svg


def test_nothing_to_draw_is_no_figure():
    empty = [Series(label="s", curve=make(y), color=1) for y in ([], [np.nan], [np.inf])]
    assert draw(Plot(key="k", title="T", unit="u", series=empty)) is None


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (2.34567, "number", "2.346"), (12.746, "number", "12.75"), (449.654, "number", "449.7"),
        (1634.42, "number", "1,634"), (0.0006, "number", "6e-4"), (0.05, "number", "0.05"),
        (0.0, "number", "0"), (2.26e46, "number", "2.26e46"), (math.nan, "number", "n/a"),
        (math.inf, "number", "∞"), (0.41234, "percent", "41.2%"), (0.00123, "percent", "0.12%"),
        (88_123.0, "short", "88.1k"),
    ],
)  # fmt: skip
def test_numbers_as_read(value, form, text):
    assert value_text(value, form) == text
