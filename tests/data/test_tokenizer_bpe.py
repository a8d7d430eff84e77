"""Byte-level BPE: the engines agree, files are read as published, others are refused."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from tokenizer_samples import (
    PIECES,
    TEXTS,
    bpe,
    definition,
    training_texts,
    write_parts,
)
from tokenizers import AddedToken
from tokenizers import Tokenizer as Reference

from gesso.data.tokenizers.base import TokenizerError
from gesso.data.tokenizers.bpe import BPETokenizer, train
from gesso.data.tokenizers.cuts import BEFORE_SPACE, BEFORE_WHITE_SPACE, cut, cut_long_runs
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.data.tokenizers.merges import read_definition, tiktoken_ranks


def reference(content: dict) -> Reference:
    made = Reference.from_str(json.dumps(content))
    made.encode_special_tokens = True
    return made


def reference_ids(made: Reference, text: str) -> list[int]:
    return made.encode(text, add_special_tokens=False).ids


def neox(tmp_path, *, change=lambda made: None):
    """A file as GPT-NeoX-20B's: NFC, and runs of spaces as added tokens that are text."""
    made = Reference.from_str(json.dumps(definition()))
    from tokenizers import normalizers

    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    change(made)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return load_tokenizer(path), reference(json.loads(path.read_text()))


def test_the_fast_engine_gives_the_ids_of_tokenizers():
    ours, theirs = bpe(), reference(definition())
    assert ours.engine == "tiktoken"

    @settings(deadline=None, max_examples=500, derandomize=True)
    @given(TEXTS)
    def check(text):
        assert ours.encode(text).tolist() == reference_ids(theirs, text)

    check()


def test_the_engines_split_alike_at_every_kind_of_character():
    # One of 97 of all code points, in every context that GPT-2's expression tells apart.
    ours, theirs = bpe(), reference(definition())
    characters = [chr(c) for c in range(0, 0x110000, 97) if not 0xD800 <= c < 0xE000]
    for c in characters:
        text = f"in{c}in11{c}11!!{c}!! {c}  {c}\n{c}'s"
        assert ours.encode(text).tolist() == reference_ids(theirs, text), hex(ord(c))


@pytest.mark.parametrize(
    "text",
    [
        " " * 3_000_000,
        " " * 1_500_000 + "x",
        "\n" * 1_500_000 + "x" + " " * 600 + "\ty",
        "x" * 400_000,
    ],
    ids=["spaces", "spaces_then_text", "lines_then_text", "one_word"],
)
def test_long_runs_are_encoded_exactly(text):
    ids = bpe().encode(text)
    assert bpe().decode(ids) == text
    # The reference is asked about a run of the same shape, short enough for it.
    short = text.replace(" " * 1000, "").replace("\n" * 1000, "").replace("x" * 1000, "")
    assert bpe().encode(short).tolist() == reference_ids(reference(definition()), short)


def test_cutting_long_runs_changes_nothing():
    theirs, generator = reference(definition()), random.Random(0)
    for _ in range(50):
        runs = [
            generator.choice(" \n\t\u3000") * generator.choice((1, 511, 512, 700)) for _ in "ab"
        ]
        text = f"in{runs[0]}the{runs[1]}" + generator.choice(("", "end", "\x1c.", "5"))
        whole = reference_ids(theirs, text)
        parts = cut_long_runs(text)
        assert "".join(parts) == text
        assert sum((reference_ids(theirs, part) for part in parts), []) == whole


@pytest.mark.parametrize("at", [BEFORE_SPACE, BEFORE_WHITE_SPACE])
def test_cutting_documents_changes_nothing(at):
    theirs, generator = reference(definition()), random.Random(1)
    for _ in range(100):
        text = "".join(generator.choices(PIECES, k=60))
        parts = cut(text, characters=generator.choice((1, 5, 20)), at=at)
        assert "".join(parts) == text
        assert sum((reference_ids(theirs, part) for part in parts), []) == reference_ids(
            theirs, text
        )


