"""WordPiece against its published description, its files, and what masked prediction asks of it."""

import json
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from tokenizer_samples import TEXTS, bpe, sentencepiece_bpe, training_texts

from gesso.data.tokenizers.base import TokenizerError
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.data.tokenizers.special import continues_of, special_of
from gesso.data.tokenizers.wordpiece import WordPieceTokenizer, train
from gesso.launch.cli import main


@cache
def wordpiece(case="uncased"):
    return train(iter(training_texts()), vocab_size=900, lowercase=case == "uncased")


def pieces_of(tokenizer, text):
    return [tokenizer._pieces[index] for index in tokenizer.encode(text)]


def described(text, vocab, *, lowercase):
    """The published algorithm, as its paper and README describe it."""
    cleaned = "".join(
        " " if c in "\t\n\r" or unicodedata.category(c) == "Zs" else c
        for c in text
        if c not in "\0\ufffd" and (c in "\t\n\r" or unicodedata.category(c)[0] != "C")
    )
    spaced = "".join(f" {c} " if 0x4E00 <= ord(c) <= 0x9FFF else c for c in cleaned)
    words = []
    for word in spaced.split():
        if lowercase:
            word = "".join(
                c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn"
            ).lower()
        isolated = "".join(f" {c} " if is_punctuation(c) else c for c in word)
        words += isolated.split()
    found = []
    for word in words:
        start, pieces = 0, []
        while start < len(word) and len(word) <= 100:
            head = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if head + word[start:e] in vocab), None)
            if end is None:
                pieces = []
                break
            pieces.append(head + word[start:end])
            start = end
        found += pieces or ["[UNK]"]
    return found


def is_punctuation(c):
    return c.isascii() and not c.isalnum() or unicodedata.category(c)[0] == "P"


@settings(max_examples=80, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("case", ["uncased", "cased"])
def test_the_published_algorithm(case, text):
    # Unassigned and private characters differ between versions of Unicode's tables.
    text = "".join(c for c in text if ord(c) < 0x3000 and unicodedata.category(c)[0] != "C")
    tokenizer = wordpiece(case)
    want = described(text, set(tokenizer._pieces), lowercase=case == "uncased")
    assert pieces_of(tokenizer, text) == want


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("Def  Self\n(x)", "def self ( x )"),
        ("D\u00e9f r\u00e9turn", "def return"),
        ("[MASK] [SEP]", "[ mask ] [ sep ]"),  # special tokens spelled out are text
        ("", ""),
    ],
)
def test_what_is_normalised(text, decoded):
    tokenizer = wordpiece()
    assert tokenizer.decode(tokenizer.encode(text)) == decoded
    ids = tokenizer.encode(text)
    assert not set(ids.tolist()) & {tokenizer.special[x] for x in ("pad", "cls", "sep", "mask")}
    assert tokenizer.byte_lengths[ids].sum() == len(decoded.replace(" ", "").encode())


def test_cased_keeps_case():
    tokenizer = wordpiece("cased")
    assert tokenizer.decode(tokenizer.encode("The None")) == "The None"
    assert tokenizer.fingerprint != wordpiece().fingerprint


def test_long_words_are_unknown():
    tokenizer = wordpiece()
    unknown = tokenizer.special["unk"]
    assert tokenizer.encode("a" * 101).tolist() == [unknown]
    assert unknown not in tokenizer.encode("a" * 100)
    assert tokenizer.decode([unknown]) == "[UNK]"
    assert tokenizer.byte_lengths[unknown] == 0


def test_a_document_is_cut_without_a_trace():
    tokenizer = wordpiece()
    text = " ".join(training_texts())
    whole = tokenizer._tokenizer.encode(text, add_special_tokens=False).ids
    assert len(text) > 8 * tokenizer._chunk
    assert tokenizer.encode(text).tolist() == whole
    pair = tokenizer.encode_batch([text[:9000], "", "x"])
    assert [each.tolist() for each in pair] == [
        tokenizer.encode(each).tolist() for each in (text[:9000], "", "x")
    ]


def test_special_tokens():
    tokenizer = wordpiece()
    assert tokenizer.special == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.eos == 3
    assert tokenizer.continues.sum() > 100
    for index, piece in enumerate(tokenizer._pieces):
        assert tokenizer.continues[index] == piece.startswith("##")
    ids = tokenizer.encode("textwrapping")
    assert len(ids) > 1 and not tokenizer.continues[ids[0]] and tokenizer.continues[ids[1:]].all()


