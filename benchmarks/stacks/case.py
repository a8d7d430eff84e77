"""One checkpoint as a run, and its exports: everything through the real `gesso` command line."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stacks.checkpoints import Checkpoint
from gesso.data.tokenizers.load import save_tokenizer
from gesso.export import write_folder
from gesso.export.stacks.stacks import write_stack
from gesso.pretrain.exits import DONE, REFUSED

ROOT = Path(__file__).parents[2]


class Refusal(ValueError):
    """What `gesso` said when it refused a request."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A checkpoint and its run folder. exports: {format: the folder, or why there is none}."""

    checkpoint: Checkpoint
    run: Path
    exports: Mapping[str, Path | Exception]

    def folder(self, format: str) -> Path:
        """The export in a format. Raises what `gesso export` ended with where there is none."""
        found = self.exports[format]
        if isinstance(found, Exception):
            raise found
        return found


def gesso(*arguments: str, timeout_seconds: int = 600) -> str:
    """Run a command in a process of its own; its stdout.

    Raises Refusal with its message for exit status 2, RuntimeError with its last words for others.
    """
    done = subprocess.run(
        [sys.executable, "-m", "gesso.launch.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )
    if done.returncode == REFUSED:
        said = done.stderr.partition("gesso: ")[2] or done.stderr
        raise Refusal(" ".join(said.split()))
    if done.returncode != DONE:
        raise RuntimeError(f"gesso {' '.join(arguments)}: {done.stderr.strip()[-600:]}")
    return done.stdout


def run_of(checkpoint: Checkpoint, place: Path) -> Path:
    """The checkpoint as a run: written as others publish it, then `gesso import`."""
    config, params = checkpoint.config, checkpoint.params
    published, tokenizer, run = place / "published", place / "tokenizer", place / "run"
    if config.family == "elmo":
        write_stack(published, config, params, format="elmo")
    else:
        write_folder(published, config, params)
    save_tokenizer(checkpoint.tokenizer, tokenizer)
    gesso("import", str(published), str(run), "--tokenizer", str(tokenizer))
    return run


def exports_of(run: Path, formats: set[str]) -> dict[str, Path | Exception]:
    """`gesso export` in each of the formats, beside the run: a folder, or what it ended with."""
    found: dict[str, Path | Exception] = {}
    for format in sorted(formats):
        to = run.with_name(f"export-{format}")
        try:
            gesso("export", str(run), str(to), "--format", format)
            found[format] = to
        except (Refusal, RuntimeError) as error:
            found[format] = error
    return found
