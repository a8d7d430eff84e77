"""A model of ours as lm-evaluation-harness asks for one; imports lm_eval
(evaluation.harness.harness)."""
# pyright: reportMissingImports=false

import collections
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.generation.answering import write_answers
from gesso.evaluation.generation.continuations import Asked, Likelihood, likelihoods
from gesso.evaluation.generation.prompts import framing_of
from gesso.models.model import Model


class HarnessModel(TemplateLM):
    """Answers in process, on the mesh where `params` are; contexts that requests share are read
    once.

    Where a context ends and what follows begins is decided by lm_eval's own code, so that figures
    equal those of its HuggingFace model: a context's trailing spaces belong to what follows. A
    context that does not fit loses its beginning. Every process of a multi-host run answers all
    requests. objective: the run's, of an encoder-decoder. rows: requests at once.
    """

    def __init__(
        self,
        model: Model,
        params: Any,
        tokenizer: Tokenizer,
        *,
        objective: Any = None,
        rows: int = 32,
        compute: str = "float32",
    ) -> None:
        super().__init__()
        self._model, self._params, self._ours = model, params, tokenizer
        self._objective, self._rows, self._compute = objective, rows, compute
        self._framing = framing_of(objective, model.config) if model.has_encoder else None
        reads_source = self._framing is not None and self._framing.prompt != "written"
        self.backend = "seq2seq" if reads_source else "causal"

    @property
    def eot_token_id(self) -> int:
        return int(self._ours.eos)

    @property
    def max_length(self) -> int | None:
        """The model's positions; None: any length."""
        return self._model.config.longest

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text. Ours add nothing to it, so `add_special_tokens` changes nothing."""
        if self._framing is not None:
            return self._framing.sentinels.encode(string, self._ours)
        return [int(each) for each in self._ours.encode(string)]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        asked = [self._request(text, given, after) for text, given, after in requests]
        found = [(each.nats, each.greedy) for each in self._score(asked)]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Nats of whole texts, every token once, in disjoint windows as long as the model is."""
        asked, owners = [], []
        for owner, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            prefix = self.eot_token_id if self._framing is None else self._framing.start
            length = self.max_length or max(1, len(ids))
            windows = get_rolling_token_windows(ids, prefix, length, context_len=1)
            for given, after in map(make_disjoint_window, windows):
                asked.append(Asked(given, [after], self._source([])))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, each in zip(owners, self._score(asked), strict=True):
            totals[owner] += each.nats
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """What is written after each context, up to a stop that its settings name. Raises
        ValueError for settings this model does not have."""
        alike = collections.defaultdict(list)
        for place, request in enumerate(requests):
            alike[repr(request.args[1])].append(place)
        texts = [""] * len(requests)
        shown = tqdm(total=len(requests), desc="texts written", disable=disable_tqdm)
        for places in alike.values():
            kwargs = normalize_gen_kwargs(requests[places[0]].args[1])
            found = write_answers(
                self._model,
                self._params,
                self._ours,
                [requests[place].args[0] for place in places],
                **_settings(dict(kwargs)),
                objective=self._objective,
                rows=self._rows,
                compute=self._compute,
                told=shown.update,
            )
            for place, text in zip(places, found.texts, strict=True):
                texts[place] = text
                self.cache_hook.add_partial("generate_until", requests[place].args, text)
        shown.close()
        return texts

    def _request(self, text: Any, given: list[int], after: list[int]) -> Asked:
        if not after or (self.max_length is not None and len(after) > self.max_length):
            raise ValueError(
                f"{text[1]!r} is {len(after)} tokens after {text[0][-60:]!r}; at least 1 and at"
                f" most the model's {self.max_length} positions can be scored"
            )
        if self.backend == "seq2seq":
            assert self._framing is not None
            return Asked([self._framing.start], [after], self._source(given))
        if self._framing is not None:
            given = [self._framing.start, *given]
        if self.max_length is not None:
            given = given[-(self.max_length + 1 - len(after)) :]
        return Asked(given, [after], self._source([]))

    def _source(self, ids: Sequence[int]) -> list[int]:
        """What the encoder reads, if there is one: as much of its end as there is room for."""
        if self._framing is None:
            return []
        mode = [self._framing.mode] if self._framing.mode >= 0 else []
        end = [self.eot_token_id] if self._framing.prompt == "source_and_end" else []
        if self.max_length is not None:
            ids = ids[max(0, len(ids) - (self.max_length - len(mode) - len(end))) :]
        return [*mode, *ids, *end] or [self.eot_token_id]

    def _score(self, asked: Sequence[Asked]) -> list[Likelihood]:
        """Of everything asked, each with one option; what is given alike is read once."""
        together: dict[Any, list[int]] = collections.defaultdict(list)
        for place, each in enumerate(asked):
            together[tuple(each.given), tuple(each.source)].append(place)
        shared = [
            Asked(given, [asked[place].options[0] for place in places], source)
            for (given, source), places in together.items()
        ]
        shown = tqdm(total=len(asked), desc="continuations scored")
        told: Callable[[int], Any] = shown.update
        settings: dict[str, Any] = {"rows": self._rows, "compute": self._compute, "told": told}
        found = likelihoods(self._model, self._params, shared, **settings)
        shown.close()
        answers = [Likelihood(0.0, True)] * len(asked)
        for places, each in zip(together.values(), found, strict=True):
            for place, answer in zip(places, each, strict=True):
                answers[place] = answer
        return answers


def _settings(kwargs: dict[str, Any]) -> dict[str, Any]:
    """generate()'s settings of lm_eval's."""
    stops = [each for each in kwargs.pop("until", []) if each]
    settings = {"max_tokens": kwargs.pop("max_gen_toks"), "stops": stops}
    sampled = kwargs.pop("do_sample", False)
    temperature = kwargs.pop("temperature", 1.0)
    if sampled:
        settings["temperature"] = temperature
        settings |= {name: kwargs.pop(name) for name in ("top_k", "top_p") if name in kwargs}
    else:
        for without_effect in ("top_k", "top_p"):
            kwargs.pop(without_effect, None)
    beams = kwargs.pop("num_beams", 1)
    if beams > 1:
        settings["beams"] = beams
    if kwargs:
        raise ValueError(
            f"a task's generation_kwargs set {', '.join(sorted(kwargs))}, which our models do not"
            " have; they have until, max_gen_toks, do_sample, temperature, top_k, top_p, num_beams"
        )
    return settings
