"""From files to a store: the same twice, everything accounted for, targets known to the token."""

import dataclasses
import json
import re

import numpy as np
import pytest
from instruction_stores import config_of, entailments, questions, write_lines

from gesso.data.instructions.store import InstructionStore
from gesso.data.open import open_store
from gesso.data.store.errors import StoreDamaged
from gesso.data.tokenizers.load import load_tokenizer
from gesso.finetune.instructions.build import build_instructions
from gesso.finetune.instructions.chat import PLAIN_END
from gesso.finetune.instructions.config import (
    ChatConfig,
    FormsConfig,
    InstructionsConfig,
    SourceConfig,
)
from gesso.finetune.instructions.pieces import encode
from gesso.finetune.instructions.render import Rendered


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    config = config_of(folder)
    return config, build_instructions(config, folder / "store")


def piece(store, number):
    first = int(store.ends[number] - store.lengths[number])
    return store.read(np.array([first]), store.lengths[[number]])


def test_every_piece_is_a_prompt_and_a_target_that_ends(made):
    _, store = made
    tokenizer = store.tokenizer()
    assert len(store.ends) == 125 * 3
    for number in range(len(store.ends)):
        ids, predicted = piece(store, number)
        head = int(store.heads[number])
        assert predicted.tolist() == [0] * head + [1] * (len(ids) - head)
        assert ids[-1] == tokenizer.eos and (ids == tokenizer.eos).sum() == 1
        assert 0 < head < len(ids) - 1


def test_everything_is_accounted_for(made):
    _, store = made
    tasks, totals = store.tasks, store.totals()
    assert tasks.names == ("nli_a", "nli_b", "sums")
    assert tasks.components == ("nli", "nli", "arithmetic")
    assert (tasks.train + tasks.holdout).tolist() == [60, 40, 25]
    assert (tasks.holdout > 0).any()
    assert totals["nli"]["train"]["documents"] == int(tasks.train[:2].sum())
    assert store.record["counts"]["records"] == store.record["counts"]["examples"] == 125
    of_first = np.arange(0, 375, 3)
    assert sum(s["tokens"] for c in totals.values() for s in c.values()) == int(
        store.lengths[of_first].sum()
    )
    assert store.verify() == []


def test_built_again_it_is_there(made, tmp_path):
    config, store = made
    said = []
    again = build_instructions(config, store.folder, say=said.append)
    assert (again.fingerprint, said) == (store.fingerprint, [])
    other = build_instructions(config, tmp_path / "elsewhere")
    for name in ("tokens.bin", "targets.bin", "ends.bin", "heads.bin"):
        assert (other.folder / name).read_bytes() == (store.folder / name).read_bytes()
    with pytest.raises(ValueError, match="other examples, templates or settings"):
        build_instructions(dataclasses.replace(config, seed=1), store.folder)


def test_the_fingerprint_knows_contents_not_places(made, tmp_path):
    config, store = made
    moved = config_of(tmp_path)
    assert build_instructions(moved, tmp_path / "store").fingerprint == store.fingerprint
    write_lines(tmp_path / "sums.jsonl", questions(26))
    assert build_instructions(moved, tmp_path / "new").fingerprint != store.fingerprint
    (tmp_path / "mine.toml").write_text(
        'cluster = "nli"\n[entailment]\nfields = {premise="text", hypothesis="text", label="label"}'
        '\nlabels = ["entailment", "neutral", "contradiction"]\n[[entailment.templates]]\n'
        'name = "a"\nprompt = "{premise} {hypothesis}"\ntarget = "{answer}"\n'
    )
    mine = dataclasses.replace(config, templates=(str(tmp_path / "mine.toml"),))
    assert build_instructions(mine, tmp_path / "mine").fingerprint != store.fingerprint


def test_refused_records_are_kept_with_their_place(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [*entailments(20), {"premise": "p"}, "x"])
    config = InstructionsConfig(
        sources=(SourceConfig(path=path, family="entailment"),), reject_cap=0.1
    )
    store = build_instructions(config, tmp_path / "store")
    assert store.rejects() == {"missing_field": 1, "not_an_object": 1}
    lines = (store.folder / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["place"] for line in lines] == [f"{path}:21", f"{path}:22"]


