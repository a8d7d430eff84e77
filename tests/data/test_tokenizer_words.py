"""Words and their characters: the published mapping, both ways of reading one, saving, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.data.tokenizers.base import TokenizerError
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer, train_words
from gesso.data.tokenizers.words import WordTokenizer, shorten, spell

TEXTS = ["the cat saw the dog\n\nthe dog ran, the end.", "the cat"]


@pytest.fixture
def tokenizer(tmp_path):
    return train_words(iter(TEXTS), classes=6, cap=9, folder=tmp_path / "words")


def test_the_most_frequent_words_come_first(tokenizer):
    words = tokenizer.payload()["vocab.txt"].decode().split()
    assert words == ["</S>", "<S>", "<UNK>", "the", "cat", "dog", ",", ".", "end"]
    assert (tokenizer.vocab_size, tokenizer.classes, tokenizer.eos) == (9, 6, 0)


def test_lines_are_sentences(tokenizer):
    ids = tokenizer.encode("the cat\r\n \nthe zebra,")
    assert ids.tolist() == [1, 3, 4, 0, 1, 3, 2, 6]
    assert ids.dtype == np.uint32
    assert tokenizer.decode([*ids.tolist(), 0]) == "the cat\nthe <UNK> ,"
    assert tokenizer.encode(" \n\t").tolist() == []


def published(word, limit=50):
    """UnicodeCharsVocabulary's mapping, word by word and by the table of its constants."""
    code = [260] * limit
    inside = {"<S>": [256], "</S>": [257]}.get(word)
    if inside is None:
        inside = list(word.encode("utf-8", "ignore")[: limit - 2])
    code[0] = 258
    for at, each in enumerate(inside, start=1):
        code[at] = each
    code[len(inside) + 1] = 259
    return code


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=4))
def test_characters_are_mapped_as_published(words):
    words = ["<S>", "</S>", "<UNK>", *words]
    spelled = spell(words, characters=50)
    assert spelled.tolist() == [published(word) for word in words]
    for limit in (4, 16):
        want = [published(word, limit) for word in words]
        assert shorten(spelled, characters=limit).tolist() == want


def test_long_words_lose_their_ends_and_are_counted():
    words = ["</S>", "<S>", "<UNK>", "a" * 48, "b" * 49, "\u00e9" * 25]
    tokenizer = WordTokenizer(words, classes=4, split="punctuation")
    assert tokenizer.truncated == 2
    assert tokenizer.spelling[4, 48:].tolist() == [98, 259]
    assert tokenizer.byte_lengths.tolist() == [0, 0, 0, 48, 49, 50]


def test_saved_is_loaded_and_damage_is_seen(tokenizer, tmp_path):
    again = load_tokenizer(tmp_path / "words")
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.spelling == tokenizer.spelling).all()
    save_tokenizer(again, tmp_path / "copy")
    path = tmp_path / "copy" / "vocab.txt"
    path.write_text(path.read_text().replace("cat", "rat"))
    with pytest.raises(TokenizerError, match="fingerprint"):
        load_tokenizer(tmp_path / "copy")


def test_a_published_vocabulary_is_loaded(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("</S>\n<S>\n<UNK>\nthe\n,\nn't\n")
    tokenizer = load_tokenizer(path)
    assert (tokenizer.kind, tokenizer.classes, tokenizer.vocab_size) == ("words", 6, 6)
    assert tokenizer.encode("the n't , cat").tolist() == [1, 3, 5, 4, 2]
    path.write_text("<S>\n</S>\n<UNK>\nthe\n")
    with pytest.raises(TokenizerError, match="begins with </S>, <S>, <UNK>"):
        load_tokenizer(path)


def test_marks_spelled_out_in_a_text_are_no_marks(tmp_path):
    (tmp_path / "vocab.txt").write_text("</S>\n<S>\n<UNK>\na\n")
    assert load_tokenizer(tmp_path).encode("a </S> <S>").tolist() == [1, 3, 2, 2]


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="give 11 words, 99 were asked for"):
        train_words(iter(TEXTS), classes=99, cap=99, folder=tmp_path)
    with pytest.raises(TokenizerError, match="cannot hold 20 classes"):
        train_words(iter(TEXTS), classes=20, cap=10, folder=tmp_path)
    with pytest.raises(TokenizerError, match="'a' is there twice"):
        WordTokenizer(["</S>", "<S>", "<UNK>", "a", "a"], classes=4, split="punctuation")
    with pytest.raises(TokenizerError, match="lone surrogate"):
        WordTokenizer(["</S>", "<S>", "<UNK>", "a"], classes=4, split="punctuation").encode(
            "\ud800"
        )
