"""`run`: start or continue an experiment in its folder, to its end or to the next preemption."""

import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from gesso.partitioning.hosts.processes import Hosts, start
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.checks import validate
from gesso.pretrain.exits import DONE, PREEMPTED
from gesso.pretrain.experiment import Experiment, fingerprint, to_json
from gesso.pretrain.failures.preemption import Preemption
from gesso.pretrain.failures.supervise import Supervisor
from gesso.pretrain.folder.claim import claim, versions
from gesso.pretrain.folder.lock import RunLock
from gesso.pretrain.loop import Figures, Hooks, Outcome, train
from gesso.pretrain.open import store_of
from gesso.pretrain.origins.parameters import Beginning
from gesso.pretrain.phases import phase_ends, phase_of_update
from gesso.pretrain.provenance import (
    logging_to,
    write_baselines,
    write_beginning,
    write_corpus,
    write_records,
)
from gesso.pretrain.reporter import Reporter
from gesso.pretrain.setup import Setup, compiled_step, counted_leaves, set_up, utilization
from gesso.pretrain.stages import next_stage
from gesso.pretrain.start import (
    base_of,
    decided,
    fresh_state,
    imported_state,
    saved,
    sought,
    started_state,
    with_base,
)
from gesso.pretrain.state import State
from gesso.records.metrics import Metrics, read_metrics
from gesso.records.progress import Progress
from gesso.records.spans import Spans, probe, read_spans
from gesso.records.stragglers import host_times, verdicts

