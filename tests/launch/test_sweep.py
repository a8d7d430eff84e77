"""Sweeps: what they expand to, that the commands mean it, and that a killed one goes on."""

import pytest

from gesso.configs.sweep import Range, Sweep
from gesso.configs.sweeps import SWEEPS, sweep
from gesso.launch.commands.pretrain import read

optuna = pytest.importorskip("optuna", reason="sweeps are an extra")
from gesso.launch.trials import command, open_study, run_sweep  # noqa: E402

TINY = {
    "data.store": "embedded:bytes:0.3",
    "model.layers": 1,
    "model.embed": 32,
    "length": 32,
    "evaluation.every_steps": 1,
    "evaluation.rows": 1,
    "evaluation.sample_every_steps": 0,
    "logging.tensorboard": False,
}


def made(**changes):
    space = {"optimizer.learning_rate": (1e-3, 1e-2), "steps": (1, 2)}
    return Sweep(**{"name": "tiny", "experiment": "debug-gpt2", "space": space} | changes)


def test_what_a_sweep_expands_to():
    assert len(made().choices()) == 4
    rates = [each["optimizer.learning_rate"] for each in made(method="zip").choices()]
    assert rates == [1e-3, 1e-2]
    drawn = made(method="random", trials=50, space={"a": Range(low=1e-4, high=1, scale="log")})
    values = [each["a"] for each in drawn.choices()]
    assert values == [each["a"] for each in drawn.choices()], "the seed decides"
    assert 1e-4 <= min(values) < 1e-3 and 0.1 < max(values) <= 1
    assert made(method="tpe", trials=3).choices() is None
    bundles = made(space={"size": {"s": {"model.embed": 32, "model.heads": 2}, "m": {}}})
    assert bundles.settings({"size": "s"}) == {"model.embed": 32, "model.heads": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "at least one setting"),
        ({"space": {"a": Range(low=0, high=1)}}, "cannot be listed"),
        ({"method": "random"}, "needs `trials`"),
        ({"trials": 3}, "has no effect"),
        ({"method": "zip", "space": {"a": (1,), "b": (1, 2)}}, "of one length"),
        ({"space": {"a": ()}}, "no values"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(changes, message):
    assert any(message in problem for problem in made(**changes).problems())


def test_a_mistyped_sweep_is_answered():
    with pytest.raises(ValueError, match="did you mean debug-rates"):
        sweep("debug-rate")


@pytest.mark.parametrize("name", SWEEPS)
def test_every_command_is_the_run_it_stands_for(name, tmp_path):
    from gesso.configs.registry import experiment

    asked = sweep(name)
    for choice in asked.choices() or []:
        kind, *arguments = command(asked, choice, tmp_path / "run")
        assert kind == "pretrain"
        assert read(arguments).experiment == experiment(asked.experiment, asked.settings(choice))


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_the_trial_it_was_at(tmp_path):
    asked = made(fixed=TINY, space={"optimizer.learning_rate": (1e-3, 1e-2)}, metric="loss")
    asked = Sweep(**{**vars(asked), "fixed": TINY | {"steps": 2}})
    killed = open_study(asked, tmp_path).ask()  # a sweep that died after starting its first trial
    told = []
    study = open_study(asked, tmp_path)
    run_sweep(asked, study, tmp_path, parallel=1, told=told.append)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert [trial.params["optimizer.learning_rate"] for trial in study.trials] == [1e-3, 1e-2]
    assert told[0].startswith(f"{killed.number}: gesso pretrain debug-gpt2")
    assert study.trials[0].value != study.trials[1].value
    before = len(told)
    run_sweep(asked, study, tmp_path, parallel=1, told=told.append)
    assert len(told) == before, "nothing is left"
    with pytest.raises(ValueError, match="holds another sweep tiny"):
        open_study(made(), tmp_path)


def test_the_page_of_a_sweep_that_has_not_begun(tmp_path, capfd):
    from gesso.launch.cli import main

    assert main(["sweep", "debug-rates", "--folder", str(tmp_path), "--show", "page"]) == 0
    assert f"page: {tmp_path / 'sweep.html'}" in capfd.readouterr().err
    assert "A sweep of 0 runs" in (tmp_path / "sweep.html").read_text()
