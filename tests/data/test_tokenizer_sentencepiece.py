"""Sentencepiece: exact settings, cuts that change nothing, foreign models, refusals."""

import io

import numpy as np
import pytest
import sentencepiece
from tokenizer_samples import sentencepiece_bpe, sentencepiece_unigram, training_texts

from gesso.data.tokenizers.base import TokenizerError
from gesso.data.tokenizers.cuts import CUT_ABOVE, training_chunks
from gesso.data.tokenizers.load import load_tokenizer
from gesso.data.tokenizers.sentencepiece import train


def foreign(**settings) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_chunks(training_texts(), bytes_each=4000)),
        model_writer=model,
        vocab_size=500,
        model_type="bpe",
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


def huge_text() -> str:
    text = "\n".join(training_texts())
    text = text * (1 + 2 * CUT_ABOVE // len(text))
    assert len(text) > 2 * CUT_ABOVE
    return text


def test_documents_over_the_limit_keep_their_ids():
    tokenizer, text = sentencepiece_bpe(), huge_text()
    np.testing.assert_array_equal(tokenizer.encode(text), tokenizer._processor.encode(text))


def test_documents_over_the_limit_keep_their_ids_but_for_rounding():
    # A float32 sum of millions of log probabilities cannot tell near ties apart: where the ids
    # differ, ours must be at least as probable.
    tokenizer, text = sentencepiece_unigram(), huge_text()
    whole, ours = np.array(tokenizer._processor.encode(text)), tokenizer.encode(text)
    assert tokenizer.decode(ours) == text
    processor = tokenizer._processor
    score = np.array([processor.get_score(i) for i in range(tokenizer.vocab_size)], np.float64)
    assert score[ours].sum() >= score[whole].sum()
    assert abs(len(ours) - len(whole)) <= 1e-4 * len(whole)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_is_deterministic(kind):
    made = {"bpe": sentencepiece_bpe, "unigram": sentencepiece_unigram}[kind]()
    again = train(iter(training_texts()), vocab_size=700, kind=kind)
    assert again.fingerprint == made.fingerprint
    assert again.vocab_size == 700
    assert again.eos == 1


def test_training_refuses_what_it_cannot_do():
    with pytest.raises(TokenizerError, match=r"give at most \d+; train on more text"):
        train(iter(["a b c"]), vocab_size=4000)
    with pytest.raises(TokenizerError, match="259 ids are special or bytes"):
        train(iter(["a b c"]), vocab_size=200)
    with pytest.raises(TokenizerError, match=r"need at least \d+; ask for more ids"):
        train(iter(["".join(map(chr, range(33, 120)))] * 9), vocab_size=270)
    with pytest.raises(TokenizerError, match="no model"):
        train(iter([]), vocab_size=300)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        train(iter(["a b \ud800 c"]), vocab_size=300)


def test_long_documents_are_trained_on():
    # The trainer drops "sentences" over its limit without a word; ours are cut below it.
    document = " ".join(training_texts())
    whole = train(iter([document]), vocab_size=500, kind="bpe")
    assert whole._processor.encode("return", out_type=str) == ["return"]


def test_chunks_fit_the_trainers_limit_and_lose_nothing():
    texts = ["\U0001f600 \u65e5" * 3000, "word " * 3000, "x" * 9000, "", "short"]
    chunks = list(training_chunks(texts, bytes_each=4096))
    assert "".join(chunks) == "".join(texts)
    assert max(len(chunk.encode()) for chunk in chunks) <= 4096


def test_a_foreign_model_keeps_its_own_rules(tmp_path):
    # sentencepiece's defaults, as in most published models: NFKC, a leading space, no bytes.
    (tmp_path / "spiece.model").write_bytes(foreign())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos == 2
    ids = tokenizer.encode("the  end")
    assert tokenizer.decode(ids) == "the end"
    assert tokenizer.byte_lengths[ids].sum() == len(" the end")
    assert tokenizer.byte_lengths[[0, 1, 2]].tolist() == [0, 0, 0]


def test_the_end_of_document_token(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(foreign(eos_id=-1, bos_id=-1))
    with pytest.raises(TokenizerError, match="no token ends a document"):
        load_tokenizer(path)
    with pytest.raises(TokenizerError, match="'<stop>' is not in its vocabulary"):
        load_tokenizer(path, eos="<stop>")
    path.write_bytes(foreign(eos_id=-1, bos_id=-1, control_symbols=["<|endoftext|>"]))
    tokenizer = load_tokenizer(path)
    assert tokenizer._processor.id_to_piece(tokenizer.eos) == "<|endoftext|>"
    assert tokenizer.eos not in tokenizer.encode("a <|endoftext|> b")


def test_cut_off_models_are_refused(tmp_path):
    whole = sentencepiece_bpe().payload()["sentencepiece.model"]
    path = tmp_path / "x.model"
    refused = 0
    for size in range(1, len(whole), max(1, len(whole) // 300)):
        path.write_bytes(whole[:size])
        with pytest.raises(TokenizerError):
            load_tokenizer(path)
        refused += 1
    assert refused > 250


def test_a_text_file_is_no_model(tmp_path):
    (tmp_path / "x.model").write_text("not a model at all\n" * 20)
    with pytest.raises(TokenizerError, match="not a whole sentencepiece model"):
        load_tokenizer(tmp_path / "x.model")
