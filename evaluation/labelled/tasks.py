"""Held-out figures of a run that was trained on labelled examples."""

from typing import Any

from gesso.data.labelled.store import TaskStore
from gesso.data.store.base import Split
from gesso.evaluation.labelled.metrics import task_metrics
from gesso.evaluation.labelled.predictions import Predictions, predict_task
from gesso.objectives.labelled.config import QAConfig


def evaluate_task(
    model: Any,
    objective: Any,
    params: Any,
    store: TaskStore,
    *,
    length: int,
    batch: int,
    split: Split = "holdout",
    rows: int = 0,
    compute: str = "float32",
) -> tuple[dict[str, Any], Predictions]:
    """({"loss", "terms", "components", "task": evaluation.labelled.metrics}, what was predicted).

    The record that an evaluation leaves in a run's metrics, beside what held-out text would have
    (None, where it has no meaning); arguments as evaluation.labelled.predictions.predict_task has
    them.
    loss: the first term's mean; of labels and tags nats of the plain logits, whatever the training
    weighs and adjusts.
    """
    found = predict_task(
        model,
        objective,
        params,
        store,
        length=length,
        batch=batch,
        split=split,
        rows=rows,
        compute=compute,
    )
    null = objective.config.null if isinstance(objective.config, QAConfig) else 0.0
    figures = task_metrics(store, found, null=null)
    terms = {
        name: {"mean": total / count if count else None, "count": round(count)}
        for name, (total, count) in found.terms.items()
    }
    loss = figures.get("loss", next(iter(terms.values()))["mean"])
    texts = dict.fromkeys(_OF_TEXTS)
    made = {"loss": loss, "terms": terms, "task": figures, "rows": found.rows} | texts
    return made | {"components": {store.name: {"loss": loss}}}, found


# What an evaluation says of text that is predicted whole.
_OF_TEXTS = ("perplexity", "bits_per_byte", "word_perplexity", "tokens", "bytes", "words")
