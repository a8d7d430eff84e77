"""The settings of several objectives in one run."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from gesso.objectives.denoise_config import DenoiseConfig
from gesso.objectives.seq2seq_config import Seq2SeqLMConfig


@dataclass(frozen=True, kw_only=True)
class MixedPart:
    """One of several objectives.

    share: of the rows, in proportion to the other parts' shares. coefficient: what the part's loss,
    a mean over its own targets in the batch, counts for in the whole. (Coefficients equal to the
    shares make it, on average, a mean over rows.)
    """

    objective: DenoiseConfig | Seq2SeqLMConfig = DenoiseConfig()
    share: float = 1.0
    coefficient: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MixedConfig:
    """Several objectives on one corpus, for a model they share. Each row belongs to one of them.

    parts: by the name that their metrics bear. The first leads the reports.
    seed: another assignment of rows to parts.
    chunk_tokens: as CausalLMConfig.chunk_tokens, for all parts; theirs have no effect.
    """

    kind: Literal["mixed"] = "mixed"
    parts: dict[str, MixedPart] = field(default_factory=dict)
    seed: int = 0
    chunk_tokens: int = 0

    def problems(self) -> list[str]:
        """What is wrong with these fields; empty when nothing is."""
        problems = []
        if not self.parts:
            problems.append("objective.parts is empty: name at least one objective")
        for name, part in self.parts.items():
            at = f"objective.parts.{name}"
            if not re.fullmatch(r"[a-z][a-z0-9]*", name):
                problems.append(f"{at}: a part is named by small letters and digits, r or spans2")
            if not (part.share > 0 and math.isfinite(part.share)):
                problems.append(f"{at}.share must be positive, not {part.share}")
            if not (part.coefficient >= 0 and math.isfinite(part.coefficient)):
                problems.append(f"{at}.coefficient cannot be negative, not {part.coefficient}")
            if part.objective.chunk_tokens:
                problems.append(f"{at}.objective.chunk_tokens has no effect; set that of the mix")
            problems += [
                each.replace("objective.", f"{at}.objective.") for each in part.objective.problems()
            ]
        if self.parts and not any(part.coefficient for part in self.parts.values()):
            problems.append("objective.parts: some coefficient must be above 0")
        for name, value in (("seed", self.seed), ("chunk_tokens", self.chunk_tokens)):
            if value < 0:
                problems.append(f"objective.{name} cannot be negative, not {value}")
        return problems
