"""More placeholders than virtual tokens are refused before a device reads them."""

import dataclasses

import numpy as np
import pytest

from gesso import configs
from gesso.data.config import DataConfig
from gesso.data.tokenizers.load import load_tokenizer
from gesso.models.adapters.config import AdapterConfig
from gesso.objectives.kinds import build
from gesso.pretrain.experiment import override
from gesso.pretrain.open import store_of
from gesso.pretrain.placeholders import (
    TooManyPlaceholders,
    count_placeholders,
    refuse_crowded,
    refuse_crowded_texts,
)
from gesso.pretrain.setup import set_up

TUNED = AdapterConfig(kind="p_tuning", tokens=2, placeholder=7)


def rows_of(tokens, segments):
    tokens = np.asarray(tokens, np.int32)
    return {
        "tokens": tokens,
        "segments": np.asarray(segments, np.int32),
        "positions": np.zeros_like(tokens),
        "component": np.zeros(len(tokens), np.int32),
        "row": np.array([40, 41][: len(tokens)]),
    }


def test_each_document_has_its_own_virtual_tokens():
    objective = count_placeholders(build(configs.experiment("debug-gpt-neo").objective), TUNED)
    fitting = rows_of([[7, 7, 1, 7, 7, 3]], [[1, 1, 1, 2, 2, 2]])
    assert objective.host_batch(fitting)["tokens"].shape == (1, 5)
    assert objective.terms and objective.overlap == 1  # all else is the objective's
    crowded = rows_of([[1, 1, 1, 1, 1, 1], [7, 1, 7, 7, 7, 3]], [[1] * 6, [1, 1, 1, 1, 2, 2]])
    with pytest.raises(
        TooManyPlaceholders, match="row 41: a document has 3 times .* are 2 virtual"
    ):
        objective.host_batch(crowded)


def test_without_segments_a_row_is_a_document():
    refuse_crowded(np.array([[7, 7, 1]]), None, TUNED, where=["x"])
    with pytest.raises(TooManyPlaceholders, match="x: a document has 3 times"):
        refuse_crowded(np.array([[7, 7, 7]]), None, TUNED, where=["x"])


def test_texts_that_a_model_is_asked_about():
    tokenizer = load_tokenizer("bytes")
    seven = tokenizer.decode([7])
    for each in ("one " + seven + " two " + seven, [7, 1, 7]):
        refuse_crowded_texts([each], TUNED, tokenizer)
    for each in (seven * 3, (7, 7, 1, 7)):
        with pytest.raises(TooManyPlaceholders, match="a document has 3 times"):
            refuse_crowded_texts(["fine", each], TUNED, tokenizer)
        refuse_crowded_texts([each], AdapterConfig(kind="prompt", tokens=2), tokenizer)


def test_a_placeholder_that_texts_are_full_of_is_refused_before_training():
    e = override(configs.experiment("debug-lora"), {"data.store": "embedded:bytes:0.3"})
    space = 32  # of byte ids
    asked = dataclasses.replace(e, adapter=dataclasses.replace(TUNED, placeholder=space))
    store = store_of(dataclasses.replace(asked, data=DataConfig(store="embedded:bytes:0.3")))
    with pytest.raises(TooManyPlaceholders, match="adapter.tokens as many as its template has"):
        set_up(asked, store=store)
    rare = dataclasses.replace(asked, adapter=dataclasses.replace(TUNED, placeholder=263))
    assert set_up(rare, store=store).objective.terms