def test_training_is_deterministic():
    again = train(iter(training_texts()), vocab_size=900)
    assert again.fingerprint == wordpiece().fingerprint
    assert again._pieces == wordpiece()._pieces


def test_training_refuses():
    with pytest.raises(TokenizerError, match="ask for a smaller vocabulary"):
        train(iter(["a few words"]), vocab_size=500)
    with pytest.raises(TokenizerError, match="at least 64"):
        train(iter(training_texts()), vocab_size=40)


def test_saved_and_loaded(tmp_path):
    tokenizer = wordpiece()
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, WordPieceTokenizer)
    assert (loaded.fingerprint, loaded.eos, loaded.special) == (
        tokenizer.fingerprint,
        tokenizer.eos,
        tokenizer.special,
    )
    assert np.array_equal(loaded.continues, tokenizer.continues)
    (tmp_path / "tokenizer.json").write_bytes(wordpiece("cased").payload()["tokenizer.json"])
    with pytest.raises(TokenizerError, match="does not match its fingerprint"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("case", ["uncased", "cased"])
def test_a_vocabulary_file_is_its_tokenizer_json(tmp_path, case):
    tokenizer = wordpiece(case)
    (tmp_path / "vocab.txt").write_text("\n".join(tokenizer._pieces) + "\n", encoding="utf-8")
    assert load_tokenizer(tmp_path / "vocab.txt").fingerprint == tokenizer.fingerprint
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    definition = json.loads(tokenizer.payload()["tokenizer.json"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    definition["added_tokens"] = [
        {"id": index, "content": tokenizer._pieces[index], "special": True, **flags}
        for index in tokenizer.special.values()
    ]
    definition["normalizer"]["strip_accents"] = None  # left open, as published files have it
    definition["padding"] = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_id": 0,
                             "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("The [SEP]").tolist() == tokenizer.encode("The [SEP]").tolist()


def test_settings_beside_a_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(wordpiece()._pieces), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    loaded = load_tokenizer(tmp_path / "vocab.txt")
    assert pieces_of(loaded, "Def def")[0] == "[UNK]"
    assert load_tokenizer(tmp_path / "vocab.txt", eos="[CLS]").eos == loaded.special["cls"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[UNK]", "[CLS]", "[SEP]", "a"], r"has no \[MASK\]"),
        (["a", "b"], r"has no \[UNK\], \[CLS\], \[SEP\], \[MASK\]"),
        (["[UNK]", "a", "a"], "'a' is there twice"),
    ],
)
def test_vocabularies_that_cannot_be(tmp_path, lines, message):
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path / "vocab.txt")


def test_lone_surrogates():
    with pytest.raises(TokenizerError, match="lone surrogate"):
        wordpiece().encode("a\ud800")


def test_where_words_continue_in_other_vocabularies():
    pieces = [b" the", b"the", b"ing", b"\n", b"1", b".", b"\xe6", "\u65e5".encode(), b"", b" "]
    assert continues_of(pieces).tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 0, 0]
    for tokenizer in (bpe(), sentencepiece_bpe(), load_tokenizer("bytes")):
        ids = tokenizer.encode("a wordiness, here")
        begins = [i for i, index in enumerate(ids) if not tokenizer.continues[index]]
        words = [
            tokenizer.decode(ids[a:b]) for a, b in zip(begins, [*begins[1:], len(ids)], strict=True)
        ]
        assert [word.strip() for word in words if word.strip()][-3:] == ["wordiness", ",", "here"]
    assert bpe().special == {}
    assert sentencepiece_bpe().special == {"pad": 0, "sep": 1, "unk": 2}
    assert special_of({"<s>": 0, "</s>": 2, "<mask>": 9}) == {"cls": 0, "sep": 2, "mask": 9}


def test_the_command(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n".join(training_texts()))
    folder = str(tmp_path / "made")
    options = ["--folder", folder, "--vocab-size", "300", "--kind", "wordpiece", "--case", "cased"]
    assert main(["tokenizer", "train", str(tmp_path / "corpus.txt"), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "wordpiece"
    assert load_tokenizer(folder).vocab_size == 300
    options = ["--folder", f"{folder}2", "--vocab-size", "300", "--case", "cased"]
    assert main(["tokenizer", "train", str(tmp_path / "corpus.txt"), *options]) == 2