def test_twins_stay_on_one_side(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", entailments(50) * 2)
    config = InstructionsConfig(
        sources=(SourceConfig(path=path, family="entailment"),), holdout=0.3, renderings=1,
        forms=FormsConfig(inverted=0.0),
    )  # fmt: skip
    store = build_instructions(config, tmp_path / "store")
    assert store.duplicates() == 0.5
    tokenizer, texts = store.tokenizer(), []
    for number in range(100):
        texts += re.findall(r"claim \d+", tokenizer.decode(piece(store, number)[0]))
    train = int(store.tasks.train[0])
    assert train % 2 == 0 and 0 < train < 100
    assert not set(texts[:train]) & set(texts[train:])


def test_few_shot_prompts_are_kept_within_max_tokens(tmp_path):
    forms = FormsConfig(zero_shot=0.0, few_shot=1.0, shots=(5, 5))
    config = config_of(tmp_path, forms=forms, max_tokens=300)
    store = build_instructions(config, tmp_path / "store")
    assert store.record["counts"]["shots_left_out"] > 0
    assert store.record["counts"]["over_max_tokens"] == 0
    assert int(store.lengths.max()) <= 300


def test_a_prompts_tokens_do_not_depend_on_its_target():
    tokenizer = load_tokenizer("bytes")
    one, two = encode(
        [Rendered("Q:", f" {answer}", "zero_shot", "t", 0, 0) for answer in ("a", "b")], tokenizer
    )
    assert one.ids[:2].tolist() == two.ids[:2].tolist() == list(b"Q:")
    bare = encode([Rendered("", "a", "zero_shot", "t", 0, 0)], tokenizer)[0]
    assert bare.ids.tolist() == [256, 97, 256] and bare.predicted.tolist() == [0, 1, 1]


def test_chats_are_pieces_with_several_answers(tmp_path):
    turn = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    share = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    bad = [{"role": "user", "content": f"{PLAIN_END}"}, turn[1]]
    records = [{"messages": turn * 2}, {"conversations": share}, {"messages": bad}, {"x": 1}]
    records.append({"messages": turn[:1]})
    path = write_lines(tmp_path / "a.jsonl", records)
    config = InstructionsConfig(
        sources=(SourceConfig(path=path, format="chat"),), reject_cap=1, renderings=1, holdout=0
    )
    store = build_instructions(config, tmp_path / "store")
    assert store.rejects() == {"bad_chat": 1, "empty_target": 1, "missing_field": 1}
    ids, predicted = piece(store, 0)
    tokenizer = store.tokenizer()
    assert tokenizer.decode(ids[predicted > 0]) == "hoho"
    assert ids[predicted > 0].tolist().count(tokenizer.eos) == 2
    with pytest.raises(ValueError, match="outside the 257 ids"):
        (tmp_path / "chat.jinja").write_text("{{ messages }}")
        chat = ChatConfig(template=str(tmp_path / "chat.jinja"), special={"<s>": 300})
        build_instructions(dataclasses.replace(config, chat=chat), tmp_path / "other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"renderings": 0}, "renderings"),
        ({"holdout": 1.0}, "holdout"),
        ({"forms": FormsConfig(zero_shot=0.0)}, "shares of forms"),
        ({"forms": FormsConfig(shots=(3, 2))}, "fewest, most"),
        ({"chat": ChatConfig(eos="x")}, "chat.template"),
        ({"sources": ()}, "no sources"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, message):
    config = dataclasses.replace(config_of(tmp_path), **settings)
    with pytest.raises(ValueError, match=message):
        build_instructions(config, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_two_sources_of_one_name_are_refused(tmp_path):
    config = config_of(tmp_path)
    twice = dataclasses.replace(config, sources=config.sources[:1] * 2)
    with pytest.raises(ValueError, match="two sources have a task 'nli_a'"):
        build_instructions(twice, tmp_path / "store")
    assert not list(tmp_path.glob(".store*")), "a draft was left behind"


def test_a_store_is_opened_like_any_other_and_notices_damage(made, tmp_path):
    config, store = made
    assert isinstance(open_store(store.folder), InstructionStore)
    damaged = build_instructions(config, tmp_path / "damaged").folder
    content = bytearray((damaged / "tokens.bin").read_bytes())
    content[7] ^= 1
    (damaged / "tokens.bin").write_bytes(content)
    assert "tokens.bin: the content has changed" in InstructionStore(damaged).verify()[0]
    (damaged / "tokens.bin").write_bytes(content[:-1])
    with pytest.raises(StoreDamaged, match="its record says"):
        InstructionStore(damaged)
    with pytest.raises(ValueError, match="did you mean"):
        InstructionStore(tmp_path / "damagd")
