"""What a run shows and writes while it trains: train records, held-out figures, samples."""

import contextlib
import logging
from collections.abc import Iterator

from gesso.evaluation.config import EvaluationConfig
from gesso.partitioning.hosts.processes import Hosts
from gesso.pretrain.setup import Setup
from gesso.pretrain.state import State
from gesso.records.metrics import Metrics, Record
from gesso.records.progress import Progress

LOG = logging.getLogger("gesso")


@contextlib.contextmanager
def record_failure(metrics: Metrics, step: int) -> Iterator[None]:
    """The exception that ends the run, if one does, is put on record as an event. step: the updates
    that were made when this call of the run began."""
    try:
        yield
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        metrics.write({"kind": "event", "step": step, "event": "failed", "error": text[:2000]})
        raise


class Reporter:
    """Every process calls it; process 0 shows and writes. setup: that of the phase under way."""

    def __init__(self, setup: Setup, metrics: Metrics, progress: Progress, hosts: Hosts) -> None:
        self.setup, self._metrics, self._progress = setup, metrics, progress
        self._first = hosts.process == 0
        self._evaluated_at = -1
        self._unigrams: dict[int, Record] = {}  # of each phase's length
        self.last_evaluation: Record | None = None
        if (asked := setup.experiment.evaluation).harness:
            from gesso.evaluation.harness.harness import known_tasks

            known_tasks(asked.harness, asked.harness_path)  # refused before the first update

    def record(self, record: Record) -> None:
        """Write and show a train record (docs/metrics.md)."""
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

    def is_evaluated(self, step: int) -> bool:
        """Whether there is nothing (more) to evaluate after `step` updates."""
        e = self.setup.experiment.evaluation
        return step == self._evaluated_at or not any(self._frequencies(e))

    def due(self, step: int) -> bool:
        """Whether held-out loss, samples or tasks are due after `step` updates."""
        frequencies = self._frequencies(self.setup.experiment.evaluation)
        return any(n and step % n == 0 for n in frequencies)

    @staticmethod
    def _frequencies(e: EvaluationConfig) -> tuple[int, ...]:
        return e.every_steps, e.sample_every_steps, e.harness_every_steps

    def evaluate(self, step: int, state: State) -> None:
        """Held-out loss, samples, tasks; at the end all, in between each at its own frequency."""
        s, e = self.setup, self.setup.experiment.evaluation
        last = step == s.experiment.steps
        self._evaluated_at = step
        if e.every_steps and (last or step % e.every_steps == 0):
            labelled = s.objective.framing is not None
            figures = (
                self._evaluate_task(step, state) if labelled else self._evaluate_text(step, state)
            )
            self.last_evaluation = figures
            self._metrics.write({"kind": "evaluation", "step": step, **figures})
        if e.sample_every_steps and (last or step % e.sample_every_steps == 0):
            self._sample(step, state)
        if e.harness_every_steps and (last or step % e.harness_every_steps == 0):
            self._evaluate_harness(step, state)

    def _evaluate_text(self, step: int, state: State) -> Record:
        from gesso.evaluation.heldout.perplexity import evaluate_heldout
        from gesso.evaluation.heldout.unigram import beside, format_term

        s, e = self.setup, self.setup.experiment.evaluation
        figures = evaluate_heldout(
            s.model,
            s.objective,
            s.whole(state),
            s.store,
            length=s.experiment.length,
            rows=e.rows,
            batch=s.experiment.batch,
            mesh=s.mesh,
            layout=s.layout,
            compute=s.experiment.precision.compute,
        )
        if self._first:
            figures = beside(figures, self._unigram(step))
            parts = [format_term(name, term) for name, term in figures["terms"].items()]
            if (bits := figures["bits_per_byte"]) is not None:
                parts.append(f"{bits:.4f} bits per byte")
            LOG.info("step %d: held-out %s", step, ", ".join(parts))
        return figures

    def _evaluate_task(self, step: int, state: State) -> Record:
        """Held-out examples of a task; every process takes part."""
        from gesso.data.labelled.store import TaskStore
        from gesso.evaluation.labelled.tasks import evaluate_task

        s, e = self.setup, self.setup.experiment
        assert isinstance(s.store, TaskStore), "objectives of tasks refuse other stores"
        figures, _ = evaluate_task(
            s.model,
            s.objective,
            s.whole(state),
            s.store,
            length=e.length,
            batch=e.batch,
            rows=e.evaluation.rows,
            compute=e.precision.compute,
        )
        if self._first:
            (name, score), *_ = figures["task"]["scores"].items()
            floor = figures["task"]["floor"][name]
            shown = (step, figures["loss"], name, score, floor)
            LOG.info("step %d: held-out loss %.4f, %s %.4f (baseline %.4f)", *shown)
        return figures

    def _evaluate_harness(self, step: int, state: State) -> None:
        """Tasks of lm-evaluation-harness, on the mesh of the run; every process takes part."""
        from gesso.evaluation.harness.harness import evaluate
        from gesso.records.evaluations import write_evaluation

        s, e = self.setup, self.setup.experiment.evaluation
        found = evaluate(
            s.model,
            s.whole(state),
            s.tokenizer,
            e.harness,
            e.harness_path,
            e.harness_limit,
            objective=s.experiment.objective,
            compute=s.experiment.precision.compute,
        )
        asked = {"tasks": found["tasks"], "groups": found["groups"], "limit": found["limit"]}
        self._metrics.write({"kind": "harness", "step": step, **asked})
        if self._first:
            folder, name = self._metrics.folder, " ".join(e.harness)
            write_evaluation(folder, "harness", step=step, of=name, figures=found | {"step": step})
            for task, figures in found["tasks"].items():
                known = {name: value for name, value in figures.items() if "_stderr," not in name}
                scores = ", ".join(f"{n} {v:.4f}" for n, v in known.items() if v is not None)
                LOG.info("step %d: %s %s", step, task, scores.replace(",none", ""))

    def _unigram(self, step: int) -> Record:
        """What a unigram model reaches on the same held-out rows: measured once per row length."""
        from gesso.evaluation.heldout.unigram import TRAINING_ROWS, unigram

        s, e, length = self.setup, self.setup.experiment, self.setup.experiment.length
        if length not in self._unigrams:
            # Of a store that is being built, the rows that there are: those trained on.
            rows = TRAINING_ROWS if s.store.complete else min(TRAINING_ROWS, step * e.batch)
            self._unigrams[length] = unigram(
                s.objective,
                s.order,
                length=length,
                vocab=e.model.vocab,
                rows=e.evaluation.rows,
                training_rows=rows,
            )
        return self._unigrams[length]

    def _sample(self, step: int, state: State) -> None:
        from gesso.evaluation.generation.samples import samples

        s, e = self.setup, self.setup.experiment.evaluation
        made = samples(
            s.model,
            s.objective,
            s.whole(state),
            s.store,
            length=s.experiment.length,
            prompts=e.sample_prompts,
            max_tokens=e.sample_tokens,
            seed=step,
        )
        for prompt, text in made:
            self._metrics.write({"kind": "sample", "step": step, "prompt": prompt, "text": text})
