"""The settings of labels and numbers for a text or a pair of texts."""

import math
from dataclasses import dataclass
from typing import Literal

from gesso.objectives.labelled_config import LabelledConfig


@dataclass(frozen=True, kw_only=True)
class TextConfig(LabelledConfig):
    """What `classify` and `regress` share.

    lm: coefficient of predicting the texts themselves beside it (GPT-1's auxiliary loss; it used
    0.5), for decoders. chunks: windows a long text is read in, each as long as the model's rows;
    the features of their first tokens are pooled ("mean" or "max") before the head.
    """

    lm: float = 0.0
    chunks: int = 1
    pool: Literal["mean", "max"] = "mean"

    def problems(self) -> list[str]:
        problems = super().problems()
        if not (self.lm >= 0 and math.isfinite(self.lm)):
            problems.append(f"objective.lm cannot be negative, not {self.lm}")
        if self.chunks < 1:
            problems.append(f"objective.chunks must be at least 1, not {self.chunks}")
        if self.chunks > 1 and (self.per_row > 1 or self.lm):
            problems.append(
                "objective.chunks reads one example per row: set objective.per_row 1 and lm 0"
            )
        if self.chunks == 1 and self.pool != "mean":
            problems.append("objective.pool has no effect unless objective.chunks is above 1")
        return problems


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(TextConfig):
    """One label for each text or pair of texts.

    weights: "balanced" counts an example of class y as n / (classes * n_y), n_y being its training
    examples. class_weights: these weights by hand instead, in the order of the store's labels. The
    loss is divided by the weights of the whole global batch.
    focal: gamma of the focal loss, (1 - p)^gamma on each example (https://arxiv.org/abs/1708.02002).
    adjust: tau of logit adjustment (https://arxiv.org/abs/2007.07314): while training the logits
    are compared plus tau * log of their class's share; predictions are of the plain logits.
    """

    kind: Literal["classify"] = "classify"
    weights: Literal["none", "balanced"] = "none"
    class_weights: tuple[float, ...] = ()
    focal: float = 0.0
    adjust: float = 0.0

    def problems(self) -> list[str]:
        problems = super().problems()
        problems += [
            f"objective.{name} cannot be negative, not {getattr(self, name)}"
            for name in ("focal", "adjust")
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name)))
        ]
        if self.class_weights and self.weights != "none":
            problems.append("objective.class_weights are weights by hand: set weights none")
        if any(not (each > 0 and math.isfinite(each)) for each in self.class_weights):
            problems.append(f"objective.class_weights must be positive, not {self.class_weights}")
        return problems


@dataclass(frozen=True, kw_only=True)
class RegressConfig(TextConfig):
    """One number for each text or pair of texts, by its squared error."""

    kind: Literal["regress"] = "regress"
