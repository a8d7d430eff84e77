"""`run`: start or continue an experiment in its folder, to its end or to the next preemption."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from partitioning.hosts import Hosts, start
from pretrain.checkpoint import Checkpoints
from pretrain.exits import DONE, PREEMPTED
from pretrain.experiment import Experiment, fingerprint, to_json, validate
from pretrain.folder import claim, environment, versions, write_json
from pretrain.loop import Figures, Hooks, Outcome, train
from pretrain.metrics import Metrics
from pretrain.preemption import Preemption
from pretrain.progress import Progress
from pretrain.runlock import RunLock
from pretrain.setup import Setup, compiled_step, parameter_table, set_up, utilization
from pretrain.state import State, init_state
from pretrain.supervise import Supervisor

LOG = logging.getLogger("gesso")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a call of `run` ended. status: pretrain.exits.DONE or PREEMPTED. step: updates done.
    evaluation: the last held-out figures, if any."""

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

    Raises ExperimentError and other ValueErrors before a device is touched, CheckpointsCorrupt when
    no checkpoint is whole, Diverged when the loss stays no number.
    """
    folder = Path(folder)
    hosts = start(experiment.hosts, agreement=versions() | {"experiment": fingerprint(experiment)})
    with contextlib.ExitStack() as stack, Supervisor(hosts, experiment.hosts) as supervisor:
        validate(experiment, devices=jax.device_count())
        state_of_folder = claim(folder, experiment, named=named)
        supervisor.progress("data")
        setup = set_up(experiment, store=_open_store(experiment))
        lock = None
        if hosts.process == 0:
            folder.mkdir(parents=True, exist_ok=True)
            lock = RunLock(folder)
            lock.acquire()
            stack.callback(lock.release)
        stack.enter_context(_logging_to(folder, hosts))
        LOG.info("%s run of %s in %s", state_of_folder, experiment.name, folder)
        if hosts.process == 0:
            _write_records(folder, setup, hosts)
        checkpoints = Checkpoints(
            folder / "checkpoints", experiment.checkpoint, hosts=hosts, lock=lock, log=LOG.info
        )
        stack.callback(checkpoints.close)
        return _train(setup, folder, hosts, supervisor, checkpoints, stack)


def _open_store(experiment: Experiment) -> Any:
    from data.embedded import ensure_store
    from data.store import open_store

    return open_store(ensure_store(experiment.data.store))


def _train(
    setup: Setup,
    folder: Path,
    hosts: Hosts,
    supervisor: Supervisor,
    checkpoints: Checkpoints,
    stack: contextlib.ExitStack,
) -> RunResult:
    from data.loader import Loader

    e = setup.experiment
    preemption = Preemption(hosts)
    stack.callback(preemption.close)
    supervisor.progress("restore")
    restored = checkpoints.restore(setup.abstract)
    if restored is None:
        start_step, next_row = 0, 0
        supervisor.progress("compile")
        state = init_state(
            setup.model,
            setup.optimizer,
            seed=e.seed,
            mesh=setup.mesh,
            layout=setup.layout,
            dtype=e.precision.params,
        )
    else:
        start_step, state = restored.step, restored.state
        next_row = setup.order.resume(restored.info["data"])
        LOG.info("continuing after step %d, row %d", start_step, next_row)
    if start_step >= e.steps:
        LOG.info("already at step %d of %d: nothing to do", start_step, e.steps)
        return RunResult(status=DONE, folder=folder, step=start_step, evaluation=None)
    metrics = stack.enter_context(Metrics(folder, e.logging, resume_step=start_step))
    progress = stack.enter_context(Progress(steps=e.steps, start=start_step, name=e.name))
    reporter = _Reporter(setup, metrics, progress, hosts)
    supervisor.progress("compile")
    began = time.perf_counter()
    step_fn = compiled_step(setup)
    seconds = round(time.perf_counter() - began, 3)
    metrics.write(
        {"kind": "event", "step": start_step, "event": "started", "compile_seconds": seconds}
    )
    loader = Loader(
        setup.order,
        setup.objective.host_batch,
        mesh=setup.mesh,
        batch=e.batch,
        start_row=next_row,
        prefetch=e.data.prefetch,
    )
    stack.callback(loader.close)

    def save(step: int, state: State, row: int) -> None:
        checkpoints.save(
            step,
            state,
            {
                "data": setup.order.state(row),
                "experiment": to_json(e),
                "environment": versions(),
                "tokenizer": setup.tokenizer.fingerprint,
            },
        )

    hooks = Hooks(
        record=reporter.record,
        save=save,
        save_due=checkpoints.due,
        evaluate=reporter.evaluate,
        evaluate_due=reporter.due,
        poll=checkpoints.poll,
        preempted=preemption.reached,
        progress=supervisor.progress,
    )
    figures = Figures(
        terms=tuple(setup.objective.coefficients),
        components=setup.order.components,
        utilization=utilization(setup),
        log_every=e.logging.every_steps,
        max_skipped=e.optimizer.max_skipped_steps,
        total=e.steps,
    )
    outcome = train(
        state,
        loader,
        step_fn,
        start=start_step,
        steps=e.steps,
        next_row=next_row,
        hooks=hooks,
        figures=figures,
    )
    loader.close()
    return _finish(outcome, setup, folder, hosts, supervisor, checkpoints, metrics, reporter)


def _finish(
    outcome: Outcome,
    setup: Setup,
    folder: Path,
    hosts: Hosts,
    supervisor: Supervisor,
    checkpoints: Checkpoints,
    metrics: Metrics,
    reporter: "_Reporter",
) -> RunResult:
    if outcome.ended == "done" and not reporter.evaluated(outcome.step):
        supervisor.progress("evaluate")
        reporter.evaluate(outcome.step, outcome.state)
    supervisor.progress("save")
    checkpoints.wait()
    metrics.write({"kind": "event", "step": outcome.step, "event": outcome.ended})
    if hosts.process == 0 and outcome.ended == "done":
        from pretrain.report import write_report

        supervisor.progress("report")
        _write_corpus(folder, setup)
        path = write_report([folder], folder / "report.html")
        LOG.info("report: %s", path)
    LOG.info("%s after step %d", outcome.ended, outcome.step)
    status = DONE if outcome.ended == "done" else PREEMPTED
    return RunResult(
        status=status, folder=folder, step=outcome.step, evaluation=reporter.last_evaluation
    )


class _Reporter:
    """What the loop shows and writes: train records, held-out figures, samples."""

    def __init__(self, setup: Setup, metrics: Metrics, progress: Progress, hosts: Hosts) -> None:
        self._setup, self._metrics, self._progress = setup, metrics, progress
        self._first = hosts.process == 0
        self._evaluated_at = -1
        self.last_evaluation: dict[str, Any] | None = None

    def record(self, record: dict[str, Any]) -> None:
        self._metrics.write(record)
        if self._first:
            self._progress.update(record)
            if record["skipped"]:
                LOG.warning(
                    "step %d: loss %s, gradient norm %s; the update was skipped",
                    record["step"],
                    record["loss"],
                    record["grad_norm"],
                )

    def evaluated(self, step: int) -> bool:
        e = self._setup.experiment.evaluation
        return step == self._evaluated_at or not (e.every_steps or e.sample_every_steps)

    def due(self, step: int) -> bool:
        e = self._setup.experiment.evaluation
        return any(n and step % n == 0 for n in (e.every_steps, e.sample_every_steps))

    def evaluate(self, step: int, state: State) -> None:
        """Held-out loss and samples; at the end both, in between each at its own frequency."""
        s, e = self._setup, self._setup.experiment.evaluation
        last = step == s.experiment.steps
        self._evaluated_at = step
        if e.every_steps and (last or step % e.every_steps == 0):
            from evaluation.perplexity import evaluate_heldout

            figures = evaluate_heldout(
                s.model,
                s.objective,
                state["params"],
                s.store,
                length=s.experiment.length,
                rows=e.rows,
                batch=s.experiment.batch,
                mesh=s.mesh,
                layout=s.layout,
                compute=s.experiment.precision.compute,
            )
            self.last_evaluation = figures
            self._metrics.write({"kind": "evaluation", "step": step, **figures})
            self._say(
                f"step {step}: held-out loss {figures['loss']:.4f}, "
                f"{figures['bits_per_byte']:.4f} bits per byte"
            )
        if e.sample_every_steps and (last or step % e.sample_every_steps == 0):
            self._sample(step, state)

    def _sample(self, step: int, state: State) -> None:
        from evaluation.generate import generate

        s, e = self._setup, self._setup.experiment.evaluation
        texts = generate(
            s.model,
            state["params"],
            s.tokenizer,
            list(e.sample_prompts),
            max_tokens=e.sample_tokens,
            temperature=0.8,
            top_k=0,
            top_p=0.95,
            seed=step,
        )
        for prompt, text in zip(e.sample_prompts, texts, strict=True):
            self._metrics.write({"kind": "sample", "step": step, "prompt": prompt, "text": text})

    def _say(self, message: str) -> None:
        LOG.info(message)


def _write_records(folder: Path, setup: Setup, hosts: Hosts) -> None:
    from data.tokenizer import save_tokenizer

    write_json(folder / "experiment.json", to_json(setup.experiment))
    write_json(folder / "environment.json", environment(jax.devices(), hosts.count))
    write_json(folder / "parameters.json", parameter_table(setup))
    if not (folder / "tokenizer").exists():
        save_tokenizer(setup.tokenizer, folder / "tokenizer")
    _write_corpus(folder, setup)


def _write_corpus(folder: Path, setup: Setup) -> None:
    """What the run reads, for the report; figures already there (baselines) are kept."""
    path, store = folder / "corpus.json", setup.store
    known = json.loads(path.read_text()) if path.exists() else {}
    padding = setup.order.padding()
    facts = {
        "store": store.fingerprint,
        "components": store.totals(),
        "duplicates": store.duplicates(),
        "rejects": store.rejects(),
        "padding": padding if math.isfinite(padding) else None,
        "tokenizer": {
            "kind": setup.tokenizer.kind,
            "vocab_size": setup.tokenizer.vocab_size,
            "fingerprint": setup.tokenizer.fingerprint,
        },
    }
    write_json(path, known | facts)


@contextlib.contextmanager
def _logging_to(folder: Path, hosts: Hosts) -> Iterator[None]:
    """Messages of this process go to log.txt (log.K.txt for process K > 0), and to stderr of
    process 0."""
    from rich.logging import RichHandler

    folder.mkdir(parents=True, exist_ok=True)
    name = "log.txt" if hosts.process == 0 else f"log.{hosts.process}.txt"
    to_file = logging.FileHandler(folder / name)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers: list[logging.Handler] = [to_file]
    if hosts.process == 0:
        handlers.append(RichHandler(show_path=False, show_level=False, markup=False))
    LOG.setLevel(logging.INFO)
    LOG.propagate = False  # other libraries configure the root logger
    for handler in handlers:
        LOG.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
