"""The command line: what is found, what is refused, how fast, and with which exit status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gesso.launch import cli
from gesso.launch.console import Refused, existing, print_json
from gesso.pretrain.exits import DONE, FAILED, REFUSED

CHECKOUT = Path(__file__).parents[2]
GROUPS = sorted({name.split()[0] for name in cli.COMMANDS})
# Runs the command and says whether JAX was imported on the way.
PROBE = (
    "import sys; from gesso.launch.cli import main; status = main(sys.argv[1:]);"
    " print('jax' in sys.modules, file=sys.stderr); sys.exit(status)"
)


def gesso(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["pretrian", "debug-gpt-neo"], "pretrain"),
        (["corpus", "bulid"], "corpus build"),
        (["corpus", "inspect", "stor"], "store"),
        (["pretrain", "debug-gpt-noe"], "debug-gpt-neo"),
        (["pretrain", "debug-gpt-neo", "--optimiser.learning-rate", "1"], "--optimizer.learning-"),
        (["pretrain", "debug-gpt-neo", "--mesh.fdsp", "8"], "--mesh.fsdp"),
        (["pretrain", "debug-gpt-neo", "--optimizer.name", "adamx"], "adamw"),
        (["evaluate", "runs/quickstrat"], "runs/quickstart"),
        (["evaluate", "rusn/quickstart"], "runs"),
        (["report", "runs"], "runs/quickstart"),
        (["generate", "runs/quickstrat", "--prompt", "x"], "runs/quickstart"),
        (["list", "--jsno"], "--json"),
    ],
)
def test_a_mistyped_word_is_refused_at_once_with_the_nearest(
    tmp_path: Path, arguments: list[str], meant: str
) -> None:
    run = tmp_path / "runs/quickstart"
    run.mkdir(parents=True)
    (run / "experiment.json").write_text("{}")
    (tmp_path / "store").mkdir()
    (tmp_path / "store/meta.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    began = os.times()
    done = gesso(*arguments, cwd=tmp_path)
    ended = os.times()
    assert done.returncode == REFUSED
    assert "did you mean" in done.stderr
    assert meant in done.stderr.partition("did you mean")[2]
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert done.stderr.strip().endswith("False"), "JAX was imported"
    assert sorted(tmp_path.rglob("*")) == before
    # CPU time, so that a busy machine does not fail it: 0.2 s where this was written.
    user = ended.children_user - began.children_user
    assert user + ended.children_system - began.children_system < 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["corpus"],
        ["pretrain"],
        ["pretrain", "--steps", "3"],
        ["pretrain", "debug-gpt-neo", "--steps", "many"],
        ["pretrain", "debug-gpt-neo", "--steps"],
        ["pretrain", "debug-gpt-neo", "stray"],
        ["evaluate"],
        ["evaluate", "."],
        ["report"],
        ["quickstart", "--steps", "-1"],
        ["generate", "nowhere", "--prompt", "x"],
    ],
    ids=" ".join,
)
def test_an_incomplete_request_is_refused_without_a_traceback(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = gesso(*arguments, cwd=tmp_path)
    assert done.returncode == REFUSED
    assert "Traceback" not in done.stderr
    assert len(done.stdout + done.stderr) > 40, "it says what to do"
    assert done.stderr.strip().endswith("False"), "JAX was imported"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], *([group] for group in GROUPS)], ids=" ".join)
def test_help_is_cheap(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main([*arguments, "--help"]) == DONE
    assert "gesso" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_teaches_by_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*name.split(), "--help"]) == DONE
    shown = capsys.readouterr().out
    assert re.search(r"Examples?:", shown)
    assert f"gesso {name}" in shown.partition("Example")[2]


@pytest.mark.parametrize("name", ["corpus build", "corpus inspect", "corpus verify", "evaluate",
                                  "list", "doctor", "quickstart", "tokenizer train",
                                  "tokenizer inspect"])  # fmt: skip
def test_commands_with_figures_offer_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*name.split(), "--help"]) == DONE
    assert "--json" in capsys.readouterr().out


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"gesso {name}" in shown for name in cli.COMMANDS)


def fake(monkeypatch: pytest.MonkeyPatch, raised: BaseException, *, ours: bool) -> None:
    """A command "fails" that raises, from a file of ours or from elsewhere."""
    where = CHECKOUT / "launch/fake.py" if ours else Path("/elsewhere/library.py")
    program = "def command(arguments):\n    raise error\n"
    name = "gesso.launch.commands.fails"
    space: dict[str, object] = {"error": raised, "__name__": name if ours else "elsewhere"}
    exec(compile(program, str(where), "exec"), space)
    module = ModuleType(name)
    module.command = space["command"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(cli.COMMANDS, "fails", cli.Command("fails:command", ""))


@pytest.mark.parametrize(
    ("raised", "ours", "status", "traceback"),
    [
        (ValueError("batch 3 does not divide"), True, REFUSED, False),
        (ValueError("shapes of a library"), False, FAILED, True),
        (RuntimeError("disk full"), True, FAILED, True),
        (SystemExit(75), True, 75, False),
        (SystemExit("what"), True, REFUSED, False),
        (KeyboardInterrupt(), True, 130, False),
    ],
)
def test_exit_statuses(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    ours: bool,
    status: int,
    traceback: bool,
) -> None:
    fake(monkeypatch, raised, ours=ours)
    assert cli.main(["fails"]) == status
    assert ("Traceback" in capsys.readouterr().err) == traceback


def test_a_refusal_can_show_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(monkeypatch, ValueError("no [bold]markup[/] is read"), ours=True)
    monkeypatch.setenv("GESSO_TRACEBACK", "1")
    assert cli.main(["fails"]) == REFUSED
    shown = capsys.readouterr().err
    assert "gesso: no [bold]markup[/] is read" in shown
    assert "Traceback" in shown


@pytest.mark.parametrize("package", ["models", "data", "configs"])
def test_a_package_of_a_common_name_disturbs_nothing(tmp_path: Path, package: str) -> None:
    """As a user's own `data/` beside their script: it comes first on the import path."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('imported')")
    found = gesso("list", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert "debug-gpt-neo" in found.stdout


def test_existing_names_the_part_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "runs/neo").mkdir(parents=True)
    assert existing(str(tmp_path / "runs/neo"), what="run") == tmp_path / "runs/neo"
    with pytest.raises(Refused, match=r"did you mean .*runs/neo\?"):
        existing(str(tmp_path / "runs/noe"), what="run")
    with pytest.raises(Refused, match=r"did you mean .*/runs\?"):
        existing(str(tmp_path / "rnus/neo"), what="run")
    with pytest.raises(Refused, match="there is no run"):
        existing(str(tmp_path / "runs/neo/zzz"), what="run")


def test_json_takes_what_commands_have(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    print_json(
        {"path": Path("a"), "scalar": np.float32(0.5), "array": np.arange(2), "n": np.int64(3)}
    )
    assert json.loads(capsys.readouterr().out) == {
        "path": "a",
        "scalar": 0.5,
        "array": [0, 1],
        "n": 3,
    }
    with pytest.raises(TypeError):
        print_json(object())


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"set -o pipefail; {sys.executable} -m gesso.launch.cli list --json | head -c 1",
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == DONE, done.stderr
    assert "Traceback" not in done.stderr
