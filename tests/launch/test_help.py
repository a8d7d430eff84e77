"""`--help`: two screens of what people change, every setting on request, all of it true."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gesso.configs import registry
from gesso.launch import cli, help
from gesso.launch.commands import plan, pretrain
from gesso.pretrain.exits import DONE, REFUSED
from gesso.pretrain.experiment import Experiment
from gesso.settings.explain import Group, Setting, groups

BRIEF, WHOLE = help.Asked(everything=False, topic=""), help.Asked(everything=True, topic="")
# One experiment of every family and objective, and of every part that only some have.
VARIOUS = ("debug-gpt-neo", "debug-bert", "debug-elmo", "debug-t5", "debug-mixed", "debug-ulmfit",
           "debug-lora", "debug-classify", "bert-base", "finetune-qa")  # fmt: skip


def explained(name: str) -> list[Group]:
    run = pretrain.Run(folder=f"runs/{name}")
    return [*groups(run), *groups(registry.experiment(name))]


def lines(name: str, wanted: help.Asked, *, width: int = 100) -> list[str]:
    told = help.page(
        explained(name),
        wanted,
        prog=f"gesso pretrain {name}",
        description=registry.describe(name),
        everyday=help.EVERYDAY,
        width=width,
    )
    return "\n".join(each.plain for each in told).split("\n")


@pytest.mark.parametrize("name", registry.names())
def test_the_short_help_is_two_screens(name: str) -> None:
    shown = lines(name, BRIEF)
    assert len(shown) <= 100, f"{len(shown)} lines; two screens of 50 are 100"
    # An experiment's own commands are not broken; all else is filled.
    assert max(len(each) for each in shown) <= 100
    text = "\n".join(shown)
    assert registry.describe(name).splitlines()[0] in text
    options = re.findall(r"^  (--[\w.-]+) [A-Z]", text, re.M)
    assert 28 <= len(options) <= 40
    for group in ("model", "objective", "data", "optimizer", "mesh", "checkpoint"):
        assert re.search(rf"^  --help {group} +\d+ settings\. [A-Z]", text, re.M)


@pytest.mark.parametrize("name", VARIOUS)
def test_every_setting_has_its_default_and_its_sentence_in_help_all(name: str) -> None:
    text = " ".join(" ".join(lines(name, WHOLE)).split())
    settings = [each for group in explained(name) for each in group.settings]
    assert len(settings) > 100
    for each in settings:
        head = each.option if each.by_option else each.path
        assert re.search(rf"(?<![\w.-]){re.escape(head)} .{{0,300}}", text), each.path
        assert " ".join(each.text.split()) in text, each.path


def test_the_settings_people_change_are_settings() -> None:
    known = {each.path for name in VARIOUS for group in explained(name) for each in group.settings}
    planned = {field.name for field in dataclasses.fields(plan.Planned)}
    assert len(set(help.EVERYDAY)) == len(help.EVERYDAY)
    assert not set(help.EVERYDAY) - known
    assert not set(help.PLANNED) - known
    assert not planned & set(help.PLANNED)


def typed(value: object) -> list[str]:
    """A setting's value as words of a command line."""
    if isinstance(value, Mapping):
        return [word for pair in value.items() for each in pair for word in typed(each)]
    if isinstance(value, tuple):
        return [word for each in value for word in typed(each)]
    return [str(value)]


@pytest.mark.parametrize("name", VARIOUS)
def test_what_the_help_shows_can_be_typed(name: str) -> None:
    """Every option exists under its name, and takes the default that is shown."""
    settings: list[Setting] = [each for group in explained(name) for each in group.settings]
    arguments = [name]
    for each in settings:
        if each.by_option and not isinstance(each.value, bool):
            arguments += [each.option, *typed(each.value)]
    assert len(arguments) > 200
    read = pretrain.read(arguments)
    assert read.experiment == registry.experiment(name)
    assert read.folder == Path(f"runs/{name}")
    flags = [each.option for each in settings if isinstance(each.value, bool)]
    assert flags == ["--logging.no-tensorboard"]
    assert not pretrain.read([name, *flags]).experiment.logging.tensorboard


def test_one_group_and_one_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "debug-gpt-neo", "--help", "optimizer"]) == DONE
    shown = capsys.readouterr().out
    assert "--optimizer.schedule.warmup-steps" in shown and "--mesh" not in shown
    assert cli.main(["pretrain", "debug-gpt-neo", "--help=optimizer.learning-rate"]) == DONE
    assert "Peak learning rate." in capsys.readouterr().out
    assert cli.main(["pretrain", "debug-gpt-neo", "--help", "run"]) == DONE
    shown = capsys.readouterr().out
    assert "--steps INT [100]" in shown and "phases (set in an experiment's function)" in shown
    assert cli.main(["pretrain", "debug-gpt-neo", "--help", "optimiser"]) == REFUSED
    assert "did you mean optimizer?" in capsys.readouterr().err


def test_other_commands_with_an_experiment_explain_it_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # pytest-xdist's workers have 80
    assert cli.main(["plan", "debug-gpt-neo", "--help"]) == DONE
    shown = capsys.readouterr().out
    assert "--topology TEXT (required)" in shown and "--mesh.fsdp INT [1]" in shown
    assert shown.count("\n") <= 100
    assert cli.main(["finetune", "debug-ulmfit", "--help"]) == DONE
    shown = capsys.readouterr().out
    assert "Gradual unfreezing" in shown and "--start.source" in shown
    assert shown.count("\n") <= 100


def test_a_narrow_page_puts_sentences_below_options() -> None:
    shown = lines("bert-base", BRIEF, width=80)
    assert max(len(each) for each in shown) <= 80
    at = shown.index("  --steps INT [1000000]")
    assert shown[at + 1] == "      Updates of the whole run."


@pytest.mark.parametrize(
    ("command", "topic"), [("finetune debug-ulmfit", "start"), ("plan debug-gpt-neo", "mesh"),
                           ("corpus build", "folder")],
)  # fmt: skip
def test_help_asks_for_nothing_else(
    command: str, topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No source, no topology and no input is needed to be told of a command."""
    for more in ("--help-all", f"--help={topic}", f"--help {topic}"):
        assert cli.main([*command.split(), *more.split()]) == DONE
        assert f"--{topic}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_help_needs_no_jax(tmp_path: Path, option: str) -> None:
    program = (
        "import sys; from gesso.launch.cli import main; status = main(sys.argv[1:]);"
        " sys.exit(3 if 'jax' in sys.modules else status)"
    )
    command = [sys.executable, "-c", program, "pretrain", "debug-gpt-neo", option]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == DONE, "3: JAX was imported"
    assert "Updates of the whole run." in done.stdout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """An experiment's stand-in."""

    on: bool = True
    """Whether it is on."""
    off: bool = False
    """Whether it is off."""
    step: int | None = None
    """Step; the newest by default."""


def test_flags_are_shown_as_what_they_switch() -> None:
    told = help.page(list(groups(Asked)), WHOLE, prog="gesso x", description="X.", width=100)
    text = "\n".join(each.plain for each in told)
    assert re.search(r"^  --no-on \[on\]  +Whether it is on\.$", text, re.M)
    assert re.search(r"^  --off  +Whether it is off\.$", text, re.M)
    assert re.search(r"^  --step INT  +Step; the newest by default\.$", text, re.M)


def test_the_experiment_is_what_it_was() -> None:
    """Explaining reads a config and makes no other."""
    experiment: Experiment = registry.experiment("debug-mixed")
    list(groups(experiment))
    assert experiment == registry.experiment("debug-mixed")
