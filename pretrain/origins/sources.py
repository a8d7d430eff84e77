"""What a new run may begin with: a checkpoint of another run, opened without reading its arrays."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.pretrain.checkpoints import step_folders
from gesso.pretrain.checkpoints.manifest import Info, Leaf, ManifestDamaged, damage, read
from gesso.pretrain.experiment import Experiment, ExperimentError
from gesso.pretrain.folder.claim import RunFolderError, read_experiment


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One array of a checkpoint: name in it, such as "params/blocks/attention/q"."""

    name: str
    leaf: Leaf


@dataclass(frozen=True, kw_only=True)
class Source:
    """A whole checkpoint of a run. pieces: of each parameter, the lower layers first where the run
    trained only the upper ones. tokenizer: the fingerprint of the one it was trained with."""

    run: Path
    step: int
    experiment: Experiment
    pieces: dict[str, tuple[Piece, ...]]
    tokenizer: str
    info: Info

    @property
    def folder(self) -> Path:
        """Where the checkpoint's files are."""
        return self.run.absolute() / "checkpoints" / str(self.step)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a parameter, all layers together."""
        shapes = [piece.leaf.shape for piece in self.pieces[name]]
        if len(shapes) == 1:
            return shapes[0]
        return (sum(each[0] for each in shapes), *shapes[0][1:])

    def tokenizer_of_run(self) -> Tokenizer:
        """The tokenizer in the run's folder."""
        from gesso.data.tokenizers.load import load_tokenizer

        return load_tokenizer(self.run / "tokenizer")


def open_source(named: str | os.PathLike[str], *, setting: str = "start.source") -> Source:
    """The newest complete checkpoint of a run folder, or RUN/checkpoints/STEP itself.

    Raises ExperimentError for what is neither, saying what to do.
    """
    path = Path(named)
    step = None
    if path.name.isdigit() and path.parent.name == "checkpoints":
        path, step = path.parent.parent, int(path.name)
    elif path.name == "checkpoints":
        path = path.parent
    if not path.is_dir():
        raise ExperimentError(f"{setting}: there is no folder {path}")
    if (path / "config.json").is_file() and not (path / "experiment.json").is_file():
        raise ExperimentError(
            f"{setting}: {path} is a published folder, not a run; take it over first:"
            f" gesso import {path} runs/{path.name}, then start from runs/{path.name}"
        )
    try:
        experiment = read_experiment(path)
    except RunFolderError as error:
        raise ExperimentError(f"{setting}: {error}") from None
    steps = step_folders.complete_steps(path / "checkpoints")
    if not steps or (step is not None and step not in steps):
        there = f"it has {steps}" if steps else "it has none (yet)"
        asked = f"checkpoint {step}" if step is not None else "a complete checkpoint"
        raise ExperimentError(f"{setting}: {path} has not {asked}; {there}")
    if experiment.adapter.kind != "none":
        raise ExperimentError(
            f"{setting}: {path} holds an adapter, not a model; make a model of both first:"
            f" gesso adapter merge {path} {path}-merged"
        )
    folder = path / "checkpoints" / str(steps[-1] if step is None else step)
    try:
        sealed = read(folder)
    except ManifestDamaged as error:
        raise ExperimentError(f"{setting}: {folder} is damaged: {error}") from None
    pieces: dict[str, tuple[Piece, ...]] = {}
    for tree in ("frozen/", "params/"):
        for name, leaf in sealed.leaves.items():
            if name.startswith(tree):
                known = pieces.get(name.removeprefix(tree), ())
                pieces[name.removeprefix(tree)] = (*known, Piece(name=name, leaf=leaf))
    return Source(
        run=path,
        step=sealed.step,
        experiment=experiment,
        pieces=pieces,
        tokenizer=sealed.info["tokenizer"],
        info=sealed.info,
    )


def refuse_damaged(source: Source) -> None:
    """Read all its bytes. Raises ExperimentError where they are not what was written."""
    if found := damage(source.folder, read(source.folder)):
        raise ExperimentError(
            f"{source.folder} is damaged: {'; '.join(found[:3])}; start from another checkpoint of"
            f" {source.run}, such as RUN/checkpoints/STEP"
        )


def extends(new: Tokenizer, old: Tokenizer) -> bool:
    """Whether a tokenizer has all of another's ids, with the same texts, and more of its own."""
    known = old.vocab_size
    return (
        new.kind == old.kind
        and new.eos == old.eos
        and new.vocab_size > known
        and np.array_equal(new.byte_lengths[:known], old.byte_lengths)
        and all(new.decode([each]) == old.decode([each]) for each in range(known))
    )
