"""Tokenizers as others read them: the same ids from the files as from the tokenizer itself."""

import json

import pytest
from foreign_folders import CONFIGS

from gesso.data.tokenizers.load import load_tokenizer, train_bpe, train_sentencepiece
from gesso.data.tokenizers.wordpiece import train as train_wordpiece
from gesso.export import FolderError
from gesso.export.tokenizers.files import PROBES, files_of

TEXTS = [*PROBES, *(f"{n} + {n} = {2 * n}; the fox's {n} tails\n" for n in range(400))]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {
        "bytes": load_tokenizer("bytes"),
        "bpe": train_bpe(iter(TEXTS), vocab_size=300, folder=folder / "bpe"),
        "wordpiece": train_wordpiece(iter(TEXTS), vocab_size=200),
    }
    for kind in ("bpe", "unigram"):
        place = folder / f"sentencepiece-{kind}"
        made[place.name] = train_sentencepiece(iter(TEXTS), vocab_size=320, kind=kind, folder=place)
    return made


KINDS = ("bytes", "bpe", "wordpiece", "sentencepiece-bpe", "sentencepiece-unigram")
UNSEEN = (
    "Zo\u00eb's 99 red  balloons\n\n\tgo by",
    "\u4e16\u754c \U0001f600 <|endoftext|> </s>",
    "",
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_tokenizer_gives_the_same_ids(tokenizers, kind):
    from tokenizers import Tokenizer

    tokenizer = tokenizers[kind]
    made = files_of(tokenizer, model_type="gpt2", vocab=500, longest=64)
    written = Tokenizer.from_str(made.files["tokenizer.json"].decode())
    written.encode_special_tokens = True
    for text in UNSEEN:
        if kind == "sentencepiece-unigram":  # `tokenizers` takes a spelled-out </s> for the piece
            text = text.replace("</s>", "")
        ours = tokenizer.encode(text).tolist()
        assert written.encode(text, add_special_tokens=False).ids == ours
        if kind != "wordpiece":
            assert written.decode(ours) == tokenizer.decode(ours)
    settings = json.loads(made.files["tokenizer_config.json"])
    assert settings["model_max_length"] == 64
    if kind == "wordpiece":
        assert made.ids["pad_token_id"] == tokenizer.special["pad"]
    else:
        assert written.token_to_id(settings["eos_token"]) == tokenizer.eos
        assert made.ids["eos_token_id"] == tokenizer.eos


def test_the_old_files_hold_the_same_vocabulary(tokenizers, tmp_path):
    made = files_of(tokenizers["bpe"], model_type="gpt2", vocab=300, longest=None)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (tmp_path / name).write_bytes(made.files[name])
    again = load_tokenizer(tmp_path)
    assert again.eos == tokenizers["bpe"].eos
    assert all((again.encode(t) == tokenizers["bpe"].encode(t)).all() for t in UNSEEN)
    words = files_of(tokenizers["wordpiece"], model_type="bert", vocab=200, longest=None)
    lines = words.files["vocab.txt"].decode().splitlines()
    assert lines.index("[MASK]") == tokenizers["wordpiece"].special["mask"]
    assert len(lines) == tokenizers["wordpiece"].vocab_size


def test_what_a_text_is_put_between(tokenizers):
    from tokenizers import Tokenizer

    words, special = tokenizers["wordpiece"], tokenizers["wordpiece"].special
    made = files_of(words, model_type="bert", vocab=200, longest=None)
    written = Tokenizer.from_str(made.files["tokenizer.json"].decode())
    pair = written.encode("the fox", "tails")
    assert [pair.ids[0], pair.ids[-1]] == [special["cls"], special["sep"]]
    assert pair.ids.count(special["sep"]) == 2 and pair.type_ids[0] == 0 and pair.type_ids[-1] == 1
    pieces = tokenizers["sentencepiece-unigram"]
    made = files_of(pieces, model_type="t5", vocab=400, longest=None)
    written = Tokenizer.from_str(made.files["tokenizer.json"].decode())
    assert written.encode("the fox").ids == [*pieces.encode("the fox").tolist(), pieces.eos]
    assert made.files["spiece.model"] == pieces.payload()["sentencepiece.model"]


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizers):
    with pytest.raises(FolderError, match="has 257 ids, and the model 37 rows"):
        files_of(tokenizers["bytes"], model_type="gpt2", vocab=CONFIGS["gpt2"].vocab, longest=None)


def test_files_that_give_other_ids_are_refused(tokenizers):
    class Shifted:
        kind, vocab_size, eos = "bpe", 300, tokenizers["bpe"].eos
        payload = tokenizers["bpe"].payload

        def encode(self, text):
            return tokenizers["bpe"].encode(text) + 1

    with pytest.raises(FolderError, match="cannot be written as tokenizer.json: of .The quick"):
        files_of(Shifted(), model_type="gpt2", vocab=300, longest=None)


def test_none_and_files_pass_through():
    assert files_of(None, model_type="gpt2", vocab=1, longest=None).files == {}
    given = {"tokenizer.json": b"{}"}
    assert files_of(given, model_type="gpt2", vocab=1, longest=None).files == given
