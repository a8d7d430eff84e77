"""Every field of a published config changes our config, is refused, or is known to change nothing.

A field that is read by nobody would be lost without a word: each is set to other values here.
"""

import json

import pytest
from foreign_folders import CONFIGS

from gesso.export import FolderError
from gesso.export.formats import format_for
from gesso.export.tables.fields import _HARMLESS, Fields

# Of a format: what its models have and no forward pass reads.
NOT_READ = {
    "openai-gpt": {"n_ctx"},
    "gpt2": {"n_ctx", "reorder_and_upcast_attn"},
    "gpt_neo": set(),
    "gptj": {"n_ctx"},
    "gpt_neox": set(),
    "opt": set(),
    "llama": set(),
    "mistral": set(),
    "bert": set(),
    "roberta": set(),
    "encoder-decoder": {"vocab_size", "tie_word_embeddings"},
    "t5": {"n_positions"},
}


def idle(config):
    """The fields of settings that only come into play with others, which this model lacks."""
    lacks = {
        "window_size": "local" not in getattr(config, "pattern", ()),
        "classifier_dropout": not getattr(config, "labels", 0),
        "tie_word_embeddings": "mlm" not in getattr(config, "outputs", ("mlm",)),
        "_remove_final_layer_norm": getattr(config, "norm", "pre") == "post",
        "is_decoder": config.family == "gpt",
    }
    return {name for name, without in lacks.items() if without}


def read(record, form):
    fields = Fields(json.loads(json.dumps(record)))
    config = form.read(fields)
    fields.close()
    if problems := config.problems():
        raise FolderError("; ".join(problems))
    return config


def others(value):
    """Other values of a field, of its own type and of none."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 3 * value + 4]
    if isinstance(value, float):
        return [value + 0.25, 2 * value + 0.125]
    if isinstance(value, list):
        return [[], [*value, *value]]
    if isinstance(value, dict):
        return [{**value, "another": 1}]
    return ["gelu" if value != "gelu" else "relu", "something", 7]


def changes(record, name, form):
    """Whether another value of a field is noticed: all of them must be."""
    before = read(record, form)
    for value in others(record[name]):
        try:
            if read({**record, name: value}, form) == before:
                return False
        except FolderError:
            pass
    return True


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_that_is_written_is_read(name):
    form = format_for(CONFIGS[name])
    record = form.write(CONFIGS[name])
    silent = {each for each in record if not changes(record, each, form)}
    kind = form.model_type
    assert silent <= _HARMLESS | NOT_READ[kind] | idle(CONFIGS[name])
    if kind == "encoder-decoder":
        for side in ("encoder", "decoder"):
            inside(record, side, form, getattr(CONFIGS[name], side))


def inside(record, side, form, config):
    """The fields of one side of an encoder-decoder."""
    before = read(record, form)
    silent = set()
    for name, value in record[side].items():
        for other in others(value):
            try:
                if read({**record, side: {**record[side], name: other}}, form) == before:
                    silent.add(name)
            except FolderError:
                pass
    kind = record[side]["model_type"]
    assert silent <= _HARMLESS | NOT_READ[kind] | idle(config) - {"is_decoder"}, (side, silent)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_field_that_nobody_knows_is_refused_by_name(name):
    form = format_for(CONFIGS[name])
    record = form.write(CONFIGS[name])
    with pytest.raises(FolderError, match="alibi: 'True' is a field that is not known"):
        read({**record, "alibi": True}, form)
    for side in ("encoder", "decoder"):
        if side in record:
            with pytest.raises(FolderError, match=f"{side} cannot be honoured:\n  - alibi"):
                read({**record, side: {**record[side], "alibi": True}}, form)


def test_rotary_settings_in_every_spelling():
    """Of transformers 4 as published, 4.57 as it saves them, and 5; contradictions are refused."""
    form = format_for(CONFIGS["gpt_neox"])
    record = form.write(CONFIGS["gpt_neox"]) | {"hidden_size": 48, "num_attention_heads": 3}
    old = {"rotary_pct": 0.5, "rotary_emb_base": 500.0}
    also = {"partial_rotary_factor": 0.5, "rope_theta": 500.0, "rope_scaling": None}
    new = {"rope_parameters": {"rope_type": "default", **also}}
    del new["rope_parameters"]["rope_scaling"]
    bare = {name: value for name, value in record.items() if name not in old}
    for spelled in (old, also, old | also, new, old | new):
        config = read(bare | spelled, form)
        assert (config.rotary_dims, config.rotary_base) == (8, 500.0)
    for spelled in (
        old | {"partial_rotary_factor": 0.25},
        old | {"rope_theta": 1e4},
        new | {"rotary_pct": 0.25},
        new | {"rope_parameters": {**new["rope_parameters"], "rope_type": "linear"}},
        also | {"rope_scaling": {"type": "linear", "factor": 2.0}},
    ):
        with pytest.raises(FolderError, match="contradicts|rope_type|rope_scaling"):
            read(bare | spelled, form)
