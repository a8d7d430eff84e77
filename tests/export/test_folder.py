"""I6 and I5 through folders: written and read again bit for bit; published layouts as they are."""

import dataclasses
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from foreign_folders import CONFIGS, PACKS, random_params, same, tensors_of, write_safetensors
from safetensors.numpy import load_file

from gesso.export import FolderError, read_folder, write_folder
from gesso.export.files.folder import new_folder
from gesso.models import build

GPT_PACKS = ("gpt1", "gpt2", "gpt_neo", "gpt_j", "gpt_neox")
BERT_PACKS = ("bert_pretraining", "bert_seqcls", "bert_qa", "encoder_decoder")


def pack(name):
    folder = PACKS / name
    if not folder.is_dir():
        pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_read_bit_for_bit(name, tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.export.writing.compare", lambda *a, **k: None)  # compiles; below
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    write_folder(tmp_path / "a", config, params, max_shard_bytes=4_000)
    imported = read_folder(tmp_path / "a")
    assert imported.config == config
    assert same(imported.params, params)
    write_folder(tmp_path / "b", imported.config, imported.params)
    shards = [load_file(path) for path in sorted((tmp_path / "a").glob("*.safetensors"))]
    assert len(shards) > 2
    joined = {key: x for shard in shards for key, x in shard.items()}
    whole = load_file(tmp_path / "b" / "model.safetensors")
    assert joined.keys() == whole.keys() and all((joined[k] == whole[k]).all() for k in whole)
    index = json.loads((tmp_path / "a" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in whole.values())
    a, b = ((tmp_path / each / "config.json").read_text() for each in "ab")
    assert a == b


@pytest.mark.parametrize("name", (*GPT_PACKS, *BERT_PACKS, "t5"))
def test_packs_come_back_as_the_files_they_were(name, tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.export.writing.compare", lambda *a, **k: None)
    folder = pack(name) / "open"
    imported = read_folder(folder)
    write_folder(tmp_path / "out", imported.config, imported.params)
    theirs = load_file(folder / "model.safetensors")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert {each.origin for each in imported.report} == {"loaded"}


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gpt_j", "gpt_neox"])
def test_published_layouts_give_the_published_logits(name):
    folder = pack("hub_layout") / name
    imported = read_folder(folder)
    z = np.load(folder / "reference.npz")
    with jax.default_matmul_precision("highest"):
        batch = {"tokens": z["right/input_ids"], "segments": z["right/attention_mask"]}
        logits = jax.jit(build(imported.config).apply)(imported.params, batch)["logits"]
    seen = z["right/attention_mask"] == 1
    assert np.abs(logits - z["right/logits"])[seen].max() <= 5e-5  # the pack's own tolerance
    assert imported.buffers and all("bias" in b or "inv_freq" in b for b in imported.buffers)


def test_the_published_bert_has_more_than_its_architecture_says():
    """Norms in TensorFlow's spelling, and the next-sentence head of what says BertForMaskedLM."""
    folder = pack("hub_layout") / "bert"
    imported = read_folder(folder)
    assert imported.config.outputs == ("mlm", "nsp")
    assert imported.buffers == ("bert.embeddings.position_ids",)
    z = np.load(folder / "reference.npz")
    with jax.default_matmul_precision("highest"):
        batch = {"tokens": z["right/input_ids"], "segments": z["right/attention_mask"]}
        batch["token_types"] = z["right/token_type_ids"]
        made = jax.jit(build(imported.config).apply)(imported.params, batch)
    seen = z["right/attention_mask"] == 1
    assert np.abs(made["logits"] - z["right/prediction_logits"])[seen].max() <= 5e-5
    assert np.abs(made["next_sentence"] - z["right/seq_relationship_logits"]).max() <= 5e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_weights_are_the_rounded_ones(dtype, tmp_path):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    written = write_folder(tmp_path / "out", config, params, dtype=dtype)
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    rounded = jax.tree.map(lambda x: x.astype(kind).astype(np.float32), params)
    assert same(read_folder(tmp_path / "out").params, rounded)
    assert 0 < written.agreement.apart <= written.agreement.bound
    record = json.loads((tmp_path / "out" / "config.json").read_text())
    assert record["torch_dtype"] == dtype


def test_an_export_that_does_not_give_the_outputs_is_refused(tmp_path, monkeypatch):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    from gesso.export import writing as writer

    def wrong(folder, config, params, **options):
        return compare(folder, dataclasses.replace(config, epsilon=1.0), params, **options)

    compare = writer.compare
    monkeypatch.setattr(writer, "compare", wrong)
    with pytest.raises(FolderError, match="does not give the model's outputs: logits differ by"):
        write_folder(tmp_path / "out", config, params)
    assert list(tmp_path.iterdir()) == []


def test_a_tied_head_is_what_the_tensors_say(tmp_path):
    config = CONFIGS["gpt2"]
    params = random_params(config)
    folder = tmp_path / "out"
    write_folder(folder, config, params)
    (folder / "gesso_export.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    embed = tensors["transformer.wte.weight"]
    write_safetensors(folder / "model.safetensors", tensors | {"lm_head.weight": embed})
    equal = read_folder(folder)
    assert equal.config.head == "tied" and same(equal.params, params)
    tied = [each for each in equal.report if each.origin == "tied"]
    assert [(each.path, each.tensors) for each in tied] == [("embed", "lm_head.weight")]
    write_safetensors(folder / "model.safetensors", tensors | {"lm_head.weight": embed + 1})
    untied = read_folder(folder)
    assert untied.config.head == "untied"
    assert (untied.params["head_table"] == embed + 1).all()
    del tensors["transformer.wte.weight"]
    write_safetensors(folder / "model.safetensors", tensors | {"lm_head.weight": embed})
    assert same(read_folder(folder).params, params)


def test_a_vocabulary_padded_and_cropped_is_the_same_model(tmp_path):
    config, params = CONFIGS["gpt_j"], random_params(CONFIGS["gpt_j"])
    write_folder(tmp_path / "a", config, params)
    padded = read_folder(tmp_path / "a", vocab=40, positions=32)
    assert padded.config == dataclasses.replace(config, vocab=40, positions=32)
    origins = {each.path: each.origin for each in padded.report}
    resized = {path for path, origin in origins.items() if origin == "resized"}
    assert resized == {"embed", "head_table", "head_bias"}
    written = write_folder(tmp_path / "b", padded.config, padded.params, vocab=37)
    assert written.agreement.apart <= 1e-5
    a, b = (load_file(tmp_path / each / "model.safetensors") for each in "ab")
    assert all(np.array_equal(a[key], b[key]) for key in a)
    longer = read_folder(tmp_path / "a", positions=48)
    assert same(longer.params, params)  # rotary positions have no table


def test_learned_positions_are_extended_by_name(tmp_path):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    write_folder(tmp_path / "a", config, params)
    longer = read_folder(tmp_path / "a", positions=30)
    assert longer.config.positions == 30
    table = params["positions"]
    assert (longer.params["positions"] == np.concatenate([table, table[:6]])).all()
    assert [e.path for e in longer.report if e.origin == "resized"] == ["positions"]


def test_a_new_head_is_drawn_only_where_it_is_named(tmp_path):
    config, params = CONFIGS["gpt_neox"], random_params(CONFIGS["gpt_neox"])
    write_folder(tmp_path / "a", config, params)
    (tmp_path / "a" / "gesso_export.json").unlink()
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    del tensors["embed_out.weight"]
    write_safetensors(tmp_path / "a" / "model.safetensors", tensors)
    with pytest.raises(FolderError, match=r"embed_out.weight \[37, 12\] \(head_table\) is missing"):
        read_folder(tmp_path / "a")
    fresh = read_folder(tmp_path / "a", fresh=("head*",), seed=3)
    assert [e.path for e in fresh.report if e.origin == "fresh"] == ["head_table"]
    assert (fresh.params["embed"] == params["embed"]).all()
    again = read_folder(tmp_path / "a", fresh=("head*",), seed=3)
    assert same(fresh.params, again.params)
    assert 0.5 < fresh.params["head_table"].std() / config.init_std < 2


def test_the_base_model_alone_has_no_prefix(tmp_path):
    for name in ("gpt2", "gpt_neox-other"):
        config, params = CONFIGS[name], random_params(CONFIGS[name])
        folder = tmp_path / name
        write_folder(folder, config, params)
        (folder / "gesso_export.json").unlink()
        bare = {
            key.removeprefix("transformer.").removeprefix("gpt_neox."): x
            for key, x in tensors_of(config, params).items()
        }
        write_safetensors(folder / "model.safetensors", bare)
        assert same(read_folder(folder).params, params)


def test_only_an_earlier_export_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.export.writing.compare", lambda *a, **k: None)
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    out = tmp_path / "out"
    write_folder(out, config, params)
    other = random_params(config, seed=1)
    write_folder(out, config, other)
    assert same(read_folder(out).params, other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderError, match=r"not empty and not an earlier export \(thesis.tex\)"):
        write_folder(tmp_path / "mine", config, params)
    with pytest.raises(FolderError, match="is a file"):
        write_folder(tmp_path / "mine" / "thesis.tex", config, params)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine", "out"]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", mine=lambda _: True) as part:
        (part / "half").write_text("half")
        raise RuntimeError
    assert [each.name for each in Path(tmp_path).rglob("*")] == ["out", "kept"]


def test_params_of_another_config_are_refused(tmp_path):
    with pytest.raises(FolderError, match="not those of the config: head_table"):
        write_folder(tmp_path / "a", CONFIGS["gpt2-other"], random_params(CONFIGS["gpt2"]))


def test_settings_without_a_published_format_are_named(tmp_path):
    config = dataclasses.replace(CONFIGS["gpt2"], pattern=("local",), window=4)
    with pytest.raises(FolderError, match="only gpt_neo has local attention"):
        write_folder(tmp_path / "a", config, random_params(config))


@pytest.mark.parametrize("scale", ["head_dim", "none", "layer", "head_dim_and_layer"])
def test_scales_that_transformers_4_would_drop_ask_it_for_another_kernel(scale, tmp_path):
    config = dataclasses.replace(CONFIGS["gpt2"], attention_scale=scale)
    written = tmp_path / "written"
    write_folder(written, config, random_params(config))
    record = json.loads((written / "config.json").read_text())
    assert record.get("_attn_implementation") == (None if scale == "head_dim" else "eager")
    assert read_folder(written).config == config


def test_of_two_biases_that_differ_the_products_own_is_read(tmp_path, monkeypatch):
    """As transformers does: the other one is a parameter that training never touched."""
    monkeypatch.setattr("gesso.export.writing.compare", lambda *a, **k: None)
    config = CONFIGS["bert-masked"]
    folder = tmp_path / "out"
    write_folder(folder, config, random_params(config))
    (folder / "gesso_export.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    name = "cls.predictions.bias"
    assert (tensors[name] == tensors["cls.predictions.decoder.bias"]).all()
    write_safetensors(folder / "model.safetensors", tensors | {name: 0 * tensors[name]})
    imported = read_folder(folder)
    assert (imported.params["mlm"]["bias"] == tensors["cls.predictions.decoder.bias"]).all()
    assert imported.buffers == (name,)
