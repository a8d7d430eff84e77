"""Every field of every config of ours, in every format: expressed, or refused by its name.

The fields are those the dataclasses have, so that a new one is tried without an edit here. A config
that a format does not refuse is written, and read again from the written file alone.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from foreign_folders import CONFIGS, T5, TEXT, random_params
from other_settings import getattr_path, variations

from gesso.export.agreement import Agreement
from gesso.export.families import elmo
from gesso.export.formats import formats_of
from gesso.export.stacks import stablehlo
from gesso.export.stacks.declared import declarations
from gesso.export.stacks.elmo_folder import declaration as elmo_declared
from gesso.export.stacks.shared import record_of
from gesso.export.stacks.stacks import write_stack
from gesso.export.stacks.to_ctranslate2 import model as ctranslate2_model
from gesso.export.stacks.to_ctranslate2.file import CTranslate2File
from gesso.export.stacks.to_ctranslate2.reading import config_of as ctranslate2_config
from gesso.export.stacks.to_gguf import model as gguf_model
from gesso.export.tables.expressible import EveryField, Expressible, Inexpressible
from gesso.export.tables.fields import Fields
from gesso.finetune.adapters import peft_folder
from gesso.models import BERTConfig, ELMoConfig, EncoderDecoderConfig, Seq2SeqConfig, build
from gesso.models.adapters import adapters
from gesso.models.adapters.config import AdapterConfig

ELMO = ELMoConfig(
    vocab=30, characters=8, character_embed=3, filters=((1, 4), (2, 3)), embed=6, cell=10, layers=2
)
BASES = CONFIGS | {
    "elmo": ELMO,
    "elmo-words": dataclasses.replace(ELMO, reads="words", head="tied"),
    "gpt_neo-one": dataclasses.replace(CONFIGS["gpt_neo-other"], pattern=("global",)),
    "gpt2-labels": dataclasses.replace(CONFIGS["gpt2"], outputs=("classify",), labels=3),
    "bertshare": EncoderDecoderConfig(
        encoder=BERTConfig(**TEXT), decoder=BERTConfig(**TEXT), tie="encoder_decoder"
    ),
    "transformer": Seq2SeqConfig(**{k: v for k, v in T5.items() if k in TEXT or "layers" in k}),
}
PUBLISHED = {form.model_type: form for each in BASES.values() for form in formats_of(each.family)}
PUBLISHED["elmo"] = elmo.FORMAT


@functools.cache
def tried(name):
    return variations(BASES[name])


def bases_of(declared, family):
    """The configs that a format expresses as they are."""
    return [
        name
        for name, config in BASES.items()
        if config.family == family and not declared.problems(config)
    ]


def adapter_problems(declared, variation):
    """Whether a format refuses a variation; it must name one of the fields that differ."""
    told = "; ".join(problem.told for problem in declared.problems(variation.config))
    assert not told or any(f"model.{name}" in told for name in variation.names), (variation, told)
    return bool(told)


def function_of(declared, config):
    """The settings that say what a model computes, as JSON has them."""
    found = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name in declared.sides:
            found[each.name] = function_of(declared.sides[each.name](value), value)
        elif each.name not in declared.neutral(config):
            found[each.name] = set(value) if each.name in ("biases", "outputs") else value
    if config.family == "bert" and {"nsp", "classify"} & found["outputs"]:
        found["outputs"] |= {"pooler"}  # which they bring
    if "pattern" in found:
        found["pattern"] = config.kinds  # however it is spelled
    return found


def close(a, b):
    """Equal, but for numbers that a file has in float32."""
    if isinstance(a, float):
        return np.isclose(a, b, rtol=1e-6)
    return a == b


def differing(declared, a, b):
    one, other = function_of(declared, a), function_of(declared, b)
    return [name for name in one.keys() | other.keys() if not close(one.get(name), other.get(name))]


@pytest.mark.parametrize("family", sorted({each.family for each in BASES.values()}))
def test_every_field_has_another_value(family):
    """But for the family, every field is tried, in a model of its own."""
    fields = {f.name for c in BASES.values() if c.family == family for f in dataclasses.fields(c)}
    bases = [name for name in BASES if BASES[name].family == family]
    assert fields - {v.field for name in bases for v in tried(name)} == {"family"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_says_every_setting_or_refuses_it(name):
    form = PUBLISHED[name]
    declared = form.expresses
    checked = set()
    for base in bases_of(declared, form.family):
        for each in tried(base):
            if adapter_problems(declared, each):
                continue
            config = each.config
            record = json.loads(json.dumps(form.write(config)))
            fields = Fields(record)
            read = form.read(fields)
            fields.close()
            read = form.settle(read, [row.theirs for row in form.table(config)])
            assert not differing(declared, read, config), f"{name} does not say {each}"
            checked.add(each.field)
    assert checked or name in ("xlm-roberta", "camembert")


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox-other", "bert", "t5"])
def test_ctranslate2_says_every_setting_or_refuses_it(name, tmp_path, monkeypatch):
    spec_of = ctranslate2_model.spec_of
    made = []

    def check(folder, spec, config, params, dtype):
        file = CTranslate2File(folder / "model.bin")
        made.append((spec.config, ctranslate2_config(folder, file, spec.config)))
        return Agreement(apart=0.0, bound=0.0, outputs=())

    assert spec_of is ctranslate2_model.spec_of
    monkeypatch.setattr(ctranslate2_model, "_check", check)
    monkeypatch.setattr("gesso.export.files.folder.sync_tree", lambda path: None)
    declared = ctranslate2_model.EXPRESSES[BASES[name].family]
    _written_says(name, declared, ctranslate2_model.write, made, tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox-other", "bert"])
def test_gguf_says_every_setting_or_refuses_it(name, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from gesso.export.stacks.to_gguf.reading import GGUFFile, config_of

    made = []

    def check(path, graph, config, params, dtype):
        activation = graph.config.activation  # llama.cpp has one gelu
        made.append((graph.config, config_of(GGUFFile(path), activation=activation)))
        return Agreement(apart=0.0, bound=0.0, outputs=())

    monkeypatch.setattr(gguf_model, "_check", check)
    monkeypatch.setattr("gesso.export.files.folder.sync_tree", lambda path: None)
    declared = gguf_model.EXPRESSES[BASES[name].family]
    _written_says(name, declared, gguf_model.write, made, tmp_path)


def _written_says(name, declared, write, made, tmp_path):
    seen = set()
    for each in tried(name):
        neutral = each.field in declared.neutral(each.config)
        if adapter_problems(declared, each) or neutral or (each.field, len(each.names)) in seen:
            continue
        seen.add((each.field, len(each.names)))
        write(tmp_path / "out", each.config, random_params(each.config))
        ours, theirs = made.pop()
        assert not differing(declared, theirs, ours), f"the file does not say {each}"
    assert seen


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_an_adapter_folder_says_every_setting_or_refuses_it(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.export.files.folder.sync_tree", lambda path: None)
    base = BASES["gpt2"]
    model, key = build(base), jax.random.key(0)
    params = jax.eval_shape(model.init, key)
    seen = set()
    for each in variations(AdapterConfig(kind=kind)):
        config = each.config
        if problems := peft_folder.EXPRESSES.problems(config):
            assert any(f"adapter.{name}" in problems[0].told for name in each.names)
        elif each.field not in seen and not config.misfits(base):
            seen.add(each.field)
            if adapters.adapter_problems(config, base, model.letters):
                continue
            drawn = adapters.init(config, key, params, model.letters)
            adapter = jax.tree.map(lambda x: np.full(x.shape, 0.1, np.float32), drawn)
            peft_folder.write_adapter(tmp_path / "out", model, config, adapter)
            read = peft_folder.read_adapter(tmp_path / "out", model).config
            assert (read.kind, read.dropout) == (config.kind, config.dropout)
            if kind == "lora":
                assert read.scale == pytest.approx(config.scale) and read.scaling == config.scaling
            else:
                assert read.tokens == config.tokens


def test_formats_of_our_own_program_lose_no_setting():
    for name, base in BASES.items():
        whole = {n: d for n, d in declarations(base.family) if isinstance(d, EveryField)}
        assert whole.keys() == {"onnx", "stablehlo", "orbax-params"}
        for each in tried(name):
            traced = stablehlo.portable(each.config)
            assert {
                field
                for field in function_of_all(each.config)
                if getattr_path(traced, field) != getattr_path(each.config, field)
            } <= {"attention", "encoder.attention", "decoder.attention"}
            kept = json.loads(json.dumps(record_of(each.config)))
            assert kept == json.loads(json.dumps(dataclasses.asdict(each.config)))


def function_of_all(config, before=""):
    found = []
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            found += function_of_all(value, f"{before}{each.name}.")
        else:
            found.append(before + each.name)
    return found


@pytest.mark.parametrize("family", sorted({each.family for each in BASES.values()}))
def test_declarations_name_fields_that_there_are(family):
    config = next(each for each in BASES.values() if each.family == family)
    fields = {each.name for each in dataclasses.fields(config)}
    declared = dict(declarations(family))
    for each in declared.values():
        if isinstance(each, Expressible):
            named = {*each.fields, *each.only, *each.rules, *each.sides, *each.neutral(config)}
            assert named <= fields, each.format
    assert (elmo_declared(family) is not None) == (family == "elmo") == ("elmo" in declared)


def test_a_refusal_names_the_setting_its_value_and_who_can(tmp_path):
    config, params = CONFIGS["gpt1-relu"], random_params(CONFIGS["gpt1-relu"])
    with pytest.raises(Inexpressible) as refusal:
        write_stack(tmp_path / "out", config, params, format="gguf")
    told = str(refusal.value)
    assert {each.field for each in refusal.value.problems} == {"norm", "activation"}
    assert "gguf has no model.norm 'post': llama.cpp has no decoder that normalises" in told
    able = "hf (openai-gpt), hf (opt), onnx, ctranslate2, stablehlo, orbax-params"
    assert f"model.norm can be expressed by: {able}" in told
    assert list(tmp_path.iterdir()) == []


def test_a_field_that_a_declaration_does_not_know_must_have_its_default():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Newer(type(CONFIGS["gpt2"])):
        alibi: int = 0

    config = Newer(**{f.name: getattr(CONFIGS["gpt2"], f.name) for f in dataclasses.fields(TYPE)})
    newer = dataclasses.replace(config, alibi=2)
    for name, declared in declarations("gpt"):
        before = {each.field for each in declared.problems(config)}
        after = {each.field for each in declared.problems(newer)}
        assert after - before == (set() if isinstance(declared, EveryField) else {"alibi"})
        assert name


TYPE = type(CONFIGS["gpt2"])
