"""PEFT folders written and read without peft, and the commands around them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gesso import configs
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.export.files.tensors import FolderError
from gesso.finetune.adapters.peft_folder import CONFIG, WEIGHTS, read_adapter, write_adapter
from gesso.finetune.adapters.peft_layout import modules_of
from gesso.launch import cli
from gesso.models import build
from gesso.models.adapters.adapters import init
from gesso.models.adapters.config import AdapterConfig
from gesso.models.adapters.merge import product
from gesso.models.config import BERTConfig, GPTConfig
from gesso.models.trees import flat
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.config import CheckpointConfig, StartConfig
from gesso.pretrain.exits import DONE, REFUSED
from gesso.pretrain.experiment import override, to_json
from gesso.pretrain.open import open_run
from gesso.pretrain.session import run
from gesso.storage.files import write_json

GPT = GPTConfig(vocab=60, positions=40, layers=2, embed=16, heads=2, mlp=32)
NEOX = dataclasses.replace(
    GPT,
    position_encoding="rotary",
    rotary_dims=4,
    rotation="half",
    block="parallel",
    activation="gelu",
    head="untied",
)
TINY = {
    "data.store": "embedded:bytes:0.3",
    "model.layers": 2,
    "model.embed": 16,
    "model.mlp": 32,
    "model.positions": 40,
    "length": 32,
    "batch": 8,
    "steps": 2,
    "evaluation.every_steps": 0,
    "evaluation.rows": 4,
    "evaluation.sample_every_steps": 0,
}


def moved(config, model):
    adapter = init(config, jax.random.key(0), model.init(jax.random.key(1)), model.letters)
    return jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), adapter
    )


@pytest.mark.parametrize(
    ("model_config", "targets"),
    [
        (GPT, ()),
        (GPT, ("*attention/k", "*attention/out", "*mlp/*")),
        (NEOX, ("embed", "*attention/v", "*attention/q", "*mlp/down")),
    ],
    ids=["fused q and v", "several ranks", "words and interleaved heads"],
)
@pytest.mark.parametrize("scaling", ["rank", "sqrt_rank"])
def test_a_lora_comes_back_the_same(model_config, targets, scaling, tmp_path):
    model = build(model_config)
    config = AdapterConfig(kind="lora", rank=3, alpha=5, targets=targets, scaling=scaling)
    adapter = moved(config, model)
    write_adapter(tmp_path / "out", model, config, adapter, base="the-base")
    record = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert record["base_model_name_or_path"] == "the-base"
    read = read_adapter(tmp_path / "out", model)
    assert read.config.rank == 3
    assert read.config.scale == pytest.approx(config.scale, rel=1e-12)
    ours, its, letters = flat(adapter), flat(read.adapter), flat(model.letters)
    assert ours.keys() == its.keys()
    for name in {each.rpartition("/")[0] for each in ours}:
        a, b = (
            product(part[f"{name}/a"], part[f"{name}/b"], letters[name], scale)
            for part, scale in ((ours, config.scale), (its, read.config.scale))
        )
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_model_without_head_has_its_modules_alone():
    """peft finds a module by its name in BertModel, where there is no `bert.` before it."""
    small, names = BERTConfig(layers=1, embed=16, heads=2, mlp=32), {}
    for outputs in ((), ("pooler",), ("mlm",)):
        model = build(dataclasses.replace(small, outputs=outputs))
        (query, *_) = modules_of(model, {"blocks/attention/q": None})
        names[outputs] = query.name
    inner = "encoder.layer.0.attention.self.query"
    assert names == {(): inner, ("pooler",): inner, ("mlm",): f"bert.{inner}"}
    (query, *_) = modules_of(build(NEOX), {"blocks/attention/q": None})
    assert query.name == "gpt_neox.layers.0.attention.query_key_value"


def test_a_prompt_comes_back_as_what_its_network_makes(tmp_path):
    from gesso.models.adapters.virtual import virtual

    model = build(GPT)
    config = AdapterConfig(kind="prompt", tokens=3, reparametrize="mlp")
    adapter = moved(config, model)
    write_adapter(tmp_path / "out", model, config, adapter)
    read = read_adapter(tmp_path / "out", model)
    assert read.config == AdapterConfig(kind="prompt", tokens=3)
    np.testing.assert_array_equal(read.adapter["virtual"], virtual(config, adapter))


def test_folders_that_do_not_fit_are_refused_by_name(tmp_path):
    model, config = build(GPT), AdapterConfig(kind="lora")
    write_adapter(tmp_path / "out", model, config, moved(config, model))
    path = tmp_path / "out" / CONFIG
    record = json.loads(path.read_text())

    def said(change, model=model):
        path.write_text(json.dumps(record | change))
        with pytest.raises(FolderError) as error:
            read_adapter(tmp_path / "out", model)
        return str(error.value)

    assert "use_dora: True is not supported" in said({"use_dora": True})
    # These starts changed the base's weights: the adapter is not one of the base as published.
    for start in ("pissa", "olora", "corda", "loftq", "lora_ga"):
        assert f"init_lora_weights: '{start}'" in said({"init_lora_weights": start})
    assert "gated: 'True' is a field that is not known for adapters" in said({"gated": True})
    assert "peft_type 'IA3'" in said({"peft_type": "IA3"})
    assert "no module of this model has" in said({}, build(dataclasses.replace(GPT, layers=1)))
    (tmp_path / "out" / WEIGHTS).unlink()
    assert "it is not an adapter of peft's" in said({})
    with pytest.raises(FolderError, match="not written for peft"):
        write_adapter(tmp_path / "x", model, AdapterConfig(kind="ia3"), {})


# Fields whose other values change nothing of what is computed; the tensors say the rest.
IDLE = {"inference_mode", "base_model_name_or_path", "task_type", "target_modules", "rank_pattern"}
IDLE |= {"fan_in_fan_out", "num_attention_heads", "num_layers", "prompt_tuning_init"}
IDLE |= {"init_lora_weights"}  # as far as it leaves the base alone


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_every_field_of_a_folder_changes_the_adapter_or_is_refused(kind, tmp_path):
    model, config = build(GPT), AdapterConfig(kind=kind)
    write_adapter(tmp_path / "out", model, config, moved(config, model))
    path = tmp_path / "out" / CONFIG
    record, before = json.loads(path.read_text()), read_adapter(tmp_path / "out", model)
    silent = set()
    for name, value in record.items():
        other = not value if isinstance(value, bool) else 2 * value if value else 7
        path.write_text(json.dumps(record | {name: other if value != {} else {".*attn": 7}}))
        try:
            after = read_adapter(tmp_path / "out", model)
        except FolderError as error:
            assert name in str(error)
            continue
        if before.config == after.config and all(
            np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves(before.adapter), jax.tree.leaves(after.adapter), strict=True
            )
        ):
            silent.add(name)
    # A module's own rank is that of its tensors; r is the scale's where alpha has a pattern.
    assert silent <= IDLE, silent


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "base"
    experiment = override(configs.experiment("debug-gpt2"), TINY)
    tokenizer = load_tokenizer("bytes")
    write_json(folder / "experiment.json", to_json(experiment))
    save_tokenizer(tokenizer, folder / "tokenizer")
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(), log=lambda text: None)
    told = {"tokenizer": tokenizer.fingerprint, "experiment": to_json(experiment)}
    params = jax.jit(build(experiment.model).init)(jax.random.key(3))
    checkpoints.save(0, {"params": params}, told)
    checkpoints.close()
    return folder


def test_from_a_run_to_peft_and_back_and_merged(base, tmp_path, capsys):
    lora = AdapterConfig(kind="lora", rank=2)
    asked = override(configs.experiment("debug-gpt2"), TINY)
    asked = dataclasses.replace(asked, adapter=lora, start=StartConfig(source=str(base)))
    run(asked, folder=tmp_path / "run")
    at = {name: str(tmp_path / name) for name in ("run", "peft", "back", "merged")}
    assert cli.main(["adapter", "export", at["run"], at["peft"], "--json"]) == DONE
    command = ["adapter", "import", at["peft"], at["back"], "--base", str(base)]
    assert cli.main(command) == DONE
    assert cli.main(["adapter", "merge", at["run"], at["merged"], "--json"]) == DONE
    text = capsys.readouterr().out
    merged = json.loads(text[text.rindex('{\n  "changed') :])
    assert merged["lost"]["float32"] < 0.01 < merged["lost"]["bfloat16"]
    opened = {name: open_run(at[name]) for name in ("run", "back", "merged")}
    for name, leaf in flat(opened["run"].params).items():
        for other in ("back", "merged"):
            np.testing.assert_allclose(flat(opened[other].params)[name], leaf, atol=1e-7)
    assert cli.main(command) == REFUSED
    assert "runs are never overwritten" in capsys.readouterr().err
    # What was taken over is trained on, over its base.
    taken = dataclasses.replace(opened["back"].experiment, steps=2)
    assert run(taken, folder=at["back"], named=("steps",)).step == 2


def test_commands_say_what_to_do(base, tmp_path, capsys):
    assert cli.main(["adapter", "merge", str(base), str(tmp_path / "x")]) == REFUSED
    assert "trained no adapter" in capsys.readouterr().err
    assert cli.main(["adapter", "import", str(base), str(tmp_path / "x")]) == REFUSED
    assert "--base RUN" in capsys.readouterr().err
    assert cli.main(["adapter", "merge", "--help"]) == DONE
    assert "gesso adapter merge runs/debug-lora" in capsys.readouterr().out
