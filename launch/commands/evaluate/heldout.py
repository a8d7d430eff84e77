"""`gesso evaluate RUN` on held-out text: per component, beside what it must beat."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from gesso.launch.commands.evaluate.run import place
from gesso.launch.commands.evaluate.stores import store_for
from gesso.launch.console import Figures, Refused, output
from gesso.records.quantities import short

if TYPE_CHECKING:
    from gesso.data.store.base import Store
    from gesso.objectives.base import Objective
    from gesso.pretrain.open import OpenRun


def figures(
    folder: Path,
    *,
    step: int | None = None,
    store: str = "",
    rows: int = 0,
    batch: int = 8,
    components: tuple[str, ...] | None = None,
    baselines: Literal["fit", "skip"] = "fit",
) -> Figures:
    """What evaluation.evaluate_heldout says of a run, with "step", a unigram model of each term in
    "terms" and, where texts are predicted whole, "baselines" in bits per byte beside it.

    store: another than the run's own (launch/commands/evaluate/stores.py). Raises ValueError for a
    folder without a checkpoint, and a store of another tokenizer or of what the run was not trained
    for.
    """
    from gesso.evaluation.heldout.perplexity import evaluate_heldout
    from gesso.evaluation.heldout.unigram import beside
    from gesso.objectives.kinds import build
    from gesso.pretrain.open import open_run
    from gesso.pretrain.placeholders import count_placeholders

    run = open_run(folder, step=step)
    opened = store_for(run, folder, store)
    objective = count_placeholders(
        build(run.experiment.objective, tokenizer=run.tokenizer, model=run.experiment.model),
        run.experiment.adapter,
    )
    if what := _unfit(opened, objective):
        raise Refused(f"{store or opened.folder} holds {what}")
    on_devices = place(run, folder)
    found = evaluate_heldout(
        run.model,
        objective,
        on_devices.params,
        opened,
        length=run.experiment.length,
        rows=rows,
        batch=batch,
        mesh=on_devices.mesh,
        layout=on_devices.layout,
        components=components,
        compute=on_devices.compute,
    )
    found = {**found, "step": run.step}
    if baselines == "skip":
        return found
    fitted = _baselines(run, objective, opened, rows=rows, components=components)
    return beside(found, fitted.pop("unigram")) | fitted


def _unfit(store: "Store", objective: "Objective") -> str:
    """What of a store's content this objective has no use for; "" where it fits."""
    if hasattr(store, "labels"):
        return (
            "labelled examples, which only a run that was trained on such has scores for"
            " (gesso finetune debug-classify)"
        )
    if hasattr(store, "tasks") and not objective.overlap:
        return "instruction examples, for models that predict the next token"
    return ""


def _is_own(run: "OpenRun", store: "Store") -> bool:
    try:
        return run.store().fingerprint == store.fingerprint
    except ValueError:  # the run's own is not on this machine
        return False


def _baselines(
    run: "OpenRun",
    objective: "Objective",
    store: "Store",
    *,
    rows: int,
    components: tuple[str, ...] | None,
) -> Figures:
    """{"unigram": of every term, "baselines"?: in bits per byte, of whole texts}."""
    from gesso.data.config import ExamplesConfig, MixtureConfig, OrderConfig
    from gesso.data.open import order_of
    from gesso.data.store.base import TextStore
    from gesso.evaluation.heldout.baselines import baselines
    from gesso.evaluation.heldout.perplexity import predicts_whole_texts
    from gesso.evaluation.heldout.unigram import TRAINING_ROWS, unigram

    e = run.experiment
    own = _is_own(run, store)
    order = OrderConfig(
        length=objective.row_length(e.length),
        overlap=objective.overlap,
        overhead=objective.overhead,
        companions=objective.companions,
        packing=e.data.packing,
        seed=e.data.seed,
        mixture=e.data.mixture if own else MixtureConfig(),
        examples=e.data.examples if own else ExamplesConfig(),
    )
    terms = unigram(
        objective,
        order_of(store, order),
        length=e.length,
        vocab=e.model.vocab,
        rows=rows,
        components=components,
        training_rows=TRAINING_ROWS if store.complete else min(TRAINING_ROWS, run.step * e.batch),
    )
    # Instruction examples have no text that is predicted whole.
    if not predicts_whole_texts(objective) or not isinstance(store, TextStore):
        return {"unigram": terms}
    shape = {"length": e.length, "overlap": objective.overlap}
    return {
        "unigram": terms,
        "baselines": baselines(store, **shape, rows=rows, components=components),
    }


def show(found: Figures, *, title: str, console: Console | None = None) -> None:
    """The figures as a table: a row per component, then all of them, then the baselines; of an
    objective with several terms, a table of these too."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column("held out", style="cyan", no_wrap=True)
    # An objective that does not predict whole texts has no figures per byte and word.
    figures = {key: each for key, each in _FIGURES.items() if found[key] is not None}
    for heading, _ in figures.values():
        table.add_column(heading, justify="right", no_wrap=True)

    def cells(each: Figures) -> list[str]:
        return [_number(each[key], form) for key, (_, form) in figures.items()]

    for name, each in found["components"].items():
        table.add_row(name, *cells(each))
    table.add_section()
    table.add_row("all", *cells(found), style="bold")
    for name, label in (("unigram", "unigram model"), ("byte_3gram", "byte 3-gram model")):
        if name in found.get("baselines", {}):
            table.add_row(label, f"{found['baselines'][name]:.4f}", style="dim")
    console = console or output()
    console.print(table)
    if len(found["terms"]) > 1:
        console.print(_terms(found["terms"]))


_FIGURES = {
    "bits_per_byte": ("bits/byte", ".4f"),
    "loss": ("loss", ".4f"),
    "perplexity": ("perplexity", ",.4g"),
    "word_perplexity": ("per word", ",.4g"),
    "tokens": ("tokens", ""),
    "bytes": ("bytes", ""),
    "words": ("words", ""),
}


def _terms(terms: Figures) -> Table:
    """A row per term: its mean, a unigram model's, and how many targets (or what else) it is of."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("term", style="cyan", no_wrap=True)
    for heading in ("held out", "unigram model", "count"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, each in terms.items():
        unigram = each.get("unigram_nll", each.get("unigram_accuracy"))
        share = name.endswith("accuracy")
        table.add_row(
            name,
            *(_number(x, ".1%" if share else ".4f") for x in (each["mean"], unigram)),
            short(each["count"]),
        )
    return table


def _number(value: float | None, form: str) -> str:
    if value is None or not math.isfinite(value):
        return "n/a"
    return format(value, form) if form else short(value)
