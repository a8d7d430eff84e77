"""The model card of a run: what its records say, for the README.md of an export."""

import dataclasses
import math

from gesso.export.model_card import Card, model_card
from gesso.launch.console import Figures
from gesso.models.count import flops_per_token, parameters
from gesso.pretrain.open import OpenRun
from gesso.reports.facts import RunFacts, last_evaluation, tokens_seen

_FIGURES = ("loss", "perplexity", "bits_per_byte")
_SHAPE = ("vocab", "positions", "layers", "encoder_layers", "decoder_layers", "embed", "heads")


def card_of(run: OpenRun, facts: RunFacts, *, license: str) -> str:
    """README.md of the run's model as of its checkpoint."""
    e, model = run.experiment, run.experiment.model
    tokens = tokens_seen(facts)
    fields = {field.name for field in dataclasses.fields(model)}
    architecture: Figures = {"family": model.family}
    architecture |= {name: getattr(model, name) for name in _SHAPE if name in fields}
    architecture["parameters"] = f"{parameters(model)['total']:,}"
    training: Figures = {
        "experiment": e.name,
        "updates": f"{run.step:,}",
        "rows per update": e.batch,
        "tokens per row": e.length,
        "objective": e.objective.kind,
        "optimizer": f"{e.optimizer.name}, learning rate {e.optimizer.learning_rate:g}",
        "seed": e.seed,
        "tokens read": f"{tokens:,.0f}",
    }
    device = facts.environment.get("devices", {})
    if run.step and device:
        training["device"] = f"{device.get('count')} x {device.get('kind')}"
    evaluation = {name: last_evaluation(facts, name) for name in _FIGURES}
    return model_card(
        Card(
            title=e.name,
            license=license,
            tags=("gesso", model.family),
            architecture=architecture,
            data={name: int(facts.tokens_of(name)) for name in facts.components},
            training=training if run.step else {"experiment": e.name, "updates": "0 (imported)"},
            evaluation={name: x for name, x in evaluation.items() if math.isfinite(x)},
            flops=tokens * flops_per_token(model, e.length),
        )
    )
