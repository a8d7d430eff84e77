"""Any number of prompts: each answered as generate answers it alone, in its place."""

import jax
import pytest

from gesso.data.tokenizers.load import load_tokenizer
from gesso.evaluation.generation.answering import write_answers
from gesso.evaluation.generation.decoder import generate
from gesso.models import BERTConfig, GPTConfig, build

CONFIG = GPTConfig(
    vocab=264, positions=48, layers=1, embed=32, heads=2, mlp=64, head="untied", init_std=0.3
)
PROMPTS = ["def f(", "a much longer prompt of more words than fit", "", "x", "two"]


@pytest.fixture(scope="module")
def made():
    model = build(CONFIG)
    return model, model.init(jax.random.key(0)), load_tokenizer("bytes")


def test_batches_change_nothing_and_long_prompts_are_cut(made):
    told = []
    found = write_answers(*made, PROMPTS, max_tokens=12, rows=2, told=told.append)
    room = CONFIG.positions - 12
    assert found.texts == generate(*made, [each[-room:] for each in PROMPTS], max_tokens=12)
    assert found.cut == len(PROMPTS[1]) - room and sum(told) == len(PROMPTS)


def test_what_leaves_no_room_is_refused(made):
    with pytest.raises(ValueError, match="no room for a prompt in the model's 48"):
        write_answers(*made, PROMPTS, max_tokens=48)
    bert = build(BERTConfig(vocab=40, positions=8, layers=1, embed=8, heads=2, mlp=16))
    with pytest.raises(ValueError, match="bert model writes no text"):
        write_answers(bert, {}, made[2], PROMPTS, max_tokens=2)
