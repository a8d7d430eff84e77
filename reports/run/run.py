"""The page of one run: verdict, curves, held-out figures, samples, corpus, model, settings."""

import datetime
import math

from gesso.records.progress import duration, short
from gesso.reports.facts import (
    BASELINES,
    RunFacts,
    baselines,
    last_evaluation,
    latest,
    number,
    parameters,
    tokens_seen,
    training_seconds,
    typical,
)
from gesso.reports.figures import written
from gesso.reports.page import Bar, Hero, Page, Section, Stat, Status, groups, said
from gesso.reports.run.evaluations import layers, tasks
from gesso.reports.run.hosts import hosts
from gesso.reports.run.labelled import task, task_hero
from gesso.reports.run.sections import LOSS, corpus, environment, heldout, model, samples, training
from gesso.reports.run.terms import terms, terms_hero


def run_page(run: RunFacts, version: str) -> Page:
    """The page of one run; sections without facts are left out."""
    sections = (
        training(run),
        task(run),
        heldout(run),
        terms(run),
        tasks(run),
        layers(run),
        samples(run),
        corpus(run),
        model(run),
        hosts(run),
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


def hero(run: RunFacts) -> Hero | None:
    """Held-out bits per byte against the baselines; of an objective that has none, its first term
    against a unigram model."""
    ours = last_evaluation(run, "bits_per_byte")
    if not math.isfinite(ours):
        return task_hero(run) or terms_hero(run)
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
        made.append(Stat(label="Training loss", value=loss, note=f"{LOSS}, the last 5% of the run"))
    if run.evaluations:
        known = [
            f"{written(last_evaluation(run, key), 'number')} per {unit}"
            for key, unit in (("perplexity", "token"), ("word_perplexity", "word"))
            if math.isfinite(last_evaluation(run, key))
        ]
        made.append(
            Stat(
                label="Held-out loss",
                value=written(last_evaluation(run, "loss"), "number"),
                note=f"{LOSS}; perplexity {', '.join(known)}" if known else LOSS,
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
