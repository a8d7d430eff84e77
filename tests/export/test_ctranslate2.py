"""CTranslate2: its names and settings, the file byte by byte, and its outputs where it is."""

import dataclasses
import importlib.util
import io
import json
import warnings

import jax
import numpy as np
import pytest
from clients import run_client
from foreign_folders import CONFIGS, random_params

from gesso.data.tokenizers.load import load_tokenizer
from gesso.export import FolderError
from gesso.export.stacks.to_ctranslate2 import model as ctranslate2_model
from gesso.export.stacks.to_ctranslate2 import table as ctranslate2_table
from gesso.export.stacks.to_ctranslate2.file import CTranslate2File, write_variable
from gesso.export.tokenizers.vocabulary import pieces_of, special_of
from gesso.models import build

NAMES = ("gpt1", "gpt2-other", "gpt_j", "gpt_neox", "bert", "t5-gated")


def spec_names(name, config):
    """The variables that CTranslate2's own specification has, and which of them must be set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        from ctranslate2.specs import common_spec, transformer_spec

    if name.startswith("t5"):
        spec = transformer_spec.TransformerSpec.from_config(
            (config.encoder_layers, config.decoder_layers),
            config.heads,
            relative_attention_bias=True,
            rms_norm=True,
            ffn_glu=config.gating == "gated",
        )
    elif name.startswith("bert"):
        spec = transformer_spec.TransformerEncoderModelSpec(
            transformer_spec.TransformerEncoderSpec(
                config.layers,
                config.heads,
                pre_norm=False,
                layernorm_embedding=True,
                num_source_embeddings=2,
                embeddings_merge=common_spec.EmbeddingsMerge.ADD,
            ),
            pooling_layer=True,
        )
    else:
        rotary = {"rotary_dim": config.rotary_dims} if config.rotary_dims else {}
        spec = transformer_spec.TransformerDecoderModelSpec.from_config(
            config.layers,
            config.heads,
            pre_norm=config.norm == "pre",
            parallel_residual=config.block != "sequential",
            shared_layer_norm=config.block == "parallel_shared_norm",
            **rotary,
        )
    every, needed = set(), set()

    def see(_, name, value):
        every.add(name)
        if value is None:
            needed.add(name)

    spec._visit(see)
    scalars = {n for n, v in spec.variables().items() if isinstance(v, np.generic | bool | int)}
    return spec.name, spec.revision, every, needed | scalars


@pytest.mark.skipif(not importlib.util.find_spec("ctranslate2"), reason="no ctranslate2")
@pytest.mark.parametrize("name", NAMES)
def test_the_variables_are_those_of_their_specification(name, tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate2_model, "_check", lambda *a: None)  # compiles; below
    config = CONFIGS[name]
    ctranslate2_model.write(tmp_path / "out", config, random_params(config))
    file = CTranslate2File(tmp_path / "out" / "model.bin")
    kind, revision, every, needed = spec_names(name, config)
    assert (file.name, file.revision) == (kind, revision)
    written = file.specs.keys() | file.settings.keys() | file.aliases.keys()
    head = {each for each in written if each.endswith("/head_dim")}  # an option of theirs
    assert written - head <= every
    assert needed <= written


@pytest.mark.parametrize("name", ["gpt_neox-other", "roberta-classify", "t5"])
def test_what_is_read_back_gives_the_outputs(name, tmp_path):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    written = ctranslate2_model.write(tmp_path / "out", config, params)
    assert written.agreement.apart <= 1e-5
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert about["layer_norm_epsilon"] == config.epsilon
    half = ctranslate2_model.write(tmp_path / "half", config, params, dtype="bfloat16")
    assert written.agreement.apart < half.agreement.apart <= half.agreement.bound
    small, large = (each.files["model.bin"] for each in (half, written))
    assert 0.5 < small / large < 0.75


def test_a_vocabulary_names_every_row(tmp_path):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    ctranslate2_model.write(tmp_path / "out", config, params)
    rows = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert rows == [f"<row {index}>" for index in range(37)]
    with pytest.raises(FolderError, match="the tokenizer has 257 ids, and the model 37 rows"):
        ctranslate2_model.write(tmp_path / "b", config, params, tokenizer=load_tokenizer("bytes"))
    definition = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "c", "id": 1}]}
    files = {"tokenizer.json": json.dumps(definition).encode()}
    assert pieces_of(files, vocab=3)[2] == "<row 2>"
    with pytest.raises(FolderError, match="has an id 1, and the model 1 rows"):
        pieces_of(files, vocab=1)
    clash = {"tokenizer.json": json.dumps({"model": {"vocab": [["<row 1>", 0.0]]}}).encode()}
    with pytest.raises(FolderError, match="two ids are spelled '<row 1>'"):
        pieces_of(clash, vocab=2)
    settings = {"eos_token": {"content": "</s>"}, "unk_token": "?", "model_max_length": 3}
    named = special_of({"tokenizer_config.json": json.dumps(settings).encode()})
    assert named == {"eos_token": "</s>", "unk_token": "?"}


def test_what_ctranslate2_does_not_compute_is_named(tmp_path):
    for name, message in {
        "gpt_neo": r"a window of 5\) changes rows of up to 24",
        "bert2bert": "has no encoder_decoder model",
    }.items():
        with pytest.raises(FolderError, match=message):
            ctranslate2_model.write(tmp_path / "out", CONFIGS[name], random_params(CONFIGS[name]))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_layout_is_refused(tmp_path, monkeypatch):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    swapped = params | {"norm": {"scale": params["norm"]["bias"], "bias": params["norm"]["scale"]}}
    right = ctranslate2_model.spec_of

    def wrong(config, params):
        return right(config, swapped)

    monkeypatch.setattr(ctranslate2_model, "spec_of", wrong)
    with pytest.raises(FolderError, match="does not give the model's outputs in the file read"):
        ctranslate2_model.write(tmp_path / "out", config, params)
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_was_declared_and_not_written_is_seen(tmp_path, monkeypatch):
    """The check runs the config that the file says: positions count from 0 there."""
    declared = ctranslate2_model.EXPRESSES["gpt"]
    careless = dataclasses.replace(declared, fields=(*declared.fields, "first_position"))
    config = dataclasses.replace(CONFIGS["gpt2"], first_position=2)
    with pytest.raises(FolderError, match="ctranslate2 has no model.first_position 2, only 0"):
        ctranslate2_model.write(tmp_path / "out", config, random_params(config))
    monkeypatch.setitem(ctranslate2_model.EXPRESSES, "gpt", careless)
    with pytest.raises(FolderError, match="does not give the model's outputs in the file read"):
        ctranslate2_model.write(tmp_path / "out", config, random_params(config))


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate2_model, "_check", lambda *a: None)
    ctranslate2_model.write(tmp_path / "out", CONFIGS["gpt2"], random_params(CONFIGS["gpt2"]))
    whole = (tmp_path / "out" / "model.bin").read_bytes()
    path = tmp_path / "model.bin"
    for cut in (3, 40, 500, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FolderError, match="model.bin is cut off or damaged"):
            CTranslate2File(path)
    path.write_bytes(b"\x07" + whole[1:])
    with pytest.raises(FolderError, match="of version 7, and 6 is known"):
        CTranslate2File(path)
    out = io.BytesIO()
    write_variable(out, "a", np.zeros((2, 3), np.float32))
    assert len(out.getvalue()) == 2 + 2 + 1 + 8 + 1 + 4 + 24


def test_activations_are_those_of_the_enumeration():
    common = pytest.importorskip("ctranslate2.specs.common_spec")
    theirs = {"relu": "RELU", "gelu_tanh": "GELUTanh", "silu": "SWISH", "gelu": "GELU"}
    for ours, name in theirs.items():
        assert ctranslate2_table.ACTIVATIONS[ours] == common.Activation[name]


@pytest.mark.parametrize(
    "name", ["gpt1", "gpt_neo, no local layer", "gpt_j", "gpt_neox", "bert", "roberta"]
)
def test_ctranslate2_gives_the_same_outputs(name, tmp_path):
    from benchmarks.stacks.checkpoints import checkpoint

    c = checkpoint(name)
    ctranslate2_model.write(tmp_path / "out", c.config, c.params, tokenizer=c.tokenizer)
    batch = {"tokens": np.random.default_rng(1).integers(2, c.config.vocab, (3, 11), np.int32)}
    if c.config.family == "bert" and c.config.token_types > 1:
        batch["token_types"] = (np.arange(11) > 5).astype(np.int32)[None].repeat(3, 0)
    kind = "encoder" if c.config.family == "bert" else "decoder"
    made = run_client("ct2", tmp_path / "out", tmp_path, kind=kind, **batch)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(build(c.config).apply)(c.params, batch)
    found = made.keys() & ours.keys()
    assert found >= ({"features"} if kind == "encoder" else {"logits"})
    for each in found:
        assert np.abs(made[each] - np.asarray(ours[each])).max() < 1e-4


def test_ctranslate2_scores_as_t5_does(tmp_path):
    from benchmarks.stacks.checkpoints import checkpoint

    c = checkpoint("t5")
    ctranslate2_model.write(tmp_path / "out", c.config, c.params, tokenizer=c.tokenizer)
    random = np.random.default_rng(1)
    source = random.integers(5, 400, (2, 9), np.int32)
    target = random.integers(5, 400, (2, 7), np.int32)
    made = run_client(
        "ct2", tmp_path / "out", tmp_path, kind="encoder-decoder", source=source, tokens=target
    )
    start = np.full((2, 1), c.config.start, np.int32)
    batch = {"source": source, "tokens": np.concatenate([start, target[:, :-1]], axis=1)}
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(build(c.config).apply)(c.params, batch)["logits"]
    ours = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), target[..., None], -1)
    assert np.abs(made["token_log_probabilities"][:, :7] - ours[..., 0]).max() < 1e-4
