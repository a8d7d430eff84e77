"""Rank classification: the option that the model finds likeliest after a prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.generation.continuations import Asked, likelihoods
from gesso.evaluation.generation.prompts import framing_of
from gesso.models.model import Model

Rule = Literal["raw", "token", "byte", "pmi"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, the options that may follow it, spelled with the space between them, and which of
    them are right (any of several counts)."""

    prompt: str
    options: tuple[str, ...]
    right: tuple[int, ...]


class Scores(NamedTuple):
    """Of each option [options]: its log-probability in nats; how many tokens and UTF-8 bytes it
    has; its log-probability without the question (None where not asked for). cut: how many tokens
    of the prompt's beginning did not fit the model's positions."""

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    alone: np.ndarray | None
    cut: int


def score_choices(
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    premise: str | None = None,
    objective: Any = None,
    rows: int = 32,
    compute: str = "float32",
    told: Callable[[int], Any] = int,
) -> list[Scores]:
    """The scores of every question's options, the prompt being read once for all of them.

    premise: what an option follows where the question is left out ("Answer:"), for the rule "pmi".
    objective: the run's, of an encoder-decoder, which says how it reads a prompt; its options end
    with the end id, which is scored with them. rows: options scored at once. told: called with the
    number of options just scored.

    Prompt and option are tokenised together, as the text they are: where a token spans the border,
    it belongs to the option. Spaces at the prompt's end move to the options for that reason and are
    scored with them, as in lm-evaluation-harness, but are none of their bytes. A prompt that does
    not fit loses its beginning. An empty prompt is the end-of-document id.
    Raises ValueError for a question without options, or right ones that it has not, an empty
    option, and options longer than the model's positions.
    """
    for number, each in enumerate(questions):
        _check(number, each)
    read = _Reader(model, tokenizer, objective)
    asked, cuts, counts = [], [], []
    for each in questions:
        ids, cut = read.request(each.prompt, each.options)
        asked.append(ids)
        cuts.append(cut)
        skips = ids.skipped or [0] * len(ids.options)
        counts.append([len(o) - skip for o, skip in zip(ids.options, skips, strict=True)])
    settings: dict[str, Any] = {"rows": rows, "compute": compute}
    found = likelihoods(model, params, asked, **settings, told=told)
    alone: dict[str, float] = {}
    if premise is not None:
        texts = tuple(dict.fromkeys(option for each in questions for option in each.options))
        if texts:
            (base,) = likelihoods(model, params, [read.request(premise, texts)[0]], **settings)
            alone = {text: each.nats for text, each in zip(texts, base, strict=True)}
    return [
        Scores(
            nats=np.array([option.nats for option in each]),
            tokens=np.array(tokens),
            bytes=np.array([len(option.encode()) for option in question.options]),
            alone=None if premise is None else np.array([alone[o] for o in question.options]),
            cut=cut,
        )
        for question, each, tokens, cut in zip(questions, found, counts, cuts, strict=True)
    ]


def option_scores(scores: Scores, rule: Rule) -> np.ndarray:
    """What the options are compared by, f64[options]. raw: nats; token, byte: nats per token or
    UTF-8 byte of the option; pmi: nats less those without the question (Brown et al. 2020, §2.4).
    ValueError for "pmi" of scores made without a premise, and for a rule that there is not."""
    if rule == "raw":
        return scores.nats
    if rule == "token":
        return scores.nats / scores.tokens
    if rule == "byte":
        return scores.nats / scores.bytes
    if rule != "pmi":
        raise ValueError(f"there is no rule {rule!r}; the rules are raw, token, byte, pmi")
    if scores.alone is None:
        raise ValueError('the rule "pmi" needs score_choices(..., premise="Answer:")')
    return scores.nats - scores.alone


def choice_sums(
    questions: Sequence[Question], scores: Sequence[Scores], rule: Rule
) -> dict[str, np.ndarray]:
    """Per question {"right", "count", "tied", "confidence", "cut": f64[n]}, which add.

    right: whether the best option is a right one; of options that tie, each counts its share, so
    that a model that always ties scores chance and not the place of the answer. confidence: the
    share of the chosen option in the softmax of what is compared, for evaluation.calibration.
    """
    rows = []
    for question, each in zip(questions, scores, strict=True):
        by = option_scores(each, rule)
        best = np.flatnonzero(by == by.max())
        share = 1 / np.exp(by - by.max()).sum()
        right = np.isin(best, question.right).mean()
        rows.append((right, 1.0, float(len(best) > 1), share, float(each.cut)))
    names = ("right", "count", "tied", "confidence", "cut")
    columns = np.array(rows, np.float64).reshape(-1, len(names)).T
    return dict(zip(names, columns, strict=True))


class _Reader:
    """Texts as the ids a model reads."""

    def __init__(self, model: Model, tokenizer: Tokenizer, objective: Any) -> None:
        self._tokenizer, self._longest = tokenizer, model.config.longest
        self._framing = framing_of(objective, model.config) if model.has_encoder else None

    def request(self, prompt: str, options: Sequence[str]) -> tuple[Asked, int]:
        """(what is asked, how many ids of the prompt did not fit)."""
        if self._framing is not None and self._framing.prompt != "written":
            return self._of_source(prompt, options)
        eos = int(self._tokenizer.eos)
        body = prompt.rstrip(" ")
        options = [prompt[len(body) :] + option for option in options]
        given = self._ids(body)
        wholes = [self._ids(body + option) for option in options]
        borders = [_common_prefix(given, whole) for whole in wholes]
        shared = min(borders)
        before, source = given[:shared] or [eos], []
        if self._framing is not None:
            before, source = [self._framing.start, *given[:shared]], self._mode() or [eos]
        rest = [whole[shared:] for whole in wholes]
        room = self._room(rest)
        cut = 0 if room is None else max(0, len(before) - room)
        skipped = [border - shared for border in borders]
        return Asked(before[cut:], rest, source, skipped), cut

    def _of_source(self, prompt: str, options: Sequence[str]) -> tuple[Asked, int]:
        framing, eos = self._framing, int(self._tokenizer.eos)
        assert framing is not None
        mode, ids = self._mode(), framing.sentinels.encode(prompt, self._tokenizer)
        end = [eos] if framing.prompt == "source_and_end" else []
        rest = [[*framing.sentinels.encode(option, self._tokenizer), eos] for option in options]
        self._room(rest)
        room = None if self._longest is None else self._longest - len(mode) - len(end)
        cut = 0 if room is None else max(0, len(ids) - room)
        return Asked([framing.start], rest, [*mode, *ids[cut:], *end] or [eos]), cut

    def _mode(self) -> list[int]:
        assert self._framing is not None
        return [self._framing.mode] if self._framing.mode >= 0 else []

    def _ids(self, text: str) -> list[int]:
        return [int(each) for each in self._tokenizer.encode(text)]

    def _room(self, options: Sequence[Sequence[int]]) -> int | None:
        if self._longest is None:
            return None
        if (most := max(map(len, options))) > self._longest:
            raise ValueError(
                f"an option has {most} tokens and the model {self._longest} positions; shorten it"
            )
        return self._longest + 1 - most


def _check(number: int, question: Question) -> None:
    if not question.options or not all(question.options):
        raise ValueError(f"question {number} has no options, or an empty one")
    known = range(len(question.options))
    if not question.right or any(each not in known for each in question.right):
        raise ValueError(
            f"question {number} calls options {question.right} right; it has 0 to {known[-1]}"
        )


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
