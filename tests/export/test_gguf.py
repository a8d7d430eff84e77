"""GGUF: llama.cpp's names and settings, our tokenizers inside, and its logits where it is."""

import dataclasses
import sys

import jax
import numpy as np
import pytest
from clients import run_client
from foreign_folders import CONFIGS, random_params

from gesso.data.tokenizers.load import load_tokenizer
from gesso.export import FolderError
from gesso.export.stacks import plainer
from gesso.export.stacks.to_gguf import model as gguf_model
from gesso.export.stacks.to_gguf.tokenizer import add_tokenizer
from gesso.export.tokenizers.files import files_of
from gesso.models import build

gguf = pytest.importorskip("gguf")


def keys_of(path):
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def names_of(path):
    return {each.name: tuple(map(int, each.shape[::-1])) for each in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("gpt2", "gpt2"), ("gpt_j-tied", "phi2"), ("gpt_neox-other", "gptneox"), ("roberta", "bert")],
)
def test_names_shapes_and_settings_are_those_of_the_architecture(name, architecture, tmp_path):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    written = gguf_model.write(tmp_path / "out", config, params, dtype="float16", name="a name")
    assert written.model_type == f"gguf {architecture}"
    keys = keys_of(tmp_path / "out" / "model.gguf")
    assert keys["general.architecture"] == architecture and keys["general.name"] == "a name"
    assert keys[f"{architecture}.context_length"] == config.longest
    assert keys[f"{architecture}.attention.layer_norm_epsilon"] == pytest.approx(config.epsilon)
    tensors = names_of(tmp_path / "out" / "model.gguf")
    # The package lists what llama.cpp asks of an architecture.
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    known = {gguf.TENSOR_NAMES[each] for each in gguf.MODEL_TENSORS[kind]}
    stems = {
        t.rsplit(".", 1)[0].replace("blk.0", "blk.{bid}").replace("blk.1", "blk.{bid}")
        for t in tensors
    }
    assert stems <= known
    assert tensors["token_embd.weight"] == (37, 12)
    if architecture == "gptneox":
        assert keys["gptneox.use_parallel_residual"] is False
        assert keys["gptneox.rope.freq_base"] == 500.0
        assert keys["gptneox.rope.dimension_count"] == 4
    if architecture == "phi2":
        assert tensors["output.bias"] == (37,) and tensors["blk.1.attn_qkv.bias"] == (36,)
    if architecture == "bert":
        assert tensors["position_embd.weight"] == (22, 12)  # without RoBERTa's first two
        assert keys["bert.attention.causal"] is False and keys["bert.pooling_type"] == 1


def test_matrices_are_small_and_all_else_is_float32(tmp_path):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    for dtype, kind in (("float16", "F16"), ("bfloat16", "BF16")):
        written = gguf_model.write(tmp_path / dtype, config, params, dtype=dtype)
        assert 0 < written.agreement.apart <= written.agreement.bound
        found = {
            t.name: t.tensor_type.name
            for t in gguf.GGUFReader(tmp_path / dtype / "model.gguf").tensors
        }
        wide = {name for name, each in found.items() if each == "F32"}
        assert {found[name] for name in found.keys() - wide} == {kind}
        assert "position_embd.weight" in wide
        assert all(
            name.endswith("bias") or "norm" in name for name in wide - {"position_embd.weight"}
        )


def test_what_llama_cpp_does_not_compute_is_named(tmp_path):
    for name, message in {
        "gpt1": "normalises after each sublayer",
        "gpt2-other": "gelu only, and this one has relu",
        "gpt_neo": r"a window of 5\) changes rows of up to 24",
        "t5": "families gpt and bert, not seq2seq",
    }.items():
        with pytest.raises(FolderError, match=message):
            gguf_model.write(tmp_path / "out", CONFIGS[name], random_params(CONFIGS[name]))
    headed = dataclasses.replace(CONFIGS["gpt2"], biases=("qkv", "attention_out", "mlp", "head"))
    with pytest.raises(FolderError, match="a bias on the head only with one norm"):
        gguf_model.write(tmp_path / "out", headed, random_params(headed))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    config, params = CONFIGS["gpt_j-tied"], random_params(CONFIGS["gpt_j-tied"])

    def not_turned(config, params):
        return dataclasses.replace(config, rotation="half"), dict(params)

    monkeypatch.setattr(plainer, "turn_by_halves", not_turned)
    with pytest.raises(FolderError, match="does not give the model's outputs in the file read"):
        gguf_model.write(tmp_path / "out", config, params)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(FolderError, match=r"pip install 'gesso\[export\]'"):
        gguf_model.write(tmp_path, CONFIGS["gpt2"], random_params(CONFIGS["gpt2"]))


