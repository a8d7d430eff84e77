"""`run`: start or continue an experiment in its folder, to its end or to the next preemption."""

import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from gesso.data import ensure_store, open_store
from gesso.data.loader import Loader
from gesso.partitioning.hosts.processes import Hosts, start
from gesso.partitioning.machines.probe import time_devices
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.checks import validate
from gesso.pretrain.exits import DONE, PREEMPTED
from gesso.pretrain.experiment import Experiment, fingerprint
from gesso.pretrain.failures.preemption import Preemption
from gesso.pretrain.failures.supervise import Supervisor
from gesso.pretrain.folder.claim import claim, versions
from gesso.pretrain.folder.lock import hold
from gesso.pretrain.loop import Figures, Hooks, Outcome, train
from gesso.pretrain.phases import phase_ends, phase_of_update
from gesso.pretrain.provenance import logging_to, write_last_records, write_records
from gesso.pretrain.reporter import Reporter, record_failure
from gesso.pretrain.setup import Setup, compile_step_of, set_up, utilization, weight_leaves
from gesso.pretrain.stages import next_stage
from gesso.pretrain.start import Saver, choose_start, find_warm_start, initial_position
from gesso.pretrain.state import Position
from gesso.records.metrics import Metrics, Record, read_metrics
from gesso.records.progress import Progress
from gesso.records.spans import Spans

