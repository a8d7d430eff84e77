"""What the settings of all tasks of labelled examples have in common: how examples become rows."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """How an example is framed and how many share a row.

    [cls] text [end], or [cls] first [sep] second [end].
    cls, sep, end: ids; -1: the tokenizer's own [CLS], [SEP] and [SEP], and what a decoder's
    tokenizer has not is the id that ends documents (GPT-1 had three ids of its own, beyond the
    tokenizer's). separators: how many [sep] stand between two texts; RoBERTa has 2.
    per_row: the most examples of a row, which do not see each other; 1: one example per row.
    cut: what a text that is too long loses: its "end", its "start", or its "middle" (a share
    `head_share` of what is kept is its beginning); a pair's longer text loses first.
    """

    cls: int = -1
    sep: int = -1
    end: int = -1
    separators: Literal[1, 2] = 1
    per_row: int = 1
    cut: Literal["end", "start", "middle"] = "end"
    head_share: float = 0.25

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
