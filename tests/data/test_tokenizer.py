"""What all tokenizers promise: exact round trips, byte lengths, fingerprints, clear refusals."""

import json
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from tokenizer_samples import TEXTS, tokenizers, write_parts

from gesso.data.tokenizers.base import Tokenizer, TokenizerError
from gesso.data.tokenizers.load import RECORD, load_tokenizer, save_tokenizer

KINDS = ("bytes", "bpe", "sentencepiece_bpe", "sentencepiece_unigram")


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_round_trips_and_its_bytes_add_up(kind):
    tokenizer = tokenizers()[kind]

    @settings(deadline=None, max_examples=200, derandomize=True)
    @given(TEXTS)
    def check(text):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.uint32
        assert tokenizer.decode(ids) == text
        assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
        assert tokenizer.eos not in ids

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_attributes(kind):
    tokenizer = tokenizers()[kind]
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.kind == kind.partition("_")[0]
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)
    assert tokenizer.byte_lengths.dtype == np.int32
    assert tokenizer.byte_lengths[tokenizer.eos] == 0
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""
    assert len(tokenizer.fingerprint) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_texts(kind):
    tokenizer = tokenizers()[kind]
    texts = ["one two", "", "three\n\n  four " * 2000, "\u2581 \U0001f600"]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_is_no_text(kind):
    tokenizer = tokenizers()[kind]
    ids = tokenizer.encode("a b")
    assert tokenizer.decode([*ids, tokenizer.eos]) == "a b"
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match="outside the vocabulary"):
            tokenizer.decode([bad])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["\ud800", "ok \udfff ok", "a" * 5000 + "\ud83d"])
def test_lone_surrogates_are_named(kind, text):
    tokenizer = tokenizers()[kind]
    place = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    with pytest.raises(TokenizerError, match=rf"lone surrogate U\+D.* at character {place}"):
        tokenizer.encode(text)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode_batch(["fine", text])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_moved_and_loaded_it_is_the_same(kind, tmp_path):
    tokenizer = tokenizers()[kind]
    save_tokenizer(tokenizer, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    for folder in (tmp_path / "one", tmp_path / "elsewhere" / "two"):
        loaded = load_tokenizer(folder)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert (loaded.kind, loaded.eos, loaded.vocab_size) == (
            tokenizer.kind,
            tokenizer.eos,
            tokenizer.vocab_size,
        )
        np.testing.assert_array_equal(loaded.byte_lengths, tokenizer.byte_lengths)
        text = "def f(x): return x  # caf\u00e9\n"
        np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))


def test_kinds_have_different_fingerprints():
    assert len({tokenizer.fingerprint for tokenizer in tokenizers().values()}) == len(KINDS)


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece_bpe"])
def test_damage_is_refused_by_the_fingerprint(kind, tmp_path):
    tokenizer = tokenizers()[kind]
    save_tokenizer(tokenizer, tmp_path)
    (name,) = tokenizer.payload()
    content = (tmp_path / name).read_bytes()
    # One letter of one piece: still a readable file of the right size.
    damaged = content.replace(b"return", b"rEturn", 1)
    if kind == "bpe":
        definition = json.loads(content)
        vocab = definition["model"]["vocab"]
        first, second = sorted(vocab, key=vocab.get)[400:402]
        vocab[first], vocab[second] = vocab[second], vocab[first]
        damaged = json.dumps(definition).encode()
    assert damaged != content
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(TokenizerError, match="does not match its fingerprint"):
        load_tokenizer(tmp_path)


def test_an_edited_record_is_refused(tmp_path):
    save_tokenizer(tokenizers()["bpe"], tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps({**record, "eos": 5}))
    with pytest.raises(TokenizerError, match="does not match its fingerprint"):
        load_tokenizer(tmp_path)
    (tmp_path / RECORD).write_text(json.dumps({**record, "kind": "hieroglyphs"}))
    with pytest.raises(TokenizerError, match="unknown kind 'hieroglyphs'"):
        load_tokenizer(tmp_path)
    (tmp_path / RECORD).write_text(json.dumps(record)[:30])
    with pytest.raises(TokenizerError, match="damaged record"):
        load_tokenizer(tmp_path)
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(TokenizerError, match="lacks one of"):
        load_tokenizer(tmp_path)


def test_a_saved_folder_without_its_payload_is_refused(tmp_path):
    save_tokenizer(tokenizers()["sentencepiece_bpe"], tmp_path)
    (tmp_path / "sentencepiece.model").unlink()
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_mistyped_paths_get_a_suggestion(tmp_path):
    write_parts(tmp_path / "gpt2")
    with pytest.raises(TokenizerError, match=r"did you mean .*gpt2\?"):
        load_tokenizer(tmp_path / "gtp2")
    with pytest.raises(TokenizerError, match="did you mean 'bytes'"):
        load_tokenizer("byte")
    with pytest.raises(TokenizerError, match="does not exist either"):
        load_tokenizer(tmp_path / "nowhere" / "tokenizer.json")


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "x.model"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (pickle.dumps({"vocab": 1}), "never loaded"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_files_that_are_no_tokenizers(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(path)


def test_folders_and_files_of_another_form(tmp_path):
    with pytest.raises(TokenizerError, match="it holds nothing"):
        load_tokenizer(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(TokenizerError, match=r"it holds notes\.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="not a form of tokenizer"):
        load_tokenizer(tmp_path / "notes.txt")
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(TokenizerError, match="several models"):
        load_tokenizer(tmp_path)
