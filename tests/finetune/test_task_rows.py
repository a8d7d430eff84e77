"""Rows of a task store: cut as published, every item once, never overfull, resumed exactly."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_stores import model_of, objective_of, order_of, store_of, write_lines

from gesso.data.config import FrameConfig, OrderConfig
from gesso.data.labelled.items import _cut, _windows, items_of
from gesso.data.labelled.order import TaskHeldout, TaskOrder
from gesso.data.order.resume import StateDiffers
from gesso.finetune.labelled.build import build_task
from gesso.finetune.labelled.config import TaskConfig

FRAME = FrameConfig(first=(257,), between=(258,), last=(259,))
LENGTHS = st.integers(0, 40)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return {kind: store_of(folder, kind) for kind in ("classify", "regress", "tag", "qa")}


@given(first=LENGTHS, second=LENGTHS, room=st.integers(2, 60))
def test_the_longer_text_loses_a_token_at_a_time(first, second, room):
    # _truncate_seq_pair of run_classifier.py, google-research/bert.
    a, b = first, second
    while a + b > room:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    runs = _cut(np.array([[first, second]]), room, FRAME)
    assert runs[..., 1].sum(2).tolist() == [[a, b]] and not runs[..., 0, 0].any()


@given(length=LENGTHS, room=st.integers(4, 30), share=st.floats(0.1, 0.9))
def test_what_a_cut_keeps(length, room, share):
    for cut in ("end", "start", "middle"):
        frame = dataclasses.replace(FRAME, cut=cut, head_share=share)
        runs = _cut(np.array([[length]]), room, frame)[0, 0].tolist()
        kept = [token for start, size in runs for token in range(start, start + size)]
        assert len(kept) == min(length, room) and kept == sorted(set(kept))
        if length > room:
            head = {"end": room, "start": 0, "middle": round(room * share)}[cut]
            assert kept[:head] == [*range(head)]
            assert kept[head:] == [*range(length - room + head, length)]


@given(
    question=LENGTHS, context=st.integers(0, 90), stride=st.integers(1, 20), most=st.integers(1, 8)
)
def test_windows_are_those_of_run_squad(question, context, stride, most):
    room = 20
    asked = min(question, most)
    want, start = [], 0
    while True:
        size = min(context - start, room - asked)
        want.append((start, size))
        if start + size == context:
            break
        start += min(size, stride)
    example, runs = _windows(np.array([[question, context]]), room, stride=stride, question=most)
    assert runs[:, 1, 0].tolist() == [list(each) for each in want]
    assert (runs[:, 0, 0] == [0, asked]).all() and not example.any()


@pytest.mark.parametrize("kind", ["classify", "regress", "tag", "qa"])
@pytest.mark.parametrize("per_row", [1, 3])
def test_every_item_once_an_epoch_and_framed(stores, kind, per_row):
    store = stores[kind]
    settings = {"stride": 4, "question": 4} if kind == "qa" else {}
    model = model_of(kind)
    objective = objective_of(kind, store, model, per_row=per_row, **settings)
    length = 30
    order = order_of(store, objective, length=length)
    items = items_of(store, "train", objective.framing, length=length)
    seen, row = [], 0
    # A pass has 64 draws at least, of which the last one may be read in part.
    while len(seen) < 10 * len(items):
        made = order.rows(row, 16)
        row += 16
        for r in range(16):
            held = made["item"][r][made["item"][r] >= 0]
            assert 1 <= len(held) <= per_row
            assert made["segments"][r].max() == len(held)
            for k, item in enumerate(held.tolist()):
                seen.append(item)
                begin, end = made["begins"][r, k], made["ends"][r, k]
                tokens = made["tokens"][r, begin : end + 1]
                assert tokens[0] == 257 and tokens[-1] == 259 and len(tokens) == items.size[item]
                assert (made["positions"][r, begin : end + 1] == np.arange(len(tokens))).all()
                example = items.example[item]
                if "labels" in made:
                    assert made["labels"][r, k] == store.leaves["labels"][example]
                kept = [
                    store.read(int(store.starts[example, t]) + start, size)
                    for t in range(store.texts)
                    for start, size in items.runs[item, t].tolist()
                ]
                text = np.concatenate(kept)
                assert (
                    tokens[np.isin(tokens, (257, 258, 259), invert=True)].tolist() == text.tolist()
                )
    counts = np.bincount(seen, minlength=len(items))
    assert counts.min() >= 7 and counts.max() <= 13
    if kind == "tag":
        assert order.cut["tokens"] == 0


def test_no_word_is_without_its_tag(stores):
    store = stores["tag"]
    objective = objective_of("tag", store, model_of("tag"))
    held = TaskHeldout(store, length=14, frame=objective.framing)
    made = held.rows(0, len(held))
    assert len(held) > store.count["holdout"]  # some sentences are several windows
    start = int(store.starts[store.count["train"], 0])
    tags = store.leaves["tags"][start:]
    assert made["tags"][made["tags"] >= 0].tolist() == tags[tags >= 0].tolist()


def test_answers_in_windows(stores):
    store = stores["qa"]
    objective = objective_of("qa", store, model_of("qa"), stride=6, question=6)
    held = TaskHeldout(store, length=30, frame=objective.framing)
    made = held.rows(0, len(held))
    shown = {}
    for r in range(len(held)):
        item = int(made["item"][r, 0])
        example = int(held.items.example[item])
        first, last = store.leaves["answers"][example].tolist()
        begin, end = made["spans"][r, 0].tolist()
        if begin == made["begins"][r, 0]:
            shown.setdefault(example, False)
        else:
            at = int(store.starts[example, 1])
            want = store.read(at + first, last - first + 1)
            assert made["tokens"][r, begin : end + 1].tolist() == want.tolist()
            assert (made["context"][r, begin : end + 1] > 0).all()
            shown[example] = True
    answered = {e for e in store.examples("holdout").tolist() if store.leaves["answers"][e, 0] >= 0}
    assert {example for example, found in shown.items() if found} == answered
    # Every token of a context is shown best by exactly one window.
    best = (made["context"] == 2).sum()
    assert best == store.lengths[store.examples("holdout"), 1].sum()


def test_a_long_text_in_chunks(tmp_path):
    path = write_lines(
        tmp_path / "t.jsonl",
        [{"text": "ab" * k, "label": k % 2} for k in (3, 10, 40, 60)],
    )
    store = build_task(TaskConfig(task="classify", files=(path,), holdout=0), tmp_path / "s")
    model = model_of("classify", labels=2)
    objective = objective_of("classify", store, model, chunks=4, cut="middle")
    order = order_of(store, objective, length=20)
    made = order.rows(0, 32)
    for r in range(32):
        item = int(made["item"][r, 0])
        used = made["begins"][r] >= 0
        text = "ab" * (3, 10, 40, 60)[item]
        assert used.sum() == min(4, -(-len(text) // 18))
        tokens = made["tokens"][r]
        kept = bytes(tokens[(made["segments"][r] > 0) & (tokens < 256)].tolist()).decode()
        whole = text if len(text) <= 72 else text[:18] + text[len(text) - 54 :]
        assert kept == whole
        assert (tokens[made["begins"][r][used]] == 257).all()
        assert (made["begins"][r][used] == 20 * np.arange(used.sum())).all()
    assert order.cut == {"examples": 4, "windows": 4, "cut": 2, "tokens": 8 + 48}
    with pytest.raises(ValueError, match=r"objective.chunks reads one example per row"):
        objective_of("classify", store, model, chunks=2, per_row=2)


def test_a_saved_state_is_proved(stores):
    store = stores["classify"]
    objective = objective_of("classify", store, model_of("classify"), per_row=2)
    order = order_of(store, objective, length=40)
    state = order.state(7)
    assert order_of(store, objective, length=40).resume(state) == 7
    other = objective_of("classify", store, model_of("classify"), per_row=3)
    with pytest.raises(StateDiffers, match="frame"):
        order_of(store, other, length=40).resume(state)
    whole, parts = order.rows(0, 12), [order.rows(k, 3) for k in range(0, 12, 3)]
    for name, leaf in whole.items():
        assert (leaf == np.concatenate([part[name] for part in parts])).all()


def test_what_does_not_fit_is_refused(stores):
    store = stores["qa"]
    with pytest.raises(ValueError, match="needs 72 or more; raise --length"):
        items_of(store, "train", FRAME, length=64)
    with pytest.raises(ValueError, match="train on it with objective qa"):
        TaskOrder(store, OrderConfig(length=64))
    with pytest.raises(ValueError, match=r"chunks .* set it to 1"):
        items_of(store, "train", dataclasses.replace(FRAME, chunks=2), length=400)
    with pytest.raises(ValueError, match="holds a task of kind qa"):
        objective_of("classify", store, model_of("classify"))
    with pytest.raises(ValueError, match=r"--model.labels 3"):
        objective_of("classify", stores["classify"], model_of("classify", labels=2))
    with pytest.raises(ValueError, match=r"--model.outputs tag"):
        objective_of("tag", stores["tag"], model_of("classify"))
    with pytest.raises(ValueError, match=r"objective.lm predicts the next token"):
        objective_of("classify", stores["classify"], model_of("classify"), lm=0.5)
