"""What a run shows and writes while it trains: train records, held-out figures, samples."""

import logging
from typing import Any

from partitioning.hosts import Hosts
from pretrain.metrics import Metrics
from pretrain.progress import Progress
from pretrain.setup import Setup
from pretrain.state import State

LOG = logging.getLogger("gesso")


class Reporter:
    """Every process calls it; process 0 shows and writes. setup: that of the phase under way."""

    def __init__(self, setup: Setup, metrics: Metrics, progress: Progress, hosts: Hosts) -> None:
        self.setup, self._metrics, self._progress = setup, metrics, progress
        self._first = hosts.process == 0
        self._evaluated_at = -1
        self.last_evaluation: dict[str, Any] | None = None

    def record(self, record: dict[str, Any]) -> None:
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

    def evaluated(self, step: int) -> bool:
        """Whether there is nothing (more) to evaluate after `step` updates."""
        e = self.setup.experiment.evaluation
        return step == self._evaluated_at or not (e.every_steps or e.sample_every_steps)

    def due(self, step: int) -> bool:
        """Whether held-out loss or samples are due after `step` updates."""
        e = self.setup.experiment.evaluation
        return any(n and step % n == 0 for n in (e.every_steps, e.sample_every_steps))

    def evaluate(self, step: int, state: State) -> None:
        """Held-out loss and samples; at the end both, in between each at its own frequency."""
        s, e = self.setup, self.setup.experiment.evaluation
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
            LOG.info(
                "step %d: held-out loss %.4f, %.4f bits per byte",
                step,
                figures["loss"],
                figures["bits_per_byte"],
            )
        if e.sample_every_steps and (last or step % e.sample_every_steps == 0):
            self._sample(step, state)

    def _sample(self, step: int, state: State) -> None:
        from evaluation.generate import generate

        s, e = self.setup, self.setup.experiment.evaluation
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
