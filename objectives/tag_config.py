"""The settings of a tag for every word."""

from dataclasses import dataclass
from typing import Literal

from gesso.objectives.labelled_config import LabelledConfig


@dataclass(frozen=True, kw_only=True)
class TagConfig(LabelledConfig):
    """A tag for every word of a sentence, said at the word's first token (BERT, section 5.3); its
    other tokens count for nothing. A sentence that is too long is read in windows, so that every
    word has its tag: nothing is cut."""

    kind: Literal["tag"] = "tag"

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.cut != "end":
            problems.append("objective.cut has no effect on tags: long sentences are windows")
        return problems
