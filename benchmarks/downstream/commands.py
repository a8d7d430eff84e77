"""gesso's commands, one process each, and what they left in a run's folder. Each of them goes on
where it was stopped, and does nothing where it is done."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GESSO = (sys.executable, "-m", "gesso.launch.cli")


class CommandFailed(RuntimeError):
    """A command that did not end well, with its last lines."""


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Runs commands. log: where their progress goes. said: they, as a person would type them.
    runs: the folders of those that trained."""

    log: Path
    said: list[str] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)

    def __call__(self, *arguments: object) -> str:
        """What the command prints. Raises CommandFailed."""
        written = [str(each) for each in arguments]
        self.said.append(_spelled(arguments))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write(f"\n$ {self.said[-1]}\n")
            log.flush()
            done = subprocess.run([*GESSO, *written], stdout=subprocess.PIPE, stderr=log, text=True)
            log.write(done.stdout)
        if done.returncode:
            last = "\n".join(self.log.read_text().splitlines()[-12:])
            raise CommandFailed(
                f"{self.said[-1]}\nended with {done.returncode}; {self.log}:\n{last}"
            )
        return done.stdout

    def tokenizer(self, folder: Path, texts: Sequence[Path], *, vocab: int) -> None:
        """A byte-level BPE of these texts, which is trained once: the command refuses to do it
        again."""
        command = ("tokenizer", "train", *texts, "--folder", folder)
        command = (*command, "--kind", "bpe", "--vocab-size", vocab)
        if folder.exists():
            self.said.append(_spelled(command))
        else:
            self(*command)

    def run(self, command: str, experiment: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """`gesso pretrain|finetune EXPERIMENT --folder FOLDER --a.b value ...`; None: no value."""
        flags: list[object] = []
        for name, value in settings.items():
            flags += [f"--{name}"] if value is None else [f"--{name}", value]
        self(command, experiment, "--folder", folder, *flags)
        self.runs.append(folder)

    def json(self, *arguments: object) -> dict[str, Any]:
        """The JSON that a command prints with --json."""
        return json.loads(self(*arguments, "--json"))


def _spelled(arguments: Sequence[object]) -> str:
    return " ".join(["gesso", *map(str, arguments)])


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The records of a run's held-out evaluations, the last one last; a step that was evaluated
    again after a restart is there once."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = {each["step"]: each for each in lines if each["kind"] == "evaluation"}
    return [found[step] for step in sorted(found)]


def seconds(run: Path) -> float:
    """From a run's first record to its last one: what it took, whoever called it and when."""
    times = [json.loads(line)["time"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return times[-1] - times[0]
