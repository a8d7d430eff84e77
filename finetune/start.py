"""An experiment made for the run it starts from: the source's model under the experiment's recipe.

What a run then begins with, parameter by parameter, pretrain/start.py decides. Imports no JAX.
"""

import dataclasses
import fnmatch
from typing import Any

from gesso.pretrain.config import StartConfig
from gesso.pretrain.experiment import Experiment, ExperimentError
from gesso.pretrain.origins.sources import open_source

# What a fine-tuning experiment says of a model: its heads, its dropout, how it is computed.
RECIPE = ("outputs", "labels", "pooling", "*dropout", "remat", "unroll", "attention", "chunk_words")


def adopt(experiment: Experiment, start: StartConfig) -> Experiment:
    """`experiment` that begins with `start`, its model made that of the source but for RECIPE.

    Of an encoder-decoder that begins with two runs, each side is made its own source's. Raises
    ExperimentError for a source that is not a run, or of another family.
    """
    model = experiment.model
    if start.source:
        model = _adopt(experiment, model, start.source, "start.source")
    for side in ("encoder", "decoder"):
        if source := getattr(start, side):
            if not model.has_sides:
                raise ExperimentError(
                    f"--start.{side}: experiment {experiment.name!r} trains a {model.family}, which"
                    " has no such side; choose one of an encoder-decoder, or use --start"
                )
            made = _adopt(experiment, getattr(model, side), source, f"start.{side}")
            model = dataclasses.replace(model, **{side: made})  # pyright: ignore[reportCallIssue]
    return dataclasses.replace(experiment, model=model, start=start)


def _adopt(experiment: Experiment, mine: Any, source: str, setting: str) -> Any:
    opened = open_source(source, setting=setting)
    theirs = opened.experiment.model
    if type(theirs) is not type(mine):
        raise ExperimentError(
            f"{opened.run} holds a {theirs.family}, and experiment {experiment.name!r} trains a"
            f" {mine.family}: choose an experiment of that family (gesso list shows them)"
        )
    names = [each.name for each in dataclasses.fields(mine)]
    kept = {
        name: getattr(mine, name)
        for name in names
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in RECIPE)
    }
    return dataclasses.replace(theirs, **kept)
