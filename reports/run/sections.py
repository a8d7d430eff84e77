"""The sections of a run's page: curves, held-out figures, samples, corpus, model, environment."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gesso.records.progress import byte_size, short
from gesso.reports.facts import BASELINES, RunFacts, baselines, number, parameters
from gesso.reports.figures import COLORS, Figure, Level, Plot, Series, Unit, draw, written
from gesso.reports.page import Moment, Row, Sample, Section, Share, Table, Timeline, said
from gesso.reports.run.terms import first_term

LOSS = "nats per token"
HELDOUT_FIGURES: dict[str, tuple[str, Unit]] = {
    "bits_per_byte": ("Bits per byte", "number"),
    "loss": ("Loss", "number"),
    "perplexity": ("Perplexity / token", "number"),
    "word_perplexity": ("Perplexity / word", "number"),
    "tokens": ("Tokens", "short"),
    "bytes": ("Bytes", "short"),
    "words": ("Words", "short"),
}
_MOMENTS = 6  # sampled steps seen at once; the others unfold
_LETTERS = "V vocab, D embed, Z layers, N heads, K key/value heads, H head dim, F mlp, S positions"


def drawn(plots: Iterable[Plot]) -> list[Figure]:
    """Those of the figures that have something to show."""
    return [figure for figure in map(draw, plots) if figure is not None]


def _colors(run: RunFacts) -> dict[str, int]:
    return {name: i + 1 if i < COLORS else 0 for i, name in enumerate(run.components)}


def training(run: RunFacts) -> Section:
    def one(key: str, title: str, unit: str, **options: Any) -> Plot:
        series = [Series(label=title, curve=run.train_curve(key), color=1)]
        return Plot(key=key, title=title, unit=unit, series=series, **options)

    heldout_loss = Series(label="held out", curve=run.heldout_curve("loss"), color=2, dots=True)
    training_loss = Series(label="training", curve=run.train_curve("loss"), color=1)
    # What is trained may be more than what held-out loss is of: several terms, smoothed labels.
    first = first_term(run)
    alone = first and not np.allclose(run.train_curve(first).y, training_loss.curve.y, rtol=1e-3)
    of_first = Series(label="training", curve=run.train_curve(first), color=1)
    by_component = [
        Series(label=name, curve=run.train_curve("components", name), color=color)
        for name, color in _colors(run).items()
    ]
    if len(by_component) == 1:
        by_component = []  # the figure beside it shows the same
    smoothed: dict[str, Any] = {"smoothing": "window", "settle": "tail"}
    figures = drawn(
        [
            Plot(
                key="loss",
                title="Loss",
                unit=LOSS,
                series=[training_loss] if alone else [training_loss, heldout_loss],
                **smoothed,
            ),
            Plot(
                key="loss-first",
                title=first.replace("_", " "),
                unit=LOSS,
                series=[of_first, heldout_loss] if alone else [],
                **smoothed,
            ),
            Plot(
                key="loss-components",
                title="Training loss by component",
                unit=LOSS,
                series=by_component,
                **smoothed,
            ),
            one("grad_norm", "Gradient norm", "log scale", scale="log", smoothing="window"),
            one("learning_rate", "Learning rate", "", floor=0.0),
            one("tokens_per_second", "Throughput", "tokens/s", form="short", floor=0.0),
            one(
                "data_wait_fraction", "Waiting for data", "share of time", form="percent", floor=0.0
            ),
            one("mfu", "Model FLOPs utilization", "share of peak", form="percent", floor=0.0),
        ]
    )
    return Section(
        key="training",
        title="Training",
        text="Faint lines are the logged steps, strong ones their moving mean." if figures else "",
        figures=figures,
    )


def heldout(run: RunFacts) -> Section:
    if not run.evaluations:
        return Section(key="heldout", title="Held out")
    colors = _colors(run)
    split = " by component" if len(colors) > 1 else ""

    def by_component(figure: str) -> list[Series]:
        if not split:
            return [Series(label="all", curve=run.heldout_curve(figure), color=1, dots=True)]
        return [
            Series(
                label=name,
                curve=run.heldout_curve("components", name, figure),
                color=color,
                dots=True,
            )
            for name, color in colors.items()
        ]

    levels = [Level(label=BASELINES[key], value=value) for key, value in baselines(run)]
    last = run.evaluations[-1]
    # What an objective that does not predict texts whole has not: figures per byte and per word.
    figures = [name for name in HELDOUT_FIGURES if last.get(name, math.nan) is not None]

    def row(name: str, path: Sequence[str], **options: Any) -> Row:
        cells = [
            written(number(last, *path, figure), HELDOUT_FIGURES[figure][1]) for figure in figures
        ]
        return Row(cells=[name, *cells], **options)

    rows = [
        row(name, ("components", name), color=color)
        for name, color in colors.items()
        if math.isfinite(number(last, "components", name, "loss"))
    ]
    return Section(
        key="heldout",
        title="Held out",
        text="Documents set apart by a hash of their content, never trained on. The table is of the"
        f" last evaluation, after {int(last['step']):,} steps.",
        figures=drawn(
            [
                Plot(
                    key="heldout-loss",
                    title=f"Held-out loss{split}",
                    unit=LOSS,
                    series=by_component("loss"),
                ),
                Plot(
                    key="heldout-bits",
                    title=f"Bits per byte{split}",
                    unit="bits per byte",
                    series=by_component("bits_per_byte"),
                    levels=levels,
                    note="Dashed: what the baselines need, overall." if levels else "",
                ),
            ]
        ),
        table=Table(
            heads=("Component", *(HELDOUT_FIGURES[figure][0] for figure in figures)),
            rows=[*rows, row("All", (), total=True)],
        ),
    )  # fmt: skip


def samples(run: RunFacts) -> Section:
    by_step: dict[int, list[Sample]] = {}
    for record in run.samples:
        sample = Sample(prompt=str(record.get("prompt", "")), text=str(record.get("text", "")))
        by_step.setdefault(int(record["step"]), []).append(sample)
    bits = {int(r["step"]): number(r, "bits_per_byte") for r in run.evaluations}
    steps = sorted(by_step)
    moments = []
    for step in steps:
        known = math.isfinite(bits.get(step, math.nan))
        note = f"{bits[step]:.3f} bits per byte" if known else ""
        moments.append(
            Moment(title=f"Step {step:,}", note=note, samples=by_step[step], last=step == steps[-1])
        )
    chosen = set(np.linspace(0, len(steps) - 1, min(_MOMENTS, len(steps))).round().astype(int))
    timeline = [Timeline(moments=[moments[i] for i in sorted(chosen)])] if moments else []
    if len(steps) > _MOMENTS:
        timeline.append(Timeline(moments=moments, folded=f"All {len(steps)} sampled steps"))
    return Section(
        key="samples",
        title="Samples over training",
        text="The same text, and what the model made of it at each stage." if moments else "",
        timeline=timeline,
    )


def corpus(run: RunFacts) -> Section:
    colors = _colors(run)
    totals = run.corpus.get("components")
    totals = totals if isinstance(totals, dict) else {}
    tokens = {name: run.tokens_of(name) for name in colors if name in totals}
    every = sum(tokens.values()) or math.nan

    def cells(name: str, get: Any) -> list[str]:
        train, size = get("train", "tokens"), get("train", "bytes")
        return [
            name,
            f"{get('train', 'documents'):,.0f}",
            short(train),
            f"{train / every:.1%}" if math.isfinite(every) else "n/a",
            byte_size(size),
            f"{size / train:.2f}" if train else "n/a",
            f"{get('holdout', 'documents'):,.0f}",
            short(get("holdout", "tokens")),
        ]

    def of(name: str) -> Any:
        return lambda *path: number(totals, name, *path, default=0.0)

    rows = [Row(cells=cells(name, of(name)), color=colors[name]) for name in tokens]
    whole = cells("All", lambda *path: sum(of(name)(*path) for name in tokens))
    heads = (
        "Component", "Documents", "Tokens", "Share", "Text", "Bytes / token", "Held-out documents",
        "Held-out tokens",
    )  # fmt: skip
    shares = [
        Share(label=f"{name}: {n / every:.1%} of tokens", weight=n / every, color=colors[name])
        for name, n in tokens.items()
        if n
    ]
    about = corpus_facts(run)
    return Section(
        key="corpus",
        title="Corpus",
        shares=shares,
        table=Table(heads=heads, rows=[*rows, Row(cells=whole, total=True)]) if rows else None,
        columns=about,
    )


def corpus_facts(run: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """[(title, facts)]: how well rows are filled and what was turned away; tokenizer and store."""
    padding, duplicates = (number(run.corpus, key) for key in ("padding", "duplicates"))
    rejects = run.corpus.get("rejects")
    quality, identity = [], []
    if math.isfinite(padding):
        quality.append(("Packing efficiency", f"{1 - padding:.2%} (padding {padding:.2%})"))
    if math.isfinite(duplicates):
        quality.append(("Duplicate documents", f"{duplicates:.2%}"))
    if isinstance(rejects, dict):
        total = sum(n for n in rejects.values() if isinstance(n, int))
        quality.append(("Lines set aside", f"{total:,}"))
        quality += [(f"· {reason}", said(n)) for reason, n in rejects.items()]
    tokenizer = run.corpus.get("tokenizer")
    if isinstance(tokenizer, dict):
        identity += [
            (f"Tokenizer {key.replace('_', ' ')}", said(value)) for key, value in tokenizer.items()
        ]
    if "store" in run.corpus:
        identity.append(("Store fingerprint", said(run.corpus["store"])))
    made = [("Packing and cleaning", quality), ("Tokenizer and store", identity)]
    return [(title, pairs) for title, pairs in made if pairs]


def model(run: RunFacts) -> Section:
    total = parameters(run)
    rows = [
        Row(
            cells=[
                said(row.get("name")),
                said(row.get("letters")),
                " × ".join(said(n) for n in row.get("shape") or []) or "scalar",
                f"{number(row, 'count', default=0.0):,.0f}",
                f"{number(row, 'count', default=0.0) / total:.1%}" if total else "n/a",
            ]
        )
        for row in run.parameters
    ]
    rows.append(Row(cells=["All", "", "", f"{total:,.0f}", ""], total=True))
    table = Table(heads=("Parameter", "Dims", "Shape", "Count", "Share"), rows=rows, text=(0, 1))
    return Section(
        key="model",
        title="Model",
        text=f"{total:,.0f} parameters in {len(run.parameters)} arrays. Dims: {_LETTERS}."
        if run.parameters
        else "",
        folded=[("Parameter table", table)] if run.parameters else [],
    )


def environment(run: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """[(title, facts)]: where it ran, and with which versions."""
    place, versions = [], []
    for key, value in run.environment.items():
        if key == "versions" and isinstance(value, dict):
            versions += [(str(name), said(number_)) for name, number_ in value.items()]
        elif isinstance(value, dict):
            place += [(f"{key} {name}".replace("_", " "), said(v)) for name, v in value.items()]
        elif value:
            text = (
                " ".join(map(str, value))
                if key == "command" and isinstance(value, list)
                else said(value)
            )
            place.append((key.replace("_", " "), text))
    made = [("Where", place), ("Versions", versions)]
    return [(title, pairs) for title, pairs in made if pairs]
