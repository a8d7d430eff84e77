"""muP: what it changes in a model, what it leaves alone, and that its activations are flat."""

import jax
import numpy as np
import pytest

from gesso.configs.registry import experiment
from gesso.models import build
from gesso.models.trees import flat
from gesso.planning.coordinates import coordinates, widen
from gesso.pretrain.checks import validate
from gesso.pretrain.experiment import ExperimentError
from gesso.pretrain.optimizer.mup import grows, rates
from gesso.reports.sweep.coordinates import (
    Coordinates,
    coordinates_section,
    is_flat,
    read_coordinates,
    slopes,
    write_coordinates,
)

TINY = {
    "data.store": "embedded:bytes:0.3", "length": 16, "model.positions": 16, "batch": 16,
    "model.layers": 2, "optimizer.learning_rate": 1e-2,
}  # fmt: skip


def model(width, *, base, name="debug-gpt2"):
    return widen(experiment(name, TINY), width, base=base, steps=4).model


@pytest.mark.parametrize("name", ["debug-gpt2", "debug-gpt-neo", "debug-gpt-j", "debug-gpt-neox"])
def test_at_its_base_width_it_is_the_standard_parametrisation(name):
    key = jax.random.key(0)
    standard = flat(build(model(64, base=0, name=name)).init(key))
    same = flat(build(model(64, base=64, name=name)).init(key))
    assert all((standard[each] == same[each]).all() for each in standard)
    config = experiment(name).optimizer
    scaled = rates(config, model(64, base=64, name=name), dict.fromkeys(standard, "DF"))
    assert set(scaled.multipliers.values()) == {1.0}
    assert rates(config, model(64, base=0, name=name), {}) is config


@pytest.mark.parametrize("name", ["debug-gpt2", "debug-gpt-neo", "debug-gpt-j", "debug-gpt-neox"])
def test_what_starts_smaller_learns_slower(name):
    """At four times the base width: hidden weights start at half (fan-in 4 times), the head at a
    quarter, both learn at a quarter; all else is as it was."""
    key = jax.random.key(0)
    built = build(model(128, base=32, name=name))
    standard = flat(build(model(128, base=0, name=name)).init(key))
    params, letters = flat(built.init(key)), flat(built.letters)
    learn = rates(experiment(name).optimizer, built.config, letters).multipliers
    for each, x in params.items():
        hidden = each.split("/")[-1] in ("q", "k", "v", "out", "up", "down")
        start = 0.25 if each == "head_table" else 0.5 if hidden else 1.0
        assert grows(each, letters[each]) == (start < 1), each
        assert learn[each] == (0.25 if start < 1 else 1.0), each
        np.testing.assert_allclose(x, start * standard[each], rtol=1e-6, err_msg=each)


def test_what_cannot_take_effect_is_refused():
    base = {"model.mup_base": 32}
    with pytest.raises(ExperimentError, match="--model.head untied"):
        validate(experiment("debug-gpt2", base), devices=1)
    untied = base | {"model.head": "untied"}
    validate(experiment("debug-gpt2", untied), devices=1)
    for name, value, message in (
        ("optimizer.name", "adafactor", "Adam's and Lion's"),
        ("optimizer.multipliers", {"*": 1.0}, "sets the multipliers itself"),
    ):
        with pytest.raises(ExperimentError, match=message):
            validate(experiment("debug-gpt2", untied | {name: value}), devices=1)
    with pytest.raises(ExperimentError, match="heads of 16; try 32"):
        widen(experiment("debug-gpt2"), 40, base=0, steps=1)
    with pytest.raises(ExperimentError, match="gpt family, not bert"):
        widen(experiment("debug-bert"), 32, base=0, steps=1)


def test_slopes_are_powers_of_the_width_and_decide():
    def at(width, power, kind):
        sizes = {"features": 1.0, "logits": 0.3 * width**power}
        return Coordinates(parametrisation=kind, width=width, start=sizes, change=sizes)

    def check(power):
        return [at(w, p, k) for k, p in (("standard", 1), ("muP", power)) for w in (32, 64, 128)]

    assert slopes(check(0.1))["standard"]["logits"] == pytest.approx(1.0)
    assert slopes(check(0.1))["muP"]["logits"] == pytest.approx(0.1)
    assert is_flat(check(0.1)) and not is_flat(check(0.5))
    assert "none grows" in coordinates_section(check(0.1)).text
    assert "will not transfer" in coordinates_section(check(0.5)).text


def test_the_check_is_written_and_read(tmp_path):
    sizes = {"logits": 1.0}
    found = [
        Coordinates(parametrisation=kind, width=width, start=sizes, change=sizes)
        for kind in ("standard", "muP")
        for width in (32, 64)
    ]
    page = write_coordinates("x", found, tmp_path).read_text()
    assert page.count("<svg") == 2 and "Standard parametrisation" in page
    assert read_coordinates(tmp_path) == found
    assert read_coordinates(tmp_path / "none") == []


@pytest.mark.slow
def test_muP_is_flat_where_the_standard_parametrisation_grows():  # noqa: N802  its name
    from gesso.pretrain.open import store_of

    asked = experiment("debug-gpt2", TINY)
    found = coordinates(asked, widths=(32, 64, 128), steps=3, seeds=2, store=store_of(asked))
    powers = slopes(found)
    assert is_flat(found), powers
    assert powers["standard"]["logits"] > 0.5 and powers["standard"]["block 1"] > 0.5, powers
