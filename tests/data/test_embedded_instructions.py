"""The instructions that come with Python: whole, the same again, held out where their text is."""

import numpy as np
import pytest

from gesso.data.config import OrderConfig
from gesso.data.embedded.corpus import corpus_shards, ensure_store
from gesso.data.embedded.instructions import _RENDERINGS, _TEMPLATES, make_instructions
from gesso.data.embedded.shards import HOLDOUT, read_shard
from gesso.data.open import open_store, order_of
from gesso.data.text.documents import is_held_out, text_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the token store that instructions are made beside."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "store").symlink_to(ensure_store("embedded:bytes:0.3"))
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return make_instructions(corpus_shards(0.3), folder)


def texts_of(store, task, split):
    """(prompt, target) of every rendering of a task's examples."""
    first, train = store.tasks.first[task], store.tasks.train[task] * store.renderings
    count = store.tasks.holdout[task] * store.renderings
    pieces = first + (np.arange(train) if split == "train" else train + np.arange(count))
    decode = store.tokenizer().decode
    found = []
    for piece in pieces:
        start = store.ends[piece] - store.lengths[piece]
        tokens, predicted = store.read(np.array([start]), store.lengths[[piece]])
        head = store.heads[piece]
        assert predicted.tolist() == [0] * head + [1] * (len(tokens) - head)
        assert tokens[-1] == store.eos
        found.append((decode(tokens[:head]), decode(tokens[head:-1])))
    return found


def test_every_task_is_asked_in_every_way_and_has_held_out_examples(store):
    assert store.verify() == [] and store.components == ("completion", "sources", "words")
    assert store.tasks.names == tuple(task for _, task in _TEMPLATES)
    assert (store.tasks.train > 20).all() and (store.tasks.holdout > 3).all()
    for task, templates in enumerate(_TEMPLATES.values()):
        assert len(templates) == store.renderings == _RENDERINGS
        asked = texts_of(store, task, "train")
        for number, (prompt, target) in enumerate(asked[:30]):
            wanted_prompt, wanted_target = templates[number % _RENDERINGS]
            assert prompt.startswith(wanted_prompt.partition("{")[0])
            assert target.startswith(wanted_target.partition("{")[0]) and target.strip()
    assert store.lengths.max() <= 128  # as debug-flan's rows


def test_answers_are_right(store):
    capitals = texts_of(store, 1, "train")[1::_RENDERINGS]
    assert capitals and all(t.strip().lower() == p.split('"')[1] for p, t in capitals)
    last = texts_of(store, 2, "train")[1::_RENDERINGS]
    assert all(t.strip() == p.partition("\n\nWhat is the last")[0].split()[-1] for p, t in last)


def test_what_is_held_out_comes_of_held_out_documents(store):
    words = {True: [], False: []}
    for path in corpus_shards(0.3):
        for _, text in read_shard(path):
            held = is_held_out(text_hash(text.encode()), HOLDOUT)
            words[held].append(" ".join(text.split()))
    for split, texts in (("train", words[False]), ("holdout", words[True])):
        excerpts = [p.partition("\n\nIs this")[0] for p, _ in texts_of(store, 0, split)[::3]]
        assert all(any(each in text for text in texts) for each in excerpts)


def test_made_again_it_is_the_same(store, folder, tmp_path):
    (tmp_path / "store").symlink_to(folder / "store")
    again = make_instructions(corpus_shards(0.3), tmp_path)
    assert again.fingerprint == store.fingerprint
    assert again.record["files"] == store.record["files"]
    rows = order_of(store, OrderConfig(length=129)).rows(0, 2)
    assert (rows["lm_weight"].sum(1) > 0).all()


def test_it_is_found_by_its_name():
    assert open_store(ensure_store("embedded-instructions:bytes:0.3")).components
