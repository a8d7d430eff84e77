"""The page of one run: verdict, curves, held-out figures, samples, corpus, model, settings."""

import datetime
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pretrain.progress import duration, short
from pretrain.report_facts import RunFacts, latest, number, steps_between, typical
from pretrain.report_figures import COLORS, Figure, Level, Plot, Series, draw, written
from pretrain.report_page import (
    Bar,
    Hero,
    Moment,
    Page,
    Row,
    Sample,
    Section,
    Share,
    Stat,
    Status,
    Table,
    Timeline,
    groups,
    said,
)

BASELINES = {"unigram": "unigram over tokens", "byte_3gram": "3-gram over bytes"}
_LOSS = "nats per token"
_MOMENTS = 6  # sampled steps seen at once; the others unfold
_LETTERS = "V vocab, D embed, Z layers, N heads, K key/value heads, H head dim, F mlp, S positions"


def run_page(run: RunFacts, version: str) -> Page:
    """The page of one run; sections without facts are left out."""
    sections = (
        _training(run),
        _heldout(run),
        _samples(run),
        _corpus(run),
        _model(run),
        Section(
            key="experiment",
            title="Experiment",
            text="Every setting, resolved: this record alone says how to run it again.",
            trees=[("", groups(run.experiment))] if run.experiment else [],
        ),
        Section(key="environment", title="Environment", columns=environment(run)),
    )
    return Page(
        title=run.name,
        lede=lede(run),
        when=when(run),
        version=version,
        status=status(run),
        hero=hero(run),
        stats=_stats(run),
        warnings=warnings(run),
        sections=[section for section in sections if _says_something(section)],
    )


def tokens_seen(run: RunFacts) -> float:
    """Tokens trained on, from the logged steps: each stands for those since the one before."""
    tokens = np.array([number(record, "tokens", default=0.0) for record in run.train])
    return float((tokens * steps_between(run.train)).sum())


def training_seconds(run: RunFacts) -> float:
    """Time spent in training steps; evaluation, checkpoints and standstill are not in it."""
    seconds = np.array([number(record, "seconds", default=0.0) for record in run.train])
    return float((seconds * steps_between(run.train)).sum())


def last_evaluation(run: RunFacts, *path: str) -> float:
    return number(run.evaluations[-1], *path) if run.evaluations else math.nan


def status(run: RunFacts) -> Status:
    steps = run.experiment.get("steps")
    total = f" of {steps:,}" if isinstance(steps, int) else ""
    text = {
        "finished": f"Finished after {run.step:,} steps",
        "preempted": f"Preempted at step {run.step:,}{total}",
        "unfinished": f"Unfinished, at step {run.step:,}{total}",
    }[run.status]
    return Status(kind=run.status, text=text)


def when(run: RunFacts) -> str:
    times = [number(record, "time") for record in (*run.events, *run.train, *run.evaluations)]
    known = [at for at in times if math.isfinite(at)]
    if not known:
        return ""
    days = [
        datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%-d %B %Y")
        for at in (min(known), max(known))
    ]
    return days[0] if days[0] == days[1] else f"{days[0]} – {days[1]}"


def lede(run: RunFacts) -> str:
    e, model = run.experiment, run.experiment.get("model")
    parts = []
    if isinstance(model, dict) and {"layers", "embed", "heads"} <= model.keys():
        size = f"{short(parameters(run))} parameters: " if run.parameters else ""
        parts.append(
            f"{size}{said(model['layers'])} layers, {said(model['embed'])} wide,"
            f" {said(model['heads'])} heads"
        )
    if {"batch", "length"} <= e.keys():
        parts.append(f"{said(e['batch'])} rows of {said(e['length'])} tokens per update")
    devices = run.environment.get("devices")
    if isinstance(devices, dict) and "kind" in devices:
        parts.append(f"on {said(devices.get('count', '?'))} × {said(devices['kind'])}")
    return ". ".join(parts[:1] + [", ".join(parts[1:])] if parts[1:] else parts) + (
        "." if parts else ""
    )


def parameters(run: RunFacts) -> float:
    return sum(number(row, "count", default=0.0) for row in run.parameters)


def hero(run: RunFacts) -> Hero | None:
    """Held-out bits per byte against the baselines."""
    ours = last_evaluation(run, "bits_per_byte")
    if not math.isfinite(ours):
        return None
    known = [(BASELINES[key], value) for key, value in baselines(run)]
    text = f"on held-out text, after {int(run.evaluations[-1]['step']):,} steps"
    if known:
        label, value = min(known, key=lambda pair: pair[1])
        share = abs(1 - ours / value)
        text += f": {share:.0%} {'less' if ours < value else 'more'} than a {label} needs"
    longest = max([ours, *(value for _, value in known)])
    bars = [Bar(label="this run", value=f"{ours:.3f}", percent=100 * ours / longest, ours=True)]
    bars += [
        Bar(label=label, value=f"{value:.3f}", percent=100 * value / longest)
        for label, value in sorted(known, key=lambda pair: pair[1])
    ]
    return Hero(
        value=f"{ours:.3f}", unit="bits per byte", text=text + ".", bars=bars if known else []
    )


def baselines(run: RunFacts) -> list[tuple[str, float]]:
    found = [(key, number(run.corpus, "baselines", key)) for key in BASELINES]
    return [(key, value) for key, value in found if math.isfinite(value) and value > 0]


