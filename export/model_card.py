"""README.md of an exported folder: what the model is, what it has read, what it reaches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Card:
    """The facts of a card; what is empty is left out.

    tags: of the model hub's header. data: {component: tokens} of the training store. training:
    lines of (what, value). evaluation: {figure: value} on held-out documents. flops: of the whole
    training, by the formula of models/count.py.
    """

    title: str
    license: str = ""
    tags: tuple[str, ...] = ()
    architecture: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, int] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0
    usage: str = ""


def model_card(card: Card) -> str:
    """The card as Markdown with the header that model hubs read."""
    header = ["---"]
    header += [f"license: {card.license}"] if card.license else []
    header += ["library_name: transformers"]
    header += ["tags:", *(f"- {tag}" for tag in card.tags)] if card.tags else []
    parts = ["\n".join([*header, "---"]), f"# {card.title}"]
    if not card.license:
        parts.append("No licence was stated when this was exported: ask before using it.")
    parts += _table("Model", card.architecture)
    parts += _table("Training data (tokens)", {k: f"{v:,}" for k, v in card.data.items()})
    training = dict(card.training)
    if card.flops:
        training["FLOPs"] = f"{card.flops:.3g} (6 per weight and token, and attention)"
    parts += _table("Training", training)
    parts += _table("Held-out documents", {k: f"{v:.4g}" for k, v in card.evaluation.items()})
    if card.usage:
        parts.append(f"## Use\n\n```python\n{card.usage}\n```")
    return "\n\n".join([*parts, "Trained and exported with Gesso."]) + "\n"


def _table(title: str, facts: Mapping[str, Any]) -> list[str]:
    if not facts:
        return []
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return [f"## {title}\n\n| | |\n|---|---|\n{rows}"]