class Keys:
    """Stands in for a gguf.GGUFWriter: what was added, by the method's name or the key."""

    def __init__(self):
        self.found = {}

    def __getattr__(self, name):
        def add(*values):
            key = values[0] if len(values) > 1 else name
            self.found[key] = values[-1]

        return add


def added(tokenizer, vocab, model_type="gpt2"):
    made = files_of(tokenizer, model_type=model_type, vocab=vocab, longest=None)
    keys = Keys()
    add_tokenizer(keys, made.files, ids=made.ids, vocab=vocab)
    return keys.found


def test_bytes_are_a_vocabulary_without_merges():
    found = added(load_tokenizer("bytes"), 260)
    assert found["add_tokenizer_model"] == "gpt2" and found["add_tokenizer_pre"] == "gpt-2"
    tokens = found["add_token_list"]
    assert len(tokens) == len(set(tokens)) == 260
    assert tokens[ord("a")] == "a" and tokens[ord(" ")] == "\u0120"
    assert tokens[256:] == [
        "<|endoftext|>",
        "[unused row 257]",
        "[unused row 258]",
        "[unused row 259]",
    ]
    assert found["add_token_types"][255:] == [1, 3, 5, 5, 5]
    assert found["add_token_merges"] == ["<|endoftext|> <|endoftext|>"]  # joins nothing there is
    assert found["add_eos_token_id"] == 256 and found["add_add_bos_token"] is False


def test_splittings_without_a_name_are_refused():
    files = files_of(load_tokenizer("bytes"), model_type="gpt2", vocab=257, longest=None).files
    for old, new in (
        ('"use_regex": true', '"use_regex": false'),
        ('"normalizer": null', '"normalizer": {"type": "NFC"}'),
    ):
        changed = {
            **files,
            "tokenizer.json": files["tokenizer.json"].replace(old.encode(), new.encode(), 1),
        }
        assert changed != files
        with pytest.raises(FolderError, match="cuts byte-level BPE as GPT-2 does"):
            add_tokenizer(Keys(), changed, ids={}, vocab=257)
    with pytest.raises(FolderError, match="has an id 256, and the model 256 rows"):
        add_tokenizer(Keys(), files, ids={}, vocab=256)
    with pytest.raises(
        FolderError, match="no tokenizer.json and no sentencepiece model among vocab.txt"
    ):
        add_tokenizer(Keys(), {"vocab.txt": b"a"}, ids={}, vocab=1)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo, no local layer", "gpt_j", "gpt_neox", "bert"])
def test_llama_cpp_gives_the_same_outputs_and_ids(name, tmp_path):
    from benchmarks.stacks.checkpoints import TEXTS, checkpoint

    c = checkpoint(name)
    gguf_model.write(tmp_path / "out", c.config, c.params, tokenizer=c.tokenizer)
    tokens = np.random.default_rng(1).integers(2, c.config.vocab, (2, 9), np.int32)
    made = run_client(
        "llama_cpp",
        tmp_path / "out" / "model.gguf",
        tmp_path,
        tokens=tokens,
        lengths=np.zeros(2, np.int32),
        kind="encoder" if c.config.family == "bert" else "decoder",
        texts=np.array(TEXTS),
    )
    ours = jax.jit(build(c.config).apply)(c.params, {"tokens": tokens})
    if c.config.family == "bert":
        x, y = made["features"], np.asarray(ours["features"])
    else:
        x, y = made["log_probabilities"], np.asarray(jax.nn.log_softmax(ours["logits"]))
        assert (x.argmax(-1) == y.argmax(-1)).all()
    # ggml's gelu is a table of float16.
    assert np.abs(x - y).max() < 5e-3
    for number, text in enumerate(TEXTS):
        assert made[f"ids/{number}"].tolist() == c.tokenizer.encode(text).tolist()
