"""Any number of prompts answered in batches of one shape, those that are too long cut."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.generation.decoder import generate
from gesso.evaluation.generation.prompts import Prompt, framing_of
from gesso.models.model import Model


class Answered(NamedTuple):
    """texts: what was written after each prompt. cut: how many tokens of the prompts' beginnings
    did not fit the model's positions."""

    texts: list[str]
    cut: int


def write_answers(
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int,
    objective: Any = None,
    rows: int = 32,
    told: Callable[[int], Any] = int,
    **settings: Any,
) -> Answered:
    """generate()'s text for each prompt, `rows` at a time, with its settings.

    A prompt that leaves no room for max_tokens loses its beginning. told: called with the number
    of texts just written. Raises what generate raises, and ValueError for a model without room for
    any prompt or one that does not write.
    """
    if not model.writes:
        raise ValueError(f"a {model.config.family} model writes no text")
    framing = framing_of(objective, model.config) if model.has_encoder else None
    most = _room(model.config.longest, max_tokens, framing)

    def encode(prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        if framing is not None:
            return framing.sentinels.encode(prompt, tokenizer)
        return [int(each) for each in tokenizer.encode(prompt)]

    whole = [encode(prompt) for prompt in prompts]
    ids = [each if most is None else each[-most:] for each in whole]
    # Alike lengths together: little padding.
    places = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    texts = [""] * len(ids)
    for start in range(0, len(places), rows):
        part = [*places[start : start + rows]]
        filled = part + part[-1:] * (rows - len(part))  # one number of rows is compiled
        found = generate(
            model,
            params,
            tokenizer,
            [ids[place] for place in filled],
            max_tokens=max_tokens,
            objective=objective,
            **settings,
        )
        for place, text in zip(part, found, strict=False):
            texts[place] = text
        told(len(part))
    return Answered(texts, sum(map(len, whole)) - sum(map(len, ids)))


def _room(longest: int | None, max_tokens: int, framing: Any) -> int | None:
    """How many ids a prompt may have; None: any number."""
    if longest is None:
        return None
    if framing is not None and framing.prompt != "written":
        room = longest - 2  # a mode and an end id stand around an encoder's source
    else:
        # What is written stands after the prompt, and after the id a decoder with an encoder begins
        # with.
        room = longest - max_tokens - (0 if framing is None else 1)
    if room < 1:
        raise ValueError(
            f"{max_tokens} tokens to write leave no room for a prompt in the model's {longest}"
            " positions; ask for fewer (--max-tokens; in a task of lm-evaluation-harness,"
            " generation_kwargs: max_gen_toks)"
        )
    return room
