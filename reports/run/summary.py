"""The head of a run's page: how it ended, the number it is judged by, and those beside it."""

import datetime
import math

from gesso.records.quantities import duration, short, value_text
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
from gesso.reports.page import Bar, Hero, Stat, Status, setting_text
from gesso.reports.run.curves import LOSS
from gesso.reports.run.labelled import task_hero
from gesso.reports.run.terms import terms_hero


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
            f"{size}{setting_text(model['layers'])} layers, {setting_text(model['embed'])} wide,"
            f" {setting_text(model['heads'])} heads"
        )
    if {"batch", "length"} <= e.keys():
        parts.append(
            f"{setting_text(e['batch'])} rows of {setting_text(e['length'])} tokens per update"
        )
    devices = run.environment.get("devices")
    if isinstance(devices, dict) and "kind" in devices:
        parts.append(
            f"on {setting_text(devices.get('count', '?'))} × {setting_text(devices['kind'])}"
        )
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
    """What a reader must know before the numbers."""
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
            f"{len(skipped):,} {plural} skipped because of a NaN or infinite loss or gradient:"
            f" step{'s' if skipped[1:] else ''} {some}."
        )
    return said_so


def utilization(run: RunFacts) -> str:
    mfu = typical([r for r in run.train if r.get("mfu") is not None], "mfu")
    return f"{mfu:.1%}" if math.isfinite(mfu) else "n/a"


def stats(run: RunFacts) -> list[Stat]:
    made = []
    if run.train:
        loss = value_text(latest(run.train, "loss"), "number")
        made.append(Stat(label="Training loss", value=loss, note=f"{LOSS}, the last 5% of the run"))
    if run.evaluations:
        known = [
            f"{value_text(last_evaluation(run, key), 'number')} per {unit}"
            for key, unit in (("perplexity", "token"), ("word_perplexity", "word"))
            if math.isfinite(last_evaluation(run, key))
        ]
        made.append(
            Stat(
                label="Held-out loss",
                value=value_text(last_evaluation(run, "loss"), "number"),
                note=f"{LOSS}; perplexity {', '.join(known)}" if known else LOSS,
            )
        )
    if not run.train:
        return made
    starts = sum(event.get("event") == "started" for event in run.events)
    wait = typical(run.train, "data_wait_fraction")
    kind = setting_text((run.environment.get("devices") or {}).get("kind"))
    mfu = utilization(run)
    return [
        *made,
        Stat(label="Tokens seen", value=short(tokens_seen(run)), note=f"{run.step:,} updates"),
        Stat(
            label="Throughput",
            value=short(typical(run.train, "tokens_per_second")),
            unit="tokens/s",
            note=f"{value_text(wait, 'percent')} of the time waiting for data",
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
