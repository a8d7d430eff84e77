"""`gesso export RUN FOLDER` and `gesso parity FOLDER`: models for other stacks, and beside them."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from gesso.launch.commands.report import run_folder
from gesso.launch.console import Refused, existing, narration, output, print_json, size
from gesso.pretrain.exits import DONE, FAILED

if TYPE_CHECKING:
    from gesso.export.parity import Parity as Compared
    from gesso.export.writing import Written
    from gesso.pretrain.open import OpenRun

Format = Literal["hf", "onnx", "gguf", "ctranslate2", "stablehlo", "elmo", "orbax-params"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's newest checkpoint for another stack.

    hf: config.json, safetensors, tokenizer files and a model card, as transformers, vLLM and
    lm-eval read them. onnx: a graph for onnxruntime. gguf: one file for llama.cpp. ctranslate2: its
    model folder. stablehlo: a program that JAX runs without our code. elmo: options.json and HDF5,
    for AllenNLP and bilm-tf. orbax-params: the parameters for other JAX code. docs/stacks.md has
    what each needs and which families it can express.

    What was written is read back and must give the run's outputs before the folder gets its name.

    Example:
      gesso export runs/quickstart exported
      gesso export runs/neo exported/neo --dtype bfloat16 --license apache-2.0
      gesso export runs/quickstart exported/gguf --format gguf --dtype float16
    """

    folder: tyro.conf.Positional[str]
    """Run folder."""
    to: tyro.conf.Positional[str]
    """Folder to write; an earlier export there is replaced."""
    format: Format = "hf"
    """Format to write."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Dtype of the weights in the files."""
    step: int | None = None
    """Step of the checkpoint; the newest by default."""
    vocab: int = 0
    """Rows of the vocabulary to keep, where it was padded for a mesh; 0 = all."""
    license: str = ""
    """Licence that the model card states (hf)."""
    shard_megabytes: int = 5000
    """Largest file of weights in 10**6 bytes; larger ones are cut into shards (hf)."""
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> int:
        folder = run_folder(self.folder)
        self._refuse()
        from gesso.pretrain.folder.claim import read_experiment
        from gesso.pretrain.open import open_run, open_stored

        if (kind := read_experiment(folder).adapter.kind) not in ("none", "lora", "ia3"):
            raise Refused(
                f"{folder} trained an adapter of kind {kind}, which is no change of weights that"
                " other stacks could read; peft reads a prompt: gesso adapter export"
            )

        # Other formats rewrite the model as a whole; hf takes a parameter at a time.
        opened = open_stored if self.format == "hf" else open_run
        run = opened(folder, step=self.step)
        with narration().status(f"writing step {run.step:,} of {folder} to {self.to}"):
            written = self._write(run, folder)
        if self.json:
            print_json(written)
            return DONE
        console = output()
        for name, count in written.files.items():
            console.print(f"  {size(count):>10}  {name}", markup=False)
        agreement = written.agreement
        console.print(
            f"{written.model_type}, {written.dtype}: {written.folder}; read back, its outputs"
            f" differ by {agreement.apart:.1e} of the largest (allowed {agreement.bound:.0e})",
            markup=False,
        )
        return DONE

    def _refuse(self) -> None:
        if self.shard_megabytes < 1:
            raise Refused("--shard-megabytes must be at least 1")
        if self.format != "hf" and (self.license or self.shard_megabytes != 5000):
            raise Refused(
                f"--license and --shard-megabytes are for --format hf; {self.format} has neither a"
                " model card nor shards"
            )

    def _write(self, run: "OpenRun", folder: Path) -> "Written":
        if self.format != "hf":
            from gesso.export.stacks.stacks import write_stack

            return write_stack(
                self.to,
                run.experiment.model,
                run.params,
                run.tokenizer,
                format=self.format,
                dtype=self.dtype,
                vocab=self.vocab,
            )
        from gesso.export import write_folder
        from gesso.export.tables.tables import Paths
        from gesso.launch.commands.export_card import card_of
        from gesso.pretrain.checkpoints.streamed import StoredParams
        from gesso.reports.facts import read_run

        stored = isinstance(run.params, StoredParams)
        return write_folder(
            self.to,
            run.experiment.model,
            Paths(run.params.names, run.params.read) if stored else run.params,
            run.tokenizer,
            dtype=self.dtype,
            vocab=self.vocab,
            max_shard_bytes=self.shard_megabytes * 1_000_000,
            card=card_of(run, read_run(folder), license=self.license),
        )


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Run a published or exported folder here and in transformers, and compare layer by layer.

    transformers and torch are not part of Gesso: name a Python that has them with --python, or in
    GESSO_TRANSFORMERS_PYTHON. Nothing is downloaded.

    Example:
      gesso parity exported/neo --python ../transformers-venv/bin/python
    """

    folder: tyro.conf.Positional[str]
    """Folder with config.json and weights."""
    python: str = ""
    """Python that has torch and transformers; "" = GESSO_TRANSFORMERS_PYTHON."""
    tolerance: float = 1e-3
    """Largest difference of any output that still counts as the same."""
    json: bool = False
    """Print the differences as JSON."""

    def run(self) -> int:
        existing(self.folder, what="folder")
        from gesso.export.parity import parity

        found = parity(self.folder, python=self.python or _python())
        worst = max((each.apart for each in found.differences), default=0.0)
        agree = bool(found.differences) and worst <= self.tolerance
        if self.json:
            print_json(
                {
                    "versions": found.versions,
                    "agree": agree,
                    "missing": found.missing,
                    "unexpected": found.unexpected,
                    "differences": found.differences,
                }
            )
        else:
            _show(found, agree=agree)
        return DONE if agree else FAILED


def _python() -> str:
    """A Python with transformers: as the environment says, or this one."""
    if named := os.environ.get("GESSO_TRANSFORMERS_PYTHON"):
        return named
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return sys.executable
    raise Refused(
        "this Python has no torch and transformers, which the comparison needs; make another"
        " environment with them (pip install torch transformers) and name it:"
        " --python ENVIRONMENT/bin/python"
    )


def _show(found: "Compared", *, agree: bool) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("output", style="cyan")
    for heading in ("largest difference", "largest value"):
        table.add_column(heading, justify="right")
    for each in found.differences:
        table.add_row(each.output, f"{each.apart:.1e}", f"{each.largest:.3g}")
    console = output()
    console.print(table)
    for what, names in (("missing", found.missing), ("unexpected", found.unexpected)):
        if names:
            console.print(f"{what} for them: {', '.join(names[:8])}", markup=False)
    console.print(f"{found.versions}: {'the same' if agree else 'NOT the same'}", markup=False)
