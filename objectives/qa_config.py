"""The settings of answers that are spans of a text."""

from dataclasses import dataclass
from typing import Literal

from gesso.objectives.labelled_config import LabelledConfig


@dataclass(frozen=True, kw_only=True)
class QAConfig(LabelledConfig):
    """Where in a context the answer to a question begins and ends (SQuAD): [cls] question [sep]
    context [end]. A question without an answer, and a window without it, points at [cls].

    A context that is too long is read in windows, each `stride` tokens after the one before, and
    of a question the first `question` tokens. answer: the most tokens of an answer. null: how much
    better an answer must score than no answer, where a store has questions without one (v2). The
    defaults are those of run_squad.py (https://github.com/google-research/bert).
    """

    kind: Literal["qa"] = "qa"
    stride: int = 128
    question: int = 64
    answer: int = 30
    null: float = 0.0

    def problems(self) -> list[str]:
        problems = super().problems()
        problems += [
            f"objective.{name} must be at least 1, not {getattr(self, name)}"
            for name in ("stride", "question", "answer")
            if getattr(self, name) < 1
        ]
        if self.cut != "end":
            problems.append("objective.cut has no effect on contexts: long ones are windows")
        return problems
