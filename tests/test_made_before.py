"""What Gesso wrote before it was one package is read, continued, merged and exported as then.

tests/fixtures/before_the_house/README.md says how the fixtures were made. Its expected.json is what
this file, run as a program with the old commit's module, printed.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODULE = "gesso.launch.cli"
FIXTURES = Path(__file__).parent / "fixtures/before_the_house"
MADE_WITH = {"jax": importlib.metadata.version("jax"), "machine": platform.machine()}
# Another XLA may round otherwise: 4e-7 was seen between its optimization levels, 1e-7 between SSE
# and AVX2. What is newer than AVX2 is not used here, so that machines of today agree to the bit.
TOLERANCE = 1e-5


def gesso(folder: Path, *arguments: str) -> str:
    """What a command prints, run in a folder as a user would."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "GESSO_"))}
    done = subprocess.run(
        [sys.executable, "-m", MODULE, *arguments],
        cwd=folder,
        env=kept | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_max_isa=AVX2"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def store(home: Path) -> dict[str, Any]:
    verified = json.loads(gesso(home, "corpus", "verify", "store", "--json"))
    found = json.loads(gesso(home, "corpus", "inspect", "store", "--json"))
    return verified | found


def exported(home: Path) -> dict[str, Any]:
    gesso(home, "export", "base", "out")
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((home / "out").iterdir())
    }


def continued(home: Path) -> dict[str, Any]:
    gesso(home, "pretrain", "base", "--steps", "10")
    return steps(home / "base", after=6) | state(home / "base")


def merged(home: Path) -> dict[str, Any]:
    """From another folder, where the paths that the adapter's run recorded lead nowhere."""
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    gesso(elsewhere, "adapter", "merge", f"{home}/lora", "merged", "--base", f"{home}/base")
    return state(elsewhere / "merged")


def adapter_continued(home: Path) -> dict[str, Any]:
    gesso(home, "pretrain", "lora", "--steps", "6")
    return steps(home / "lora", after=4) | state(home / "lora")


FACTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "store": store,
    "exported": exported,
    "continued": continued,
    "merged": merged,
    "adapter_continued": adapter_continued,
}


def steps(run: Path, *, after: int) -> dict[str, Any]:
    """{"step 7 loss": value, ...} of the steps that were continued."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [each for each in map(json.loads, lines) if each["kind"] == "train"]
    assert [each["step"] for each in records] == list(range(1, len(records) + 1))
    return {
        f"step {each['step']} {key}": each[key]
        for each in records[after:]
        for key in ("rows", "batch_crc32", "loss", "grad_norm", "learning_rate")
    }


def state(run: Path) -> dict[str, Any]:
    """{array: [dtype, shape, fingerprint]} of a run's newest checkpoint, optimizer included."""
    newest = max(run.glob("checkpoints/*/manifest.json"), key=lambda path: int(path.parent.name))
    leaves = json.loads(json.loads(newest.read_text())["body"])["leaves"]
    return {
        name: [leaf["dtype"], leaf["shape"], leaf["fingerprint"]] for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("name", FACTS)
def test_what_was_made_before_is_what_it_was(name: str, tmp_path: Path) -> None:
    expected = json.loads((FIXTURES / "expected.json").read_text())
    home = tmp_path / "moved"
    shutil.copytree(FIXTURES, home)
    found, wanted = FACTS[name](home), expected[name]
    assert found.keys() == wanted.keys()
    if expected["made_with"] == MADE_WITH or name in ("store", "exported"):
        different = {key: (wanted[key], found[key]) for key in found if wanted[key] != found[key]}
        assert not different, "(before, now): a file is read, or a step computed, in another way"
        return
    for key, value in wanted.items():
        if isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=TOLERANCE), key
        elif isinstance(value, list) and isinstance(value[-1], str):
            assert found[key][:2] == value[:2], key
        else:
            assert found[key] == value, key


if __name__ == "__main__":
    MODULE = sys.argv[1]
    facts: dict[str, Any] = {"made_with": MADE_WITH}
    for each, make in FACTS.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(FIXTURES, Path(folder) / "moved")
            facts[each] = make(Path(folder) / "moved")
    print(json.dumps(facts, indent=1, sort_keys=True))
