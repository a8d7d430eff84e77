"""The doctor finds what is wrong with a machine, and says what to do."""

import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from gesso.launch import cli
from gesso.launch.commands import doctor
from gesso.pretrain.exits import DONE, REFUSED


def verdicts(check: object) -> dict[str, str]:
    return {each.check: each.verdict for each in check()}  # type: ignore[operator]


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["doctor", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"]
    checks = {each["check"] for each in found["findings"]}
    assert {"python", "packages", "devices", "memory", "cache", "clock"} <= checks


def test_a_failure_decides_the_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = doctor.Finding(check="thing", verdict="fail", detail="broken [x]; mend it")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([bad]),))
    assert cli.main(["doctor"]) == REFUSED
    shown = capsys.readouterr().out
    assert "broken [x]; mend it" in shown
    assert "would not work here" in shown


def test_a_warning_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    poor = doctor.Finding(check="thing", verdict="warning", detail="")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([poor]),))
    assert cli.main(["doctor"]) == DONE


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "CHECKS", (gone,))
    (found,) = doctor.examine()
    assert (found.check, found.verdict) == ("gone", "fail")
    assert "no such device" in found.detail


@pytest.mark.parametrize(
    ("installed", "bad"),
    [
        ({"flax": "0.12.8", "jax": "0.10.2"}, False),
        ({"flax": "0.12.8", "jax": "0.11.0"}, False),
        ({"flax": "0.12.8", "jax": "0.11.1"}, True),
        ({"flax": "0.12.8", "jax": "0.12.0.1"}, True),
        ({"flax": "0.12.12", "jax": "0.12.0.1"}, False),
        ({"jax": "0.12.0"}, False),
    ],
)
def test_known_bad_pairs(installed: dict[str, str], bad: bool) -> None:
    found = list(doctor.bad_pairs(installed))
    assert bool(found) == bad
    assert all(each.verdict == "fail" for each in found)


def test_a_version_out_of_bounds_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    really = metadata.version

    def version(name: str) -> str:
        if name == "optax":
            return "9.9"
        if name == "sentencepiece":
            raise metadata.PackageNotFoundError(name)
        return really(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {each.check: each for each in doctor.packages()}
    assert found["optax"].verdict == found["sentencepiece"].verdict == "fail"
    assert "make install" in found["optax"].detail
    assert "numpy" not in found


@pytest.mark.parametrize(("free", "verdict"), [(0.5e9, "fail"), (5e9, "warning"), (1e12, "ok")])
def test_disk(monkeypatch: pytest.MonkeyPatch, free: float, verdict: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(1e13, 0, free))
    assert set(verdicts(doctor.disk).values()) == {verdict}


def test_a_clock_before_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert verdicts(doctor.clock) == {"clock": "fail"}


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GESSO_CACHE", str(tmp_path / "file"))
    (found,) = doctor.cache()
    assert found.verdict == "fail"
    assert "GESSO_CACHE" in found.detail
    monkeypatch.setenv("GESSO_CACHE", str(tmp_path / "new"))
    assert verdicts(doctor.cache) == {"cache": "ok"}
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('RuntimeError: no TPU')", "no TPU"),
        ("import time; time.sleep(60)", "found no device within"),
        ('print(\'["tpu", "TPU v5p", 4, 95000000000, 1.0]\')', "do not trust"),
    ],
)
def test_devices_that_do_not_work(monkeypatch: pytest.MonkeyPatch, program: str, said: str) -> None:
    really = subprocess.run

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return really([sys.executable, "-c", program], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(doctor, "DEVICE_SECONDS", 0.5)
    if "sleep" not in program:
        monkeypatch.setattr(doctor, "DEVICE_SECONDS", 30)
    monkeypatch.setattr(doctor.subprocess, "run", run)
    (found,) = doctor.devices()
    assert found.verdict == "fail"
    assert said in found.detail


def test_the_doctor_itself_imports_no_jax() -> None:
    program = "import sys, gesso.launch.commands.doctor; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=os.sep, timeout=60)
    assert done.returncode == 0
