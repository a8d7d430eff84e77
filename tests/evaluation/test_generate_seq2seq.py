"""Text from encoder-decoders: what prompts become, rows that do not meet, what is refused."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from gesso.evaluation.generation.beam import LengthPenalty
from gesso.evaluation.generation.decoder import generate
from gesso.evaluation.generation.prompts import Framing, PromptError, Sentinels, framing_of
from gesso.evaluation.generation.seq2seq import continuations
from gesso.models import GPTConfig, Seq2SeqConfig, build
from gesso.objectives import CausalLMConfig, DenoiseConfig, Seq2SeqLMConfig
from gesso.objectives.config import MixedConfig, MixedPart


class Letters:
    """a to z are ids 0 to 25, and 26 ends a text: every id has a spelling of its own."""

    vocab_size, eos = 27, 26

    def encode(self, text):
        return np.array([ord(each) - ord("a") for each in text], np.uint32)

    def decode(self, ids):
        return "".join(chr(ord("a") + each) for each in ids)


TOKENIZER, EOS = Letters(), Letters.eos
SHAPE = {"vocab": 40, "embed": 32, "heads": 2, "mlp": 64}
CONFIG = Seq2SeqConfig(
    **SHAPE,
    head_dim=16,
    position_encoding="learned",
    positions=96,
    head="untied",
    init_factor=2.0,
    start=7,
)
SPANS = DenoiseConfig(sentinels=10)


@functools.cache
def made(config=CONFIG):
    model = build(config)
    return model, model.init(jax.random.key(1)), TOKENIZER


def texts(prompts, objective=SPANS, **settings):
    return generate(*made(), prompts, objective=objective, **{"max_tokens": 12} | settings)


def test_each_row_is_written_as_if_alone():
    prompts = ["abc", "amuchlongersourcethantheotheronehas", ""]
    together = texts(prompts)
    assert together == [texts([prompt])[0] for prompt in prompts]
    assert len(set(together)) == 3
    sampling = {"temperature": 1.0, "top_k": 20, "top_p": 0.9}
    drawn = texts(prompts, **sampling, seed=3)
    assert drawn == texts(prompts, **sampling, seed=3) != texts(prompts, **sampling, seed=4)
    assert drawn[0] == texts(prompts[:1], **sampling, seed=3)[0]


@pytest.mark.parametrize(
    ("objective", "source", "begun"),
    [
        (None, [0, 1, EOS], [7]),
        (Seq2SeqLMConfig(start=9), [0, 1, EOS], [9]),
        (SPANS, [0, 1, EOS], [7]),
        (DenoiseConfig(form="prefix", mode=29), [29, 0, 1], [7]),
        (DenoiseConfig(form="causal"), [EOS], [7, 0, 1]),
        (DenoiseConfig(form="causal", mode=29, start=5), [29], [5, 0, 1]),
        (MixedConfig(parts={"p": MixedPart(objective=DenoiseConfig(form="prefix"))}), [0, 1], [7]),
    ],
)
def test_a_prompt_is_what_the_objective_taught(objective, source, begun):
    model, params, _ = made()
    read, length = len(source), 64 if len(begun) > 1 else 1
    batch = {name: np.zeros((1, 64), np.int32) for name in ("source", "source_segments")}
    batch |= {name: np.zeros((1, length), np.int32) for name in ("tokens", "segments", "positions")}
    batch["source"][0, :read], batch["source_segments"][0, :read] = source, 1
    place = slice(length - len(begun), None)
    batch["tokens"][0, place], batch["segments"][0, place] = begun, 1
    batch["positions"][0, place] = np.arange(len(begun))
    allowed = np.arange(40) < 27
    allowed[30:] = objective == SPANS
    ids = continuations(model, params, batch, max_tokens=12, eos=EOS, allowed=allowed)[0].tolist()
    ids = ids[: ids.index(EOS)] if EOS in ids else ids
    spelled = framing_of(objective, CONFIG).sentinels
    assert texts(["ab"], objective) == [spelled.decode(ids, TOKENIZER)]


def test_sentinels_are_spelled_out():
    spelled = Sentinels(first=39, count=10)
    ids = spelled.encode("a<extra_id_0>b<extra_id_9>", TOKENIZER)
    assert ids == [0, 39, 1, 30]
    assert spelled.decode(ids, TOKENIZER) == "a<extra_id_0>b<extra_id_9>"
    with pytest.raises(PromptError, match="no <extra_id_10>: this run has 10"):
        spelled.encode("<extra_id_10>", TOKENIZER)
    assert framing_of(SPANS, CONFIG) == Framing(start=7, sentinels=spelled)
    assert framing_of(CausalLMConfig(), CONFIG) == Framing(start=7)


def test_only_what_can_be_spelled_is_written():
    """Ids between the tokenizer's and the sentinels' are nobody's, however likely."""
    config = dataclasses.replace(CONFIG, biases=("head",))
    model, params, _ = made(config)
    params = params | {"head_bias": np.where(np.isin(np.arange(40), [27, 28, 29]), 50.0, 0.0)}
    batch = {"source": np.array([[0]], np.int32), "tokens": np.array([[7]], np.int32)}
    assert np.isin(continuations(model, params, batch, max_tokens=4, eos=EOS), [27, 28, 29]).all()
    wrote = generate(model, params, TOKENIZER, ["ab"], objective=SPANS, max_tokens=4)[0]
    assert re.fullmatch(r"([a-z]|<extra_id_\d>)*", wrote)


def test_beams_search_for_decoders_too():
    """What is found is told to a stream at once."""
    told = []
    found = texts(["abc", "d"], beams=3, stream=lambda row, text: told.append((row, text)))
    assert told == list(enumerate(found)) and len(found) == 2
    gpt = made(GPTConfig(**SHAPE, positions=96, init_std=0.3))
    wrote = generate(*gpt, ["abc", "d"], max_tokens=6, beams=3, penalty=LengthPenalty(alpha=1.0))
    assert len(wrote) == 2 and all(len(each) <= 6 for each in wrote)


def test_what_cannot_be_written_is_refused():
    with pytest.raises(PromptError, match="prompt 1 has 97 tokens with what frames it"):
        texts(["ab", "a" * 96])
    with pytest.raises(ValueError, match="2 beams at temperature 0.5"):
        texts(["a"], beams=2, temperature=0.5)
    with pytest.raises(ValueError, match="0 beams"):
        texts(["a"], beams=0)
    small = build(Seq2SeqConfig(vocab=20))
    with pytest.raises(ValueError, match="the tokenizer has 27 ids and the model 20"):
        generate(small, small.init(jax.random.key(0)), TOKENIZER, ["a"], max_tokens=2)
    assert texts([]) == []


def test_the_limit_of_positions_ends_a_text():
    wrote = texts(["a"], Seq2SeqLMConfig(), max_tokens=1000, temperature=1.0, seed=2)
    assert len(wrote[0]) <= 96
