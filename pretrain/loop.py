"""The steady state: batches in, updates out, metrics read one step late so that nothing waits."""

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import jax
import numpy as np

from gesso.data.loader import Batch
from gesso.partitioning.mesh import settle
from gesso.pretrain.state import Position, State
from gesso.pretrain.step import Metrics
from gesso.records.metrics import Record


class Diverged(FloatingPointError):
    """Too many updates in a row had a NaN or infinite loss or gradient."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop does beside stepping. Steps are the number of updates made.

    record: takes a train record (docs/metrics.md), on logged steps. save: starts a checkpoint of
    (step, state, next row). evaluate: held-out loss and samples. save_due, evaluate_due: whether
    this is a step for it. poll: raises what went wrong in the background. preempted: whether a host
    must stop after this step, the same answer on all of them. progress: hears the phase that the
    loop enters, for the hang watchdog and the spans ("wait": for devices).
    """

    record: Callable[[Record], None]
    save: Callable[[int, State, int], None]
    save_due: Callable[[int], bool]
    evaluate: Callable[[int, State], None]
    evaluate_due: Callable[[int], bool]
    poll: Callable[[], None]
    preempted: Callable[[int], bool]
    progress: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What turns a step's arrays into a record.

    terms: the objective's; counts: its weight leaves, where it has several. components: names by
    id. utilization: tokens per second -> MFU or None.
    """

    terms: tuple[str, ...]
    counts: tuple[str, ...]
    components: tuple[str, ...]
    utilization: Callable[[float], float | None]
    log_every: int
    max_skipped: int
    total: int


@dataclass(kw_only=True)
class _Clock:
    """Wall time, data waits and tokens since the last record; evaluation is not counted."""

    since: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    tokens: int = 0
    steps: int = 0
    skipped_in_a_row: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome(Position):
    """Where the loop ended, and why: all its updates were "done", or it was "preempted"."""

    ended: Literal["done", "preempted"]


def train(
    state: State,
    batches: Iterable[Batch],
    step_fn: Callable[[State, dict[str, jax.Array]], tuple[State, Metrics]],
    *,
    start: int,
    steps: int,
    next_row: int,
    hooks: Hooks,
    figures: Figures,
) -> Outcome:
    """Update `state` from `start` to `steps` updates done, or until a host is told to stop.

    `batches` yields data.loader batches (arrays, rows, wait_seconds) in order from `next_row`.
    The metrics of an update are read while the next one runs. Raises Diverged.
    """
    clock, pending = _Clock(), None
    feed: Iterator[Batch] = iter(batches)
    for done in range(start + 1, steps + 1):
        hooks.progress("data")
        batch = next(feed)
        hooks.progress("step")
        # Whatever is not on the device yet would make the host wait here, every step.
        with jax.transfer_guard("disallow"):
            state, metrics = step_fn(state, batch.arrays)
        hooks.progress("wait")
        settle(metrics)
        hooks.progress("step")
        next_row = batch.rows[1]
        # The update was only dispatched. Its metrics are read when the next one is under way, so
        # that the devices never wait for the host.
        pending, ready = (done, batch, metrics), pending
        if ready:
            _report(*ready, clock, hooks, figures)
        hooks.poll()
        stop = hooks.preempted(done)
        if stop or hooks.save_due(done) or done == steps:
            # On record before it is saved: a run that dies in between would never have it.
            _report(*pending, clock, hooks, figures)
            pending = None
            hooks.progress("save")
            hooks.save(done, state, next_row)
        if stop:
            return Outcome(state=state, step=done, next_row=next_row, ended="preempted")
        if hooks.evaluate_due(done):
            if pending:
                _report(*pending, clock, hooks, figures)
            # Evaluation is not counted as time of the steps: the clock is moved on below.
            pending, before = None, time.perf_counter()
            hooks.progress("evaluate")
            hooks.evaluate(done, state)
            clock.since += time.perf_counter() - before
    if pending:
        _report(*pending, clock, hooks, figures)
    return Outcome(state=state, step=max(start, steps), next_row=next_row, ended="done")


def _report(
    step: int, batch: Batch, metrics: Metrics, clock: _Clock, hooks: Hooks, figures: Figures
) -> None:
    hooks.progress("wait")
    values = jax.device_get(metrics)
    hooks.progress("step")
    clock.waited += batch.wait_seconds
    clock.tokens += int(values["tokens"])
    clock.steps += 1
    clock.skipped_in_a_row = clock.skipped_in_a_row + 1 if values["skipped"] else 0
    if clock.skipped_in_a_row >= figures.max_skipped:
        raise Diverged(
            f"{clock.skipped_in_a_row} updates in a row had no finite loss or gradient, the last on"
            f" rows {batch.rows[0]} to {batch.rows[1]} (step {step}); lower the learning rate, or"
            f" jump over the rows with --data.skip"
        )
    # Skipped updates are always on record: each is rare, and the first thing to look at.
    if step % figures.log_every and step != figures.total and not values["skipped"]:
        return
    now = time.perf_counter()
    seconds = max(now - clock.since, 1e-9)
    rate = clock.tokens / seconds
    record = {
        "kind": "train",
        "step": step,
        "rows": list(batch.rows),
        # Over the rows' own checksums in row order: the same on any mesh and any number of hosts.
        "batch_crc32": zlib.crc32(np.ascontiguousarray(values["row_crc"], "<u4").tobytes()),
        "loss": float(values["loss"]),
        **{term: float(values[term]) for term in figures.terms},
        "tokens": int(values["tokens"]),
        "loss_tokens": int(values["loss_tokens"]),
        "counts": {name: values["counts"][name].tolist() for name in figures.counts},
        "tokens_per_second": rate,
        "mfu": figures.utilization(rate),
        "data_wait_fraction": clock.waited / seconds,
        "grad_norm": float(values["grad_norm"]),
        "learning_rate": float(values["learning_rate"]),
        "skipped": int(values["skipped"]),
        "seconds": seconds / clock.steps,
        "seconds_left": seconds / clock.steps * (figures.total - step),
        "components": {
            name: float(loss / weight)
            for name, loss, weight in zip(
                figures.components,
                values["component_loss"],
                values["component_weight"],
                strict=True,
            )
            if weight > 0
        },
    }
    hooks.record(record)
    clock.since, clock.waited, clock.tokens, clock.steps = now, 0.0, 0, 0