LOG = logging.getLogger("gesso")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a call of `run` ended. status: pretrain.exits.DONE or PREEMPTED. step: updates done.
    evaluation: the last held-out figures this call measured, if any."""

    status: int
    folder: Path
    step: int
    evaluation: dict[str, Any] | None


def run(
    experiment: Experiment, *, folder: str | os.PathLike[str], named: Collection[str] = ()
) -> RunResult:
    """Start `experiment` in `folder`, or continue it from its newest complete checkpoint.

    The same call after a crash continues; after the end it does nothing. Called by every process
    of a multi-process run. `named`: settings the user gave explicitly, which may differ from what
    the folder records (a run may be lengthened so).

    Raises ExperimentError and other ValueErrors before anything is written, CheckpointsCorrupt when
    no checkpoint is whole, Diverged when the loss stays no number.
    """
    folder = Path(folder)
    hosts = start(experiment.hosts, agreement=versions() | {"experiment": fingerprint(experiment)})
    # The supervisor ends first: on a failure it tells the other processes before anything waits.
    with contextlib.ExitStack() as stack, Supervisor(hosts, experiment.hosts) as supervisor:
        validate(experiment, devices=jax.device_count())
        state_of_folder = claim(folder, experiment, named=named)
        supervisor.progress("data")
        store = store_of(experiment)
        setups = tuple(
            set_up(experiment, store=store, phase=phase)
            for phase in range(len(phase_ends(experiment)))
        )
        start_from = decided(setups[0], folder / "checkpoints")
        begins = sought(setups[0]) if start_from == "start" else None
        lock = None
        if hosts.process == 0:
            folder.mkdir(parents=True, exist_ok=True)
            lock = RunLock(folder)
            lock.acquire()
            stack.callback(lock.release)
        stack.enter_context(logging_to(folder, hosts))
        LOG.info("%s run of %s in %s", state_of_folder, experiment.name, folder)
        warmup = experiment.optimizer.schedule.warmup_steps
        if warmup >= experiment.steps:
            LOG.warning("all %d steps lie within the warmup of %d", experiment.steps, warmup)
        if hosts.process == 0:
            write_records(folder, setups[-1], hosts)
            if begins is not None:
                write_beginning(folder, setups, begins)
        checkpoints = Checkpoints(
            folder / "checkpoints", experiment.checkpoint, hosts=hosts, lock=lock, log=LOG.info
        )
        stack.callback(checkpoints.close)
        session = _Session(
            setups=setups,
            folder=folder,
            hosts=hosts,
            supervisor=supervisor,
            checkpoints=checkpoints,
            stack=stack,
            start_from=start_from,
            begins=begins,
        )
        return session.train()


@dataclass(frozen=True, kw_only=True)
class _Session:
    """One call of `run` once its folder is its own. setups: one per phase or stage, the last the
    run's own. stack: what is closed when it ends. start_from, begins, base: see
    pretrain/start.py."""

    setups: tuple[Setup, ...]
    folder: Path
    hosts: Hosts
    supervisor: Supervisor
    checkpoints: Checkpoints
    stack: contextlib.ExitStack
    start_from: str
    begins: Beginning | None
    base: dict[str, Any] = field(default_factory=dict)

    @property
    def setup(self) -> Setup:
        return self.setups[-1]

    def train(self) -> RunResult:
        e = self.setup.experiment
        preemption = Preemption(self.hosts)
        self.stack.callback(preemption.close)
        step, next_row, state = self._start()
        if step >= e.steps and self._has_ended(step):
            LOG.info("already at step %d of %d: nothing to do", step, e.steps)
            return RunResult(status=DONE, folder=self.folder, step=step, evaluation=None)
        metrics = self.stack.enter_context(Metrics(self.folder, e.logging, resume_step=step))
        self.stack.push(_failure_to(metrics, step))
        progress = self.stack.enter_context(Progress(steps=e.steps, start=step, name=e.name))
        reporter = Reporter(self.setup, metrics, progress, self.hosts)
        outcome = Outcome(state=state, step=step, next_row=next_row, ended="done")
        while outcome.step < e.steps and outcome.ended == "done":
            phase = phase_of_update(e, outcome.step + 1)
            if e.stages and phase != (before := phase_of_update(e, outcome.step)):
                state = next_stage(self.setups[before], self.setups[phase], outcome.state)
                outcome = dataclasses.replace(outcome, state=state)
            reporter.setup = self.setups[phase]
            outcome = self._train_phase(phase, outcome, metrics, reporter, preemption)
        return self._finish(outcome, metrics, reporter)

    def _train_phase(
        self,
        phase: int,
        begun: Outcome,
        metrics: Metrics,
        reporter: Reporter,
        preemption: Preemption,
    ) -> Outcome:
        """From where `begun` ended to the end of a phase, or to a preemption."""
        setup, e = self.setups[phase], self.setup.experiment
        step_fn = self._compile(setup, metrics, begun.step)
        loader = self._loader(setup, begun.next_row)
        spans = self._spans(setup, reporter)
        end = phase_ends(e)[phase]
        outcome = train(
            begun.state,
            loader,
            step_fn,
            start=begun.step,
            steps=end,
            next_row=begun.next_row,
            hooks=Hooks(
                record=spans.record,
                save=functools.partial(self._save, setup),
                save_due=self.checkpoints.due,
                evaluate=reporter.evaluate,
                evaluate_due=reporter.due,
                poll=self.checkpoints.poll,
                preempted=preemption.reached,
                progress=spans.progress,
            ),
            figures=Figures(
                terms=tuple(setup.objective.terms),
                counts=counted_leaves(setup.objective),
                components=setup.order.components,
                utilization=utilization(setup),
                log_every=e.logging.every_steps,
                max_skipped=e.optimizer.max_skipped_steps,
                total=e.steps,
            ),
        )
        loader.close()
        spans.close()
        if outcome.ended == "done" and end < e.steps:
            LOG.info("%s %d ended after step %d", "stage" if e.stages else "phase", phase + 1, end)
            # A phase reads the corpus from its first row; a stage goes on with the rows.
            return outcome if e.stages else dataclasses.replace(outcome, next_row=0)
        return outcome

    def _start(self) -> tuple[int, int, State]:
        """(updates done, next row, state): the newest complete checkpoint's, or a fresh state's."""
        e, first = self.setup.experiment, self.setups[0]
        self.supervisor.progress("restore")
        if self.start_from == "imported":
            LOG.info("starting from the imported parameters in %s", self.folder)
            return 0, 0, imported_state(first, self.folder / "checkpoints")
        restored = self.checkpoints.restore(self._abstract_at)
        if restored is not None:
            phase = phase_of_update(e, min(restored.step, e.steps))
            next_row = self.setups[phase].order.resume(restored.info["data"])
            if restored.step == phase_ends(e)[phase] < e.steps and not e.stages:
                next_row = 0
            LOG.info("continuing after step %d, row %d", restored.step, next_row)
            state = with_base(self.setups[phase], restored.state, restored.info)
            return restored.step, next_row, state
        if self.begins is not None:
            return 0, 0, started_state(first, self.begins)
        self.supervisor.progress("compile")
        return 0, 0, fresh_state(first)

    def _abstract_at(self, step: int) -> State:
        """The state as a checkpoint after `step` updates has it."""
        e = self.setup.experiment
        setup = self.setups[phase_of_update(e, min(step, e.steps))]
        return saved(setup, setup.abstract)

    def _has_ended(self, step: int) -> bool:
        """Whether the last call wrote all there is; it may have died after the last checkpoint."""
        return any(
            r.get("event") == "done" and r["step"] == step for r in read_metrics(self.folder)
        )

    def _compile(self, setup: Setup, metrics: Metrics, step: int) -> jax.stages.Compiled:
        self.supervisor.progress("compile")
        began = time.perf_counter()
        compiled = compiled_step(setup)
        seconds = round(time.perf_counter() - began, 3)
        event = {"kind": "event", "step": step, "event": "started", "compile_seconds": seconds}
        metrics.write(event)
        return compiled

    def _loader(self, s: Setup, next_row: int) -> Any:
        from gesso.data.loader import Loader

        e = s.experiment
        loader = Loader(
            s.order,
            s.objective.host_batch,
            letters=s.objective.letters,
            mesh=s.mesh,
            batch=e.batch,
            start_row=next_row,
            prefetch=e.data.prefetch,
        )
        self.stack.callback(loader.close)
        return loader

    def _spans(self, s: Setup, reporter: Reporter) -> Spans:
        devices = list(s.mesh.devices.flat)
        spans = Spans(
            self.folder,
            self.hosts,
            progress=self.supervisor.progress,
            record=reporter.record,
            overlapped=devices[0].platform != "cpu" or len(devices) == 1,
        )
        self.stack.callback(spans.close)
        if self.hosts.count > 1:
            spans.write({"step": 0, "probe": probe()})
        return spans

    def _save(self, setup: Setup, step: int, state: State, next_row: int) -> None:
        info = {
            "data": setup.order.state(next_row),
            "experiment": to_json(self.setup.experiment),
            "environment": versions(),
            "tokenizer": self.setup.tokenizer.fingerprint,
        }
        if not self.base:  # one pass over the frozen parameters, which never change
            self.base.update(base_of(setup, state))
        info |= self.base
        self.checkpoints.save(step, saved(setup, state), info)

    def _finish(self, outcome: Outcome, metrics: Metrics, reporter: Reporter) -> RunResult:
        done = outcome.ended == "done"
        if done and not reporter.evaluated(outcome.step):
            self.supervisor.progress("evaluate")
            reporter.evaluate(outcome.step, outcome.state)
        self.supervisor.progress("save")
        self.checkpoints.wait()
        metrics.write({"kind": "event", "step": outcome.step, "event": outcome.ended})
        if self.hosts.process == 0 and done:
            from gesso.reports.report import write_report

            self.supervisor.progress("report")
            write_corpus(self.folder, self.setup)
            if reporter.last_evaluation is not None:
                write_baselines(self.folder, self.setup)
            for told in verdicts(host_times(read_spans(self.folder))):
                LOG.warning("%s", told)
            page = write_report([self.folder], self.folder / "report.html")
            LOG.info("report: %s", page)
        LOG.info("%s after step %d", outcome.ended, outcome.step)
        return RunResult(
            status=DONE if done else PREEMPTED,
            folder=self.folder,
            step=outcome.step,
            evaluation=reporter.last_evaluation,
        )


def _failure_to(metrics: Metrics, step: int) -> Any:
    """An exit callback that puts the exception, if there is one, on record as an event."""

    def record(
        kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is not None:
            text = f"{type(error).__name__}: {error}"
            metrics.write({"kind": "event", "step": step, "event": "failed", "error": text[:2000]})

    return record