def warnings(run: RunFacts) -> list[str]:
    """What a reader must know before the figures."""
    said_so = []
    if run.missing:
        said_so.append(
            f"Not in the run folder: {', '.join(run.missing)}. What they tell is left out."
        )
    skipped = [int(r["step"]) for r in run.train if number(r, "skipped", default=0.0)]
    if skipped:
        some = ", ".join(f"{step:,}" for step in skipped[:5]) + (" …" if skipped[5:] else "")
        plural = "updates were" if skipped[1:] else "update was"
        said_so.append(
            f"{len(skipped):,} {plural} skipped because the loss or the gradient was no number:"
            f" step{'s' if skipped[1:] else ''} {some}."
        )
    return said_so


def utilization(run: RunFacts) -> str:
    mfu = typical([r for r in run.train if r.get("mfu") is not None], "mfu")
    return f"{mfu:.1%}" if math.isfinite(mfu) else "n/a"


def _stats(run: RunFacts) -> list[Stat]:
    made = []
    if run.train:
        loss = written(latest(run.train, "loss"), "number")
        made.append(Stat(label="Training loss", value=loss, unit=_LOSS, note="last 5 % of the run"))
    if run.evaluations:
        per_token, per_word = (
            written(last_evaluation(run, key), "number")
            for key in ("perplexity", "word_perplexity")
        )
        made.append(
            Stat(
                label="Held-out loss",
                value=written(last_evaluation(run, "loss"), "number"),
                unit=_LOSS,
                note=f"perplexity {per_token} per token, {per_word} per word",
            )
        )
    if not run.train:
        return made
    starts = sum(event.get("event") == "started" for event in run.events)
    wait = typical(run.train, "data_wait_fraction")
    kind = said((run.environment.get("devices") or {}).get("kind"))
    mfu = utilization(run)
    return [
        *made,
        Stat(label="Tokens seen", value=short(tokens_seen(run)), note=f"{run.step:,} updates"),
        Stat(
            label="Throughput",
            value=short(typical(run.train, "tokens_per_second")),
            unit="tokens/s",
            note=f"{written(wait, 'percent')} of the time waiting for data",
        ),
        Stat(
            label="Model FLOPs utilization",
            value=mfu,
            note=f"no peak figure for {kind}" if mfu == "n/a" else f"of the peak of {kind}",
        ),
        Stat(
            label="Training time",
            value=duration(training_seconds(run)),
            note=f"in {starts} starts" if starts > 1 else "in one go",
        ),
    ]


def drawn(plots: Iterable[Plot]) -> list[Figure]:
    """Those of the figures that have something to show."""
    return [figure for figure in map(draw, plots) if figure is not None]


def _colors(run: RunFacts) -> dict[str, int]:
    return {name: i + 1 if i < COLORS else 0 for i, name in enumerate(run.components)}


def _training(run: RunFacts) -> Section:
    def one(key: str, title: str, unit: str, **options: Any) -> Plot:
        series = [Series(label=title, curve=run.train_curve(key), color=1)]
        return Plot(key=key, title=title, unit=unit, series=series, **options)

    heldout = Series(label="held out", curve=run.heldout_curve("loss"), color=2, dots=True)
    training = Series(label="training", curve=run.train_curve("loss"), color=1)
    by_component = [
        Series(label=name, curve=run.train_curve("components", name), color=color)
        for name, color in _colors(run).items()
    ]
    smoothed: dict[str, Any] = {"smoothing": "window", "settle": "tail"}
    figures = drawn(
        [
            Plot(key="loss", title="Loss", unit=_LOSS, series=[heldout, training], **smoothed),
            Plot(
                key="loss-components",
                title="Training loss by component",
                unit=_LOSS,
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


def _heldout(run: RunFacts) -> Section:
    if not run.evaluations:
        return Section(key="heldout", title="Held out")
    colors = _colors(run)
    everything = Series(label="all", curve=run.heldout_curve("bits_per_byte"), color=1, dots=True)

    def by_component(figure: str) -> list[Series]:
        made = [
            Series(
                label=name,
                curve=run.heldout_curve("components", name, figure),
                color=color,
                dots=True,
            )
            for name, color in colors.items()
        ]
        return made or [everything]

    levels = [Level(label=BASELINES[key], value=value) for key, value in baselines(run)]
    last = run.evaluations[-1]
    figures = (
        "bits_per_byte", "loss", "perplexity", "word_perplexity", "tokens", "bytes", "words",
    )  # fmt: skip

    def row(name: str, path: Sequence[str], **options: Any) -> Row:
        values = [number(last, *path, figure) for figure in figures]
        forms = ["number"] * 4 + ["short"] * 3
        cells = [written(v, form) for v, form in zip(values, forms, strict=True)]  # type: ignore[arg-type]
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
                    title="Held-out loss by component",
                    unit=_LOSS,
                    series=by_component("loss"),
                ),
                Plot(
                    key="heldout-bits",
                    title="Bits per byte by component",
                    unit="bits per byte",
                    series=by_component("bits_per_byte"),
                    levels=levels,
                    note="Dashed: what the baselines need on all the held-out text." if levels else "",
                ),
            ]
        ),
        table=Table(
            heads=(
                "Component", "Bits per byte", "Loss", "Perplexity / token", "Perplexity / word",
                "Tokens", "Bytes", "Words",
            ),
            rows=[*rows, row("All", (), total=True)],
        ),
    )  # fmt: skip


def _samples(run: RunFacts) -> Section:
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
        text="The same prompts, continued at each stage." if moments else "",
        timeline=timeline,
    )


def _corpus(run: RunFacts) -> Section:
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
            f"{short(size)}B",
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


def _model(run: RunFacts) -> Section:
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


def _says_something(section: Section) -> bool:
    return any(
        (
            section.figures,
            section.table,
            section.timeline,
            section.columns,
            section.folded,
            section.trees,
        )
    )
