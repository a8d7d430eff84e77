"""A LoRA over a checkpoint, through `gesso adapter` into peft, over the base of `--format hf`."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.stacks.batches import batch_for, outputs_of
from benchmarks.stacks.case import gesso
from benchmarks.stacks.checkpoints import Checkpoint
from benchmarks.stacks.figure import Figure, figure
from benchmarks.stacks.processes import run_client
from gesso.export.stacks.to_onnx.model import names_of, their_name
from gesso.finetune.adapters.peft_folder import write_adapter
from gesso.models import build
from gesso.models.adapters.adapters import bind, init
from gesso.models.adapters.config import AdapterConfig

CONFIG = AdapterConfig(kind="lora", rank=4, alpha=8)
# What BertForPreTraining calls our logits.
PREDICTIONS = "prediction_logits"
BOUND = 5e-5


def lora(c: Checkpoint) -> dict[str, Any]:
    """An adapter of the checkpoint whose every array is random: at the start one side is zero."""
    drawn = init(CONFIG, jax.random.key(0), c.params, build(c.config).letters)
    random = np.random.default_rng(3)
    return jax.tree.map(lambda x: random.normal(0, 0.2, x.shape).astype(np.float32), drawn)


def exported(c: Checkpoint, run: Path, base: Path, to: Path) -> None:
    """The adapter in a folder for peft: imported over the run and exported again. base: the run's
    own export. Raises FolderError, Refusal or RuntimeError where a family cannot."""
    written, adapted = to.with_name("adapter-written"), to.with_name("adapter-run")
    write_adapter(written, build(c.config), CONFIG, lora(c))
    gesso("adapter", "import", str(written), str(adapted), "--base", str(run))
    gesso("adapter", "export", str(adapted), str(to), "--base-name", str(base))


def measure(c: Checkpoint, folder: Path) -> Figure:
    """The adapted model's outputs in peft."""
    batch, names = batch_for(c.config), names_of(c.config)
    asked = {theirs: batch[leaf].astype(np.int64) for leaf, theirs in names.items()}
    made = run_client("lora.py", folder, asked, client="peft")
    params = bind(c.params, lora(c), CONFIG)
    ours = outputs_of(c.config, params, {leaf: batch[leaf] for leaf in names})
    theirs = {name: made[their_name(name, ours)] for name in ours if their_name(name, ours) in made}
    if PREDICTIONS in made:
        theirs["logits"] = made[PREDICTIONS]
    return figure(ours, theirs, bound=BOUND, versions=str(made["versions"][0]))
