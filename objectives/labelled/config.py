"""The settings of labelled examples: classify, regress, tag and qa."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """How a labelled example is framed, [cls] text [end] or [cls] first [sep] second [end], and how
    many examples share a row."""

    cls: int = -1
    """Id before an example; -1 = the tokenizer's [CLS], or without one the id that ends documents.
    (GPT-1 had three ids of its own, beyond the tokenizer's.)"""
    sep: int = -1
    """Id between two texts; -1 = the tokenizer's [SEP], or without one the id that ends
    documents."""
    end: int = -1
    """Id after an example; -1 = the tokenizer's [SEP], or without one the id that ends
    documents."""
    separators: Literal[1, 2] = 1
    """Number of [sep] between two texts; RoBERTa has 2."""
    per_row: int = 1
    """Most examples of a row, which do not see each other; 1 = one example per row."""
    cut: Literal["end", "start", "middle"] = "end"
    """Part that a text loses when it is too long: "end", "start" or "middle". Of a pair the longer
    text loses first."""
    head_share: float = 0.25
    """Share of what is kept that comes from the text's beginning; of cut "middle" only."""

    @property
    def windows(self) -> tuple[int, int, int]:
        """(windows of a text, tokens from the start of one window of a context to the next, tokens
        of a question at most); a task reads those it has."""
        return 1, 128, 64

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        problems = [
            f"objective.{name} must be an id, or -1, not {getattr(self, name)}"
            for name in ("cls", "sep", "end")
            if getattr(self, name) < -1
        ]
        if self.per_row < 1:
            problems.append(f"objective.per_row must be at least 1, not {self.per_row}")
        if not 0 < self.head_share < 1:
            problems.append(f"objective.head_share must be in (0, 1), not {self.head_share}")
        if self.cut != "middle" and self.head_share != 0.25:
            problems.append("objective.head_share has no effect unless objective.cut is middle")
        return problems


@dataclass(frozen=True, kw_only=True)
class TextConfig(LabelledConfig):
    """The settings that `classify` and `regress` share."""

    lm: float = 0.0
    """Coefficient of predicting the texts themselves beside the label, for decoders (GPT-1's
    auxiliary loss; it used 0.5); 0 = off."""
    chunks: int = 1
    """Windows that a long text is read in, each as long as the model's rows; 1 = the text is cut.
    The features of the windows' first tokens are pooled before the head."""
    pool: Literal["mean", "max"] = "mean"
    """How the features of several windows become one: "mean" or "max"; of chunks above 1 only."""

    @property
    def windows(self) -> tuple[int, int, int]:
        return self.chunks, *super().windows[1:]

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
    """Prediction of one label for each text or pair of texts."""

    kind: Literal["classify"] = "classify"
    """Names the objective in a record; always "classify" here."""
    weights: Literal["none", "balanced"] = "none"
    """Weight of each class in the loss: "none", or "balanced" for n / (classes * n_y) with n_y
    training examples of class y. The loss is divided by the weights of the whole global batch."""
    class_weights: tuple[float, ...] = ()
    """Weights of the classes by hand, in the order of the store's labels; () = those of
    `weights`."""
    focal: float = 0.0
    """Gamma of the focal loss, (1 - p)^gamma on each example (https://arxiv.org/abs/1708.02002); 0
    = off."""
    adjust: float = 0.0
    """Tau of logit adjustment for rare classes (https://arxiv.org/abs/2007.07314); 0 = off. While
    training, tau * log(the class's share) is added to the logits; predictions are of the plain
    logits."""

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
    """Prediction of one number for each text or pair of texts, by its squared error."""

    kind: Literal["regress"] = "regress"
    """Names the objective in a record; always "regress" here."""


@dataclass(frozen=True, kw_only=True)
class TagConfig(LabelledConfig):
    """Prediction of a tag for every word of a sentence, at the word's first token (BERT, section
    5.3); long sentences are read in windows, so that every word has its tag."""

    kind: Literal["tag"] = "tag"
    """Names the objective in a record; always "tag" here."""

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.cut != "end":
            problems.append("objective.cut has no effect on tags: long sentences are windows")
        return problems


@dataclass(frozen=True, kw_only=True)
class QAConfig(LabelledConfig):
    """Prediction of where in a context the answer to a question begins and ends (SQuAD), in rows
    [cls] question [sep] context [end]; without an answer it points at [cls]."""

    kind: Literal["qa"] = "qa"
    """Names the objective in a record; always "qa" here."""
    stride: int = 128
    """Tokens from the start of one window of a long context to the start of the next. The default
    is that of run_squad.py (https://github.com/google-research/bert), as are those of question,
    answer and null."""
    question: int = 64
    """Most tokens of a question; the rest is cut."""
    answer: int = 30
    """Most tokens of an answer."""
    null: float = 0.0
    """Margin by which an answer must score better than no answer, where a store has questions
    without one (SQuAD 2)."""

    @property
    def windows(self) -> tuple[int, int, int]:
        return 1, self.stride, self.question

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