LOG = logging.getLogger("gesso")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a call of `run` ended. status: pretrain.exits.DONE or PREEMPTED. step: updates done.
    evaluation: the last held-out figures this call measured, if any."""

    status: int
    folder: Path
    step: int
    evaluation: Record | None


def run(
    experiment: Experiment, *, folder: str | os.PathLike[str], named: Collection[str] = ()
) -> RunResult:
    """Start `experiment` in `folder`, or continue it from its newest complete checkpoint.

    The same call after a crash continues; after the end it does nothing. Called by every process
    of a multi-process run. `named`: settings the user gave explicitly, which may differ from what
    the folder records (a run may be lengthened so).

    Raises ExperimentError and other ValueErrors before anything is written, CheckpointsCorrupt when
    no checkpoint is whole, Diverged after too many updates with a NaN or infinite loss or gradient.
    """
    folder = Path(folder)
    corpus = ensure_store(experiment.data.store)  # an embedded corpus is made before the run begins
    hosts = start(experiment.hosts, agreement=versions() | {"experiment": fingerprint(experiment)})
    # The supervisor ends first: on a failure it tells the other processes before anything waits.
    with contextlib.ExitStack() as stack, Supervisor(hosts, experiment.hosts) as supervisor:
        validate(experiment, devices=jax.device_count())
        condition = claim(folder, experiment, named=named)
        supervisor.progress("data")
        store = open_store(corpus)
        setups = tuple(
            set_up(experiment, store=store, phase=phase)
            for phase in range(len(phase_ends(experiment)))
        )
        begin = choose_start(setups[0], folder / "checkpoints")
        warm_start = find_warm_start(setups[0]) if begin == "start" else None
        # Nothing was written so far: whatever was wrong with the request has been refused.
        lock = stack.enter_context(hold(folder)) if hosts.process == 0 else None
        stack.enter_context(logging_to(folder, hosts))
        LOG.info("%s run of %s in %s", condition, experiment.name, folder)
        warmup = experiment.optimizer.schedule.warmup_steps
        if warmup >= experiment.steps:
            LOG.warning("all %d steps lie within the warmup of %d", experiment.steps, warmup)
        if hosts.process == 0:
            write_records(folder, setups, hosts, warm_start)
        checkpoints = Checkpoints(
            folder / "checkpoints", experiment.checkpoint, hosts=hosts, lock=lock, log=LOG.info
        )
        stack.callback(checkpoints.close)
        preemption = Preemption(hosts)
        stack.callback(preemption.close)
        position = initial_position(
            setups,
            checkpoints,
            folder=folder,
            start=begin,
            warm_start=warm_start,
            progress=supervisor.progress,
        )
        if position.step >= experiment.steps and _has_ended(folder, position.step):
            LOG.info("already at step %d of %d: nothing to do", position.step, experiment.steps)
            return RunResult(status=DONE, folder=folder, step=position.step, evaluation=None)
        session = _Session(
            folder=folder,
            hosts=hosts,
            supervisor=supervisor,
            preemption=preemption,
            checkpoints=checkpoints,
        )
        return session.train(setups, position)


def _has_ended(folder: Path, step: int) -> bool:
    """Whether the last call wrote all there is; it may have died after the last checkpoint."""
    return any(r.get("event") == "done" and r["step"] == step for r in read_metrics(folder))


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What the phases of a run share once its folder is its own."""

    folder: Path
    hosts: Hosts
    supervisor: Supervisor
    preemption: Preemption
    checkpoints: Checkpoints

    def train(self, setups: Sequence[Setup], position: Position) -> RunResult:
        """All phases or stages that are left, the last evaluation and the report."""
        e, step = setups[-1].experiment, position.step
        with (
            Metrics(
                self.folder, e.logging, resume_step=step, process=self.hosts.process
            ) as metrics,
            record_failure(metrics, step),
            Progress(steps=e.steps, start=step, name=e.name) as progress,
        ):
            reporter = Reporter(setups[-1], metrics, progress, self.hosts)
            saver = Saver(self.checkpoints, e)
            outcome = Outcome(**vars(position), ended="done")
            while outcome.step < e.steps and outcome.ended == "done":
                phase = phase_of_update(e, outcome.step + 1)
                if e.stages and phase != (before := phase_of_update(e, outcome.step)):
                    state = next_stage(setups[before], setups[phase], outcome.state)
                    outcome = dataclasses.replace(outcome, state=state)
                reporter.setup = setups[phase]
                end = phase_ends(e)[phase]
                outcome = self._train_phase(setups[phase], end, outcome, metrics, reporter, saver)
                if outcome.ended == "done" and end < e.steps:
                    kind = "stage" if e.stages else "phase"
                    LOG.info("%s %d ended after step %d", kind, phase + 1, outcome.step)
                    if not e.stages:  # a phase reads the corpus from its first row
                        outcome = dataclasses.replace(outcome, next_row=0)
            return self._finish(setups[-1], outcome, metrics, reporter)

    def _train_phase(
        self,
        setup: Setup,
        end: int,
        position: Position,
        metrics: Metrics,
        reporter: Reporter,
        saver: Saver,
    ) -> Outcome:
        """From `position` until `end` updates are made, or to a preemption."""
        e = setup.experiment
        step_fn = self._compile(setup, position.step, metrics)
        loader = Loader(
            setup.order,
            setup.objective.host_batch,
            letters=setup.objective.letters,
            mesh=setup.mesh,
            batch=e.batch,
            start_row=position.next_row,
            prefetch=e.data.prefetch,
        )
        with loader, contextlib.closing(self._spans(setup, reporter)) as spans:
            return train(
                position.state,
                loader,
                step_fn,
                start=position.step,
                steps=end,
                next_row=position.next_row,
                hooks=Hooks(
                    record=spans.record,
                    save=functools.partial(saver.save, setup),
                    save_due=self.checkpoints.due,
                    evaluate=reporter.evaluate,
                    evaluate_due=reporter.due,
                    poll=self.checkpoints.poll,
                    preempted=self.preemption.must_stop,
                    progress=spans.progress,
                ),
                figures=Figures(
                    terms=tuple(setup.objective.terms),
                    counts=weight_leaves(setup.objective),
                    components=setup.order.components,
                    utilization=utilization(setup),
                    log_every=e.logging.every_steps,
                    max_skipped=e.optimizer.max_skipped_steps,
                    total=e.steps,
                ),
            )

    def _compile(self, setup: Setup, step: int, metrics: Metrics) -> jax.stages.Compiled:
        self.supervisor.progress("compile")
        before = time.perf_counter()
        compiled = compile_step_of(setup)
        seconds = round(time.perf_counter() - before, 3)
        event = {"kind": "event", "step": step, "event": "started", "compile_seconds": seconds}
        metrics.write(event)
        return compiled

    def _spans(self, setup: Setup, reporter: Reporter) -> Spans:
        devices = list(setup.mesh.devices.flat)
        spans = Spans(
            self.folder,
            self.hosts,
            progress=self.supervisor.progress,
            record=reporter.record,
            overlapped=devices[0].platform != "cpu" or len(devices) == 1,
        )
        if self.hosts.count > 1:
            spans.write({"step": 0, "probe": time_devices()})
        return spans

    def _finish(
        self, setup: Setup, outcome: Outcome, metrics: Metrics, reporter: Reporter
    ) -> RunResult:
        done = outcome.ended == "done"
        if done and not reporter.is_evaluated(outcome.step):
            self.supervisor.progress("evaluate")
            reporter.evaluate(outcome.step, outcome.state)
        self.supervisor.progress("save")
        self.checkpoints.wait()
        metrics.write({"kind": "event", "step": outcome.step, "event": outcome.ended})
        if self.hosts.process == 0 and done:
            self.supervisor.progress("report")
            write_last_records(self.folder, setup, baselines=reporter.last_evaluation is not None)
        LOG.info("%s after step %d", outcome.ended, outcome.step)
        return RunResult(
            status=DONE if done else PREEMPTED,
            folder=self.folder,
            step=outcome.step,
            evaluation=reporter.last_evaluation,
        )
