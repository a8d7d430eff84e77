"""Prompts: what may be asked, how an encoder-decoder reads it, and what cannot be continued."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gesso.data.tokenizers.base import Tokenizer
from gesso.models.config import ModelConfig
from gesso.objectives.config import (
    DenoiseConfig,
    MixedConfig,
    ObjectiveConfig,
    Seq2SeqLMConfig,
)

# A text, or the ids that it is to the model.
Prompt = str | Sequence[int]

BUCKET = 64  # prompts are padded to a multiple of this, so that few lengths are compiled


class PromptError(ValueError):
    """A prompt this model cannot continue. The message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Sentinels:
    """Ids that stand for missing spans: `first` and the `count` - 1 below it. In text they are
    spelled as T5 spells them: <extra_id_0>, <extra_id_1>, ..."""

    first: int
    count: int

    def encode(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """The tokenizer's ids, and sentinels where they are spelled out. Raises PromptError for one
        that there is not."""
        ids: list[int] = []
        for i, part in enumerate(re.split(r"<extra_id_(\d+)>", text)):
            if i % 2 == 0:
                ids += map(int, tokenizer.encode(part))
            elif int(part) < self.count:
                ids.append(self.first - int(part))
            else:
                raise PromptError(
                    f"there is no <extra_id_{part}>: this run has {self.count} of them"
                )
        return ids

    def decode(self, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """The text of ids, sentinels spelled out."""
        parts, plain = [], []
        for each in ids:
            number = self.first - each
            if 0 <= number < self.count:
                parts += [tokenizer.decode(plain), f"<extra_id_{number}>"]
                plain = []
            else:
                plain.append(each)
        return "".join([*parts, tokenizer.decode(plain)])


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How an encoder-decoder was taught to read: what a prompt is to it.

    prompt: the whole source, with the end id behind it or without; or what the decoder has written
    so far, the source being the end id or the mode alone. mode: an id before every source; -1:
    none. start: what the decoder reads first.
    """

    start: int
    prompt: Literal["source_and_end", "source", "written"] = "source_and_end"
    mode: int = -1
    sentinels: Sentinels = Sentinels(first=-1, count=0)


def framing_of(objective: ObjectiveConfig | None, model: ModelConfig) -> Framing:
    """The framing of a run, by the configs of its objective (None: source and end) and its model.
    Of several objectives the first counts."""
    if isinstance(objective, MixedConfig):
        return framing_of(next(iter(objective.parts.values())).objective, model)
    start = model.start
    if isinstance(objective, Seq2SeqLMConfig | DenoiseConfig) and objective.start >= 0:
        start = objective.start
    if not isinstance(objective, DenoiseConfig):
        return Framing(start=start)
    if objective.form == "spans":
        first = model.vocab - 1 if objective.first_sentinel < 0 else objective.first_sentinel
        spelled = Sentinels(first=first, count=objective.sentinels)
        return Framing(start=start, mode=objective.mode, sentinels=spelled)
    prompt = "source" if objective.form == "prefix" else "written"
    return Framing(start=start, prompt=prompt, mode=objective.mode)