def test_neox_files_take_the_other_engine_and_agree(tmp_path):
    ours, theirs = neox(tmp_path)
    assert ours.engine == "tokenizers"
    generator = random.Random(2)
    for _ in range(20):
        text = "".join(generator.choices((*PIECES, " " * 7, " " * 30), k=3000))
        ids = ours.encode(text)
        assert ids.tolist() == reference_ids(theirs, text)
        normal = ours.decode(ids)
        assert ours.byte_lengths[ids].sum() == len(normal.encode())
    text = "a" + " " * 24 + "b" + " " * 5
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize(
    "token",
    [AddedToken("in the", normalized=False), AddedToken("end", rstrip=True, normalized=False)],
)
def test_added_tokens_across_a_cut_forbid_it(tmp_path, token):
    ours, theirs = neox(tmp_path, change=lambda made: made.add_tokens([token]))
    text = "in the end  of it in the  " * 600
    assert ours.encode(text).tolist() == reference_ids(theirs, text)


def test_published_parts_and_tokenizer_json_are_the_same_tokenizer(tmp_path):
    parts = load_tokenizer(write_parts(tmp_path / "gpt2"))
    assert load_tokenizer(tmp_path / "gpt2" / "vocab.json").fingerprint == parts.fingerprint
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition(), indent=2, sort_keys=True))
    assert load_tokenizer(tmp_path / "tokenizer.json").fingerprint == parts.fingerprint
    assert parts.fingerprint == bpe().fingerprint
    assert parts.eos == bpe().eos == bpe().vocab_size - 1
    assert parts.encode("in the end").tolist() == bpe().encode("in the end").tolist()


def test_merges_in_either_spelling_are_the_same_tokenizer():
    content = definition()
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    assert BPETokenizer(content, eos=bpe().eos).fingerprint == bpe().fingerprint


def test_truncation_and_padding_never_touch_a_corpus():
    made = Reference.from_str(json.dumps(definition()))
    made.enable_truncation(max_length=4)
    made.enable_padding(length=64)
    ours = BPETokenizer(json.loads(made.to_str()), eos=bpe().eos)
    assert ours.encode("in the end of it all").tolist() == (
        bpe().encode("in the end of it all").tolist()
    )
    assert ours.fingerprint == bpe().fingerprint


def test_an_unprovable_vocabulary_takes_the_other_engine():
    # Ids that do not rise with the merges: tiktoken would merge in another order.
    content = definition()
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    swapped = dict(vocab)
    first, second = (merges[i][0] + merges[i][1] for i in (10, 11))
    swapped[first], swapped[second] = vocab[second], vocab[first]
    content["model"]["vocab"] = swapped
    ours, theirs = BPETokenizer(content, eos=bpe().eos), reference(content)
    assert ours.engine == "tokenizers"
    assert ours.encode(training_texts()[0]).tolist() == reference_ids(theirs, training_texts()[0])


def test_the_proof_sees_a_pair_that_is_not_the_listed_one():
    # "abc" is listed as (ab, c), but reduced by lower ranks it ends in (a, bc).
    symbols = definition()["model"]["vocab"]
    vocab = {token: index for token, index in symbols.items() if index < 256}
    merges = [["b", "c"], ["a", "b"], ["ab", "c"]]
    vocab |= {"bc": 256, "ab": 257, "abc": 258, "<|endoftext|>": 259}
    content = definition()
    content["model"] |= {"vocab": vocab, "merges": merges}
    content["added_tokens"][0]["id"] = 259
    assert tiktoken_ranks(read_definition(content)) is None
    ours, theirs = BPETokenizer(content, eos=259), reference(content)
    assert ours.engine == "tokenizers"
    assert ours.encode("abc").tolist() == reference_ids(theirs, "abc") == [vocab["a"], 256]
    content["model"]["merges"] = [["b", "c"], ["a", "b"], ["a", "bc"]]
    assert tiktoken_ranks(read_definition(content)) is not None


