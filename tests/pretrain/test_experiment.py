"""An experiment round-trips through its record, and what cannot run is refused with what to do."""

import dataclasses
import json
import subprocess
import sys

import pytest

from gesso import configs
from gesso.pretrain.checks import validate
from gesso.pretrain.config import OptimizerConfig, ScheduleConfig
from gesso.pretrain.experiment import (
    MAY_CHANGE,
    Experiment,
    ExperimentError,
    difference,
    flatten,
    from_json,
    override,
    to_json,
)
from gesso.pretrain.folder.claim import RunFolderError, claim
from gesso.storage.files import write_json


@pytest.mark.parametrize("name", configs.names())
def test_every_experiment_round_trips_and_says_its_numbers(name):
    made = configs.experiment(name)
    assert from_json(json.loads(json.dumps(to_json(made)))) == made
    assert made.name == name
    commands = [f"gesso pretrain {name}", f"gesso finetune {name}"]
    said = configs.describe(name)
    assert any(each in said for each in commands) or name == "quickstart"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 9}, "batch 9 does not divide over 8 rows.*try 8 or 16"),
        ({"batch": 8, "microbatches": 2}, "in 2 microbatches.*try 16"),
        ({"length": 100_000}, "over the model's 128 positions"),
        ({"mesh.tensor": 3}, "multiply to 8"),
        ({"mesh.tensor": 8, "layout": "tensor"}, "model.heads 4 does not divide.*try 8"),
        ({"mesh.tensor": 2}, "splits nothing in layout 'fsdp'"),
        ({"mesh.fsdp": 2, "layout": "replicated"}, "splits nothing"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"optimizer.learning_rate": -1.0}, "learning_rate must be positive"),
        ({"optimizer.b2": 1.0}, r"b2 must be in \[0, 1\)"),
        (
            {"optimizer.schedule": ScheduleConfig(kind="wsd", warmup_steps=50, decay_steps=60)},
            "warmup 50 \\+ decay 60 steps are more than 100",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_what_to_do(changes, message):
    made = override(configs.experiment("debug-gpt-neo"), {"model.positions": 128, **changes})
    with pytest.raises(ExperimentError, match=message):
        validate(made, devices=8)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused():
    made = configs.experiment("debug-gpt-neo")
    with pytest.raises(ExperimentError, match="--model.vocab 70000"):
        validate(made, devices=1, tokenizer_vocab=70_000)


def test_all_problems_are_said_at_once():
    made = configs.experiment("debug-gpt-neo", {"steps": 0, "length": 100_000})
    with pytest.raises(ExperimentError) as error:
        validate(made, devices=1)
    assert str(error.value).count("\n  - ") >= 2


@pytest.mark.parametrize(
    ("name", "near"),
    [("debug-gptneo", "debug-gpt-neo"), ("gpt-neo-125", "gpt-neo-125m"), ("gptj-6b", "gpt-j-6b")],
)
def test_a_mistyped_experiment_is_answered_with_the_nearest(name, near):
    with pytest.raises(ExperimentError, match=f"did you mean.*{near}"):
        configs.experiment(name)


def test_a_mistyped_setting_is_answered_with_the_nearest():
    with pytest.raises(ExperimentError, match="did you mean 'learning_rate'"):
        configs.experiment("debug-gpt-neo", {"optimizer.learningrate": 1.0})


def test_a_record_of_another_version_names_the_field():
    record = to_json(configs.experiment("debug-gpt-neo"))
    record["optimizer"]["momentum"] = 0.9
    with pytest.raises(ExperimentError, match="momentum"):
        from_json(record)


def test_settings_are_read_without_jax():
    code = "import sys, configs; configs.experiment('gpt-j-6b'); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_continues_itself_and_refuses_another_experiment(tmp_path):
    made = configs.experiment("debug-gpt-neo")
    assert claim(tmp_path / "run", made) == "new"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.json.17-42.tmp").write_text("{")  # killed while it wrote
    assert claim(tmp_path / "run", made) == "new"
    write_json(tmp_path / "run/experiment.json", to_json(made))
    assert claim(tmp_path / "run", made) == "continued"
    assert claim(tmp_path / "run", override(made, {"mesh.data": 1, "microbatches": 2}))
    other = override(made, {"optimizer.learning_rate": 5.0})
    with pytest.raises(RunFolderError, match="optimizer.learning_rate: .* there, 5.0 asked"):
        claim(tmp_path / "run", other)
    assert claim(tmp_path / "run", other, named={"optimizer.learning_rate"}) == "continued"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="thesis.tex"):
        claim(tmp_path, configs.experiment("debug-gpt-neo"))
    with pytest.raises(RunFolderError, match="is a file"):
        claim(tmp_path / "thesis.tex", configs.experiment("debug-gpt-neo"))


def test_difference_names_settings_and_leaves_out_what_may_change():
    a = Experiment(name="a", model=configs.experiment("debug-gpt-neo").model)
    b = dataclasses.replace(a, optimizer=OptimizerConfig(b1=0.5), microbatches=4)
    assert difference(to_json(a), to_json(b)) == {"optimizer.b1": (0.9, 0.5)}


def test_every_setting_that_may_change_is_a_setting():
    families = ("debug-gpt-neo", "debug-bert", "debug-elmo", "debug-t5", "debug-bert2bert")
    names = [name for name in families if name in configs.names()]
    keys = {key for name in names for key in flatten(to_json(configs.experiment(name)))}
    for free in MAY_CHANGE:
        assert any(key == free or key.startswith(free + ".") for key in keys), free


def test_a_run_from_before_a_setting_existed_is_continued(tmp_path):
    """Its record lacks the setting, and families and kinds of before there were several."""
    record = to_json(configs.experiment("debug-gpt2"))
    del record["data"]["examples"], record["model"]["family"], record["objective"]["kind"]
    (tmp_path / "experiment.json").write_text(json.dumps(record))
    assert claim(tmp_path, configs.experiment("debug-gpt2")) == "continued"
    with pytest.raises(ValueError, match="data.examples.cap: 0 there, 7 asked"):
        claim(tmp_path, configs.experiment("debug-gpt2", {"data.examples.cap": 7}))
