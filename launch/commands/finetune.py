"""`gesso finetune EXPERIMENT --start SOURCE`: the same training from another run's model."""

import dataclasses
import os
from pathlib import Path

from gesso.launch import help as pages
from gesso.launch.commands.pretrain import Asked, read
from gesso.launch.console import Refused, output
from gesso.partitioning.machines.compiler_flags import apply
from gesso.pretrain.config import StartConfig
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import Experiment
from gesso.settings.nearest import did_you_mean

_HELP = """\
usage: gesso finetune EXPERIMENT --start SOURCE [RUN] [--SETTING VALUE ...]

Train a model further: SOURCE's parameters, the experiment's recipe. SOURCE is a run folder (the
newest checkpoint is taken), one checkpoint RUN/checkpoints/STEP, or what `gesso import` made. RUN
is the new run's folder, runs/EXPERIMENT by default; the same command after a crash continues it.

The model's settings are the source's, except heads and dropout, which are the experiment's. A table
of every parameter (loaded, resized, tied or fresh; trained or frozen) is shown and kept in
RUN/start.json. A parameter that the source lacks, or has in another shape, is refused by name
unless --start.allow-fresh names it.

Examples:
  gesso pretrain debug-gpt-neo                                 something to start from
  gesso finetune debug-ulmfit --start runs/debug-gpt-neo       unfreezes layer by layer
  gesso finetune debug-ulmfit --start runs/debug-gpt-neo --help        its settings
  gesso import downloads/gpt2 runs/gpt2
  gesso finetune ulmfit-lm --start runs/gpt2 runs/gpt2-mine --data.store my-store --steps 2000

Freeze:           --trainable 'blocks/*' '!*bias'  --first-layer -4    (the four uppermost layers)
Slower below:     --optimizer.layer-decay 0.8
More ids:         --model.vocab 50304   (further rows begin as the mean of the others)
Longer rows:      --model.positions 2048 --length 2048
A new head:       --start.allow-fresh 'classifier/*'
Two sources:      --start.encoder RUN --start.decoder RUN     (of an encoder-decoder; BERT2BERT)
docs/finetuning.md says more.

Experiments:"""
_SOURCES = {
    "--start": "source",
    "--start.source": "source",
    "--start.encoder": "encoder",
    "--start.decoder": "decoder",
}


def finetune(arguments: list[str]) -> int:
    """Entry of `gesso finetune`: returns the exit status of the run."""
    from gesso.configs import registry

    if not arguments or arguments[0] in {"-h", "--help"}:
        output().print(_HELP, markup=False)
        output().print("\n".join(f"  {name}" for name in registry.names()), markup=False)
        if not arguments:
            raise Refused("say which experiment to run: gesso finetune EXPERIMENT --start SOURCE")
        return DONE
    asked = request(arguments)
    apply(os.environ)
    from gesso.pretrain.session import run

    return run(asked.experiment, folder=asked.folder, named=asked.named).status


def request(arguments: list[str]) -> Asked:
    """["debug-ulmfit", "--start", "runs/x", "--steps", "8"] -> the experiment and its folder.
    Imports no JAX. Raises ValueError for what cannot be, SystemExit(2) for an unknown setting."""
    from gesso.configs import registry

    name, sources, rest = _split(arguments)
    experiment = registry.experiment(name)
    if not sources:
        if pages.request(rest):
            return read([name, *rest], command="finetune")
        raise Refused(
            f"say what to start from: gesso finetune {name} --start SOURCE, a run folder (gesso"
            " import makes one of a published checkpoint)"
        )
    from gesso.finetune.start import adopt

    start = dataclasses.replace(experiment.start, **sources)
    folder = _value(rest, "--folder") or f"runs/{experiment.name}"
    made = _continue(Path(folder), experiment, start) or adopt(experiment, start)
    asked = read([name, *rest], command="finetune", experiment=made)
    return dataclasses.replace(
        asked, named=frozenset(each for each in asked.named if not each.startswith("start"))
    )


def read_arguments(arguments: list[str]) -> tuple[dict[str, str], Asked]:
    """({"source": folder} as named, the settings over the experiment's own model): the source is
    not looked at. Raises as `request` does."""
    name, sources, rest = _split(arguments)
    return sources, read([name, *rest], command="finetune")


def _split(arguments: list[str]) -> tuple[str, dict[str, str], list[str]]:
    """(the experiment's name, its sources, the other arguments with the folder as an option)."""
    if arguments[0].startswith("-"):
        raise Refused(
            "the experiment's name comes first: gesso finetune EXPERIMENT --start SOURCE"
            f" (you gave {arguments[0]} first)"
        )
    name, *rest = arguments
    sources, rest = _sources(rest)
    if rest and not rest[0].startswith("-"):
        folder, *rest = rest
        rest = ["--folder", folder, *rest]
    return name, sources, rest


def _continue(folder: Path, experiment: Experiment, start: StartConfig) -> Experiment | None:
    """The experiment with the model that the run in `folder` records, as its source may be gone;
    None where there is no run yet."""
    if not (folder / "experiment.json").is_file():
        return None
    from gesso.pretrain.folder.claim import read_experiment

    return dataclasses.replace(experiment, model=read_experiment(folder).model, start=start)


def _sources(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """({"source": ...} as named, the arguments without them); --start.x y and --start.x=y."""
    found, rest, waiting = {}, [], list(arguments)
    while waiting:
        each = waiting.pop(0)
        option, equals, value = each.partition("=")
        if option not in _SOURCES:
            rest.append(each)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("-"):
                raise Refused(f"{option} needs a folder: {option} runs/NAME")
            value = waiting.pop(0)
        found[_SOURCES[option]] = value
    for each in rest:
        if each.startswith("--star") and not each.startswith("--start."):
            raise Refused(f"there is no option {each}{did_you_mean(each, _SOURCES, show=str)}")
    return found, rest


def _value(arguments: list[str], option: str) -> str:
    """What an option is given, "" where it is not."""
    for at, each in enumerate(arguments):
        if each == option and at + 1 < len(arguments):
            return arguments[at + 1]
        if each.startswith(f"{option}="):
            return each.partition("=")[2]
    return ""