def test_the_end_of_document_token(tmp_path):
    folder = write_parts(tmp_path / "none", eos="")
    with pytest.raises(TokenizerError, match=r"no token ends a document; looked for <\|endoftext"):
        load_tokenizer(folder)
    with pytest.raises(TokenizerError, match="'<stop>' is not in its vocabulary"):
        load_tokenizer(folder, eos="<stop>")
    assert load_tokenizer(write_parts(tmp_path / "s", eos="</s>")).eos == bpe().eos
    folder = write_parts(tmp_path / "named", eos="<|stop|>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|stop|>"}))
    named = load_tokenizer(folder)
    assert named.eos == bpe().eos
    assert named.byte_lengths[named.eos] == 0
    save_tokenizer(named, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint == named.fingerprint


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_cut_off_files_are_refused(tmp_path, keep):
    folder = write_parts(tmp_path)
    whole = {name: (folder / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    (folder / "vocab.json").write_bytes(whole["vocab.json"][: int(keep * len(whole["vocab.json"]))])
    with pytest.raises(TokenizerError, match=r"vocab\.json: not valid JSON"):
        load_tokenizer(folder)
    (folder / "vocab.json").write_bytes(whole["vocab.json"])
    lines = whole["merges.txt"].split(b"\n")
    (folder / "merges.txt").write_bytes(b"\n".join(lines[: int(keep * len(lines))]))
    with pytest.raises(TokenizerError, match="the merges are cut off"):
        load_tokenizer(folder)
    (folder / "merges.txt").write_bytes(b"\n".join([*lines[:50], b"\xc4\xa0fo"]))
    with pytest.raises(TokenizerError, match=r"merges\.txt:51: expected two symbols"):
        load_tokenizer(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match="a vocabulary without merges"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("model"), "without merges|no model"),
        (lambda d: d["model"].update(type="Unigram"), "Unigram; byte-level BPE"),
        (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "over characters, not bytes"),
        (lambda d: d["model"]["vocab"].pop("a"), "1 of the 256 bytes"),
        (lambda d: d["model"]["merges"].append(["zq", "zq"]), "not in the vocabulary"),
        (lambda d: d["model"]["vocab"].update(a=300), "share an id"),
        (lambda d: d["model"]["vocab"].update(new="7"), "not a map from tokens to ids"),
        (lambda d: d["added_tokens"].append({"content": "x"}), "an added token without an id"),
        (lambda d: d.update(normalizer={"type": "Nonsense"}), "cannot read the definition"),
    ],
)
def test_definitions_that_are_refused(tmp_path, change, message):
    content = definition()
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_training_is_deterministic_and_says_what_it_cannot_do():
    again = train(iter(training_texts()), vocab_size=700)
    assert again.fingerprint == bpe().fingerprint
    assert again.vocab_size == 700
    with pytest.raises(TokenizerError, match="train on more text"):
        train(iter(["a b c"]), vocab_size=700)
    with pytest.raises(TokenizerError, match="need 258"):
        train(iter(["a b c"]), vocab_size=256)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        train(iter(["a \ud800 c"]), vocab_size=700)


def test_the_limit_stops_reading():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield training_texts()[0]

    limited = train(endless(), vocab_size=400, limit_bytes=50_000)
    assert limited.vocab_size == 400
    assert len(taken) * len(training_texts()[0]) < 50_000 + 2 * len(training_texts()[0])


def test_every_id_has_its_bytes():
    ours = bpe()
    lengths = [len(ours._bytes[index]) for index in range(ours.vocab_size)]
    np.testing.assert_array_equal(lengths, ours.byte_lengths)
    assert sorted(ours._bytes[index] for index in range(256)) == [bytes([b]) for b in range(256)]
