"""Reference packs: Hugging Face names and layouts to our tree and back, for tests only.

A row of a table: our parameter, their tensor, and their layout in our letters. `(NH)` is N and H in
one dim, `{Z}` one tensor per layer, C the q, k and v of one fused tensor.
"""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from models.config import GPTConfig

PACKS = Path(__file__).resolve().parents[3] / "shared" / "packs"
FAMILIES = ("gpt1", "gpt2", "gpt_neo", "gpt_j", "gpt_neox")


def norms(ours, theirs):
    return [
        (f"blocks/{ours}/scale", f"{theirs}.weight", "D"),
        (f"blocks/{ours}/bias", f"{theirs}.bias", "D"),
    ]


def mlp(up, down, *, transposed):
    return [
        ("blocks/mlp/up", f"{up}.weight", "DF" if transposed else "FD"),
        ("blocks/mlp/up_bias", f"{up}.bias", "F"),
        ("blocks/mlp/down", f"{down}.weight", "FD" if transposed else "DF"),
        ("blocks/mlp/down_bias", f"{down}.bias", "D"),
    ]


FUSED = "blocks/attention/{C:q,k,v}"
CONV1D = [
    (FUSED, "transformer.h.{Z}.attn.c_attn.weight", "D(CNH)"),
    (FUSED + "_bias", "transformer.h.{Z}.attn.c_attn.bias", "(CNH)"),
    ("blocks/attention/out", "transformer.h.{Z}.attn.c_proj.weight", "(NH)D"),
    ("blocks/attention/out_bias", "transformer.h.{Z}.attn.c_proj.bias", "D"),
    *mlp("transformer.h.{Z}.mlp.c_fc", "transformer.h.{Z}.mlp.c_proj", transposed=True),
    *norms("attention_norm", "transformer.h.{Z}.ln_1"),
    *norms("mlp_norm", "transformer.h.{Z}.ln_2"),
]
FINAL = [
    ("norm/scale", "transformer.ln_f.weight", "D"),
    ("norm/bias", "transformer.ln_f.bias", "D"),
]
ABSOLUTE = [
    ("embed", "transformer.wte.weight", "VD"),
    ("positions", "transformer.wpe.weight", "SD"),
]


def split(theirs, out):
    return [
        *((f"blocks/attention/{x}", f"{theirs}.{x}_proj.weight", "(NH)D") for x in "qkv"),
        ("blocks/attention/out", f"{theirs}.{out}.weight", "D(NH)"),
    ]


TABLES = {
    "gpt1": [
        ("embed", "transformer.tokens_embed.weight", "VD"),
        ("positions", "transformer.positions_embed.weight", "SD"),
        *CONV1D,
    ],
    "gpt2": [*ABSOLUTE, *CONV1D, *FINAL],
    "gpt_neo": [
        *ABSOLUTE,
        *split("transformer.h.{Z}.attn.attention", "out_proj"),
        ("blocks/attention/out_bias", "transformer.h.{Z}.attn.attention.out_proj.bias", "D"),
        *mlp("transformer.h.{Z}.mlp.c_fc", "transformer.h.{Z}.mlp.c_proj", transposed=False),
        *norms("attention_norm", "transformer.h.{Z}.ln_1"),
        *norms("mlp_norm", "transformer.h.{Z}.ln_2"),
        *FINAL,
    ],
    "gpt_j": [
        ("embed", "transformer.wte.weight", "VD"),
        *split("transformer.h.{Z}.attn", "out_proj"),
        *mlp("transformer.h.{Z}.mlp.fc_in", "transformer.h.{Z}.mlp.fc_out", transposed=False),
        *norms("attention_norm", "transformer.h.{Z}.ln_1"),
        *FINAL,
        ("head_table", "lm_head.weight", "VD"),
        ("head_bias", "lm_head.bias", "V"),
    ],
    "gpt_neox": [
        ("embed", "gpt_neox.embed_in.weight", "VD"),
        (FUSED, "gpt_neox.layers.{Z}.attention.query_key_value.weight", "(NCH)D"),
        (FUSED + "_bias", "gpt_neox.layers.{Z}.attention.query_key_value.bias", "(NCH)"),
        ("blocks/attention/out", "gpt_neox.layers.{Z}.attention.dense.weight", "D(NH)"),
        ("blocks/attention/out_bias", "gpt_neox.layers.{Z}.attention.dense.bias", "D"),
        *mlp(
            "gpt_neox.layers.{Z}.mlp.dense_h_to_4h",
            "gpt_neox.layers.{Z}.mlp.dense_4h_to_h",
            transposed=False,
        ),
        *norms("attention_norm", "gpt_neox.layers.{Z}.input_layernorm"),
        *norms("mlp_norm", "gpt_neox.layers.{Z}.post_attention_layernorm"),
        ("norm/scale", "gpt_neox.final_layer_norm.weight", "D"),
        ("norm/bias", "gpt_neox.final_layer_norm.bias", "D"),
        ("head_table", "embed_out.weight", "VD"),
    ],
}


class Pack:
    """One family's folder: `.config`, `.z` (reference arrays), `.manifest`, `.tensors(name)`."""

    def __init__(self, family):
        self.family, self.folder = family, PACKS / family / "open"
        if not self.folder.is_dir():
            pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.config = gpt_config(json.loads((self.folder / "config.json").read_text()))
        self.z = np.load(self.folder / "reference.npz")

    def tensors(self, name):
        return load_file(self.folder / f"{name}.safetensors")

    def read(self, tensors, letters):
        """Their tensors -> our params; the table must name all of both."""
        letters, params, used = flat(letters), {}, set()
        for ours, theirs, layout in TABLES[self.family]:
            names, sizes, index, dims = plan(ours, theirs, layout, self.config)
            x = np.empty([sizes[i] for i in index + "".join(dims)], np.float32)
            for i in itertools.product(*(range(sizes[i]) for i in index)):
                name = theirs.format(**dict(zip(index, i, strict=True)))
                used.add(name)
                x[i] = tensors[name].reshape(x.shape[len(i) :])
            order = index + "".join(dims)
            stacked = ("C" if len(names) > 1 else "") + letters[names[0]]
            x = x.transpose([order.index(i) for i in stacked])
            params |= dict(zip(names, x if len(names) > 1 else [x], strict=True))
        assert used == tensors.keys() and params.keys() == letters.keys()
        return nest(params)

    def write(self, params, letters):
        """Our params -> their tensors."""
        letters, params, tensors = flat(letters), flat(params), {}
        for ours, theirs, layout in TABLES[self.family]:
            names, sizes, index, dims = plan(ours, theirs, layout, self.config)
            arrays = [np.asarray(params[name]) for name in names]
            stacked = ("C" if len(names) > 1 else "") + letters[names[0]]
            x = np.stack(arrays) if len(names) > 1 else arrays[0]
            x = x.transpose([stacked.index(i) for i in index + "".join(dims)])
            shape = [int(np.prod([sizes[i] for i in each])) for each in dims]
            for i in itertools.product(*(range(sizes[i]) for i in index)):
                tensors[theirs.format(**dict(zip(index, i, strict=True)))] = x[i].reshape(shape)
        return tensors


def plan(ours, theirs, layout, config):
    group = re.search(r"\{C:([^}]+)\}", ours)
    names = [ours.replace(group[0], n) for n in group[1].split(",")] if group else [ours]
    dims = [a or b for a, b in re.findall(r"\(([A-Z]+)\)|([A-Z])", layout)]
    return (
        names,
        config.sizes | {"C": len(names)},
        "".join(re.findall(r"\{([A-Z])\}", theirs)),
        dims,
    )


def flat(tree, prefix=""):
    out = {}
    for name, each in tree.items():
        out |= flat(each, f"{prefix}{name}/") if isinstance(each, dict) else {prefix + name: each}
    return out


def nest(params):
    tree = {}
    for path, value in params.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return tree


def gpt_config(c):
    """A Hugging Face config.json -> GPTConfig, every field that changes a number."""
    gelu = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
    if c["model_type"] == "gpt_neox":
        head_dim = c["hidden_size"] // c["num_attention_heads"]
        return GPTConfig(
            vocab=c["vocab_size"],
            positions=c["max_position_embeddings"],
            layers=c["num_hidden_layers"],
            embed=c["hidden_size"],
            heads=c["num_attention_heads"],
            mlp=c["intermediate_size"],
            position_encoding="rotary",
            rotary_dims=int(head_dim * c["rope_parameters"]["partial_rotary_factor"]),
            rotary_base=c["rope_parameters"]["rope_theta"],
            rotation="half",
            block="parallel" if c["use_parallel_residual"] else "sequential",
            biases=("qkv", "attention_out", "mlp") if c["attention_bias"] else ("mlp",),
            head="tied" if c["tie_word_embeddings"] else "untied",
            activation=gelu[c["hidden_act"]],
            epsilon=c["layer_norm_eps"],
        )
    if c["model_type"] == "gpt_neo":
        pattern = [kind for kinds, n in c["attention_types"] for kind in kinds * n]
        return GPTConfig(
            vocab=c["vocab_size"],
            positions=c["max_position_embeddings"],
            layers=c["num_layers"],
            embed=c["hidden_size"],
            heads=c["num_heads"],
            mlp=c["intermediate_size"] or 4 * c["hidden_size"],
            pattern=tuple(pattern),
            window=c["window_size"] if "local" in pattern else 0,
            attention_scale="none",
            padding="reach",
            biases=("attention_out", "mlp"),
            activation=gelu[c["activation_function"]],
            epsilon=c["layer_norm_epsilon"],
        )
    common = {
        "vocab": c["vocab_size"],
        "positions": c["n_positions"],
        "layers": c["n_layer"],
        "embed": c["n_embd"],
        "heads": c["n_head"],
        "mlp": c.get("n_inner") or 4 * c["n_embd"],
        "epsilon": c["layer_norm_epsilon"],
        "head": "tied" if c["tie_word_embeddings"] else "untied",
    }
    if c["model_type"] == "gptj":
        return GPTConfig(
            **common,
            position_encoding="rotary",
            rotary_dims=c["rotary_dim"],
            block="parallel_shared_norm",
            biases=("mlp", "head"),
            activation=gelu[c["activation_function"]],
        )
    if c["model_type"] == "openai-gpt":  # its "gelu" is the tanh approximation
        activation = {"gelu": "gelu_tanh"}[c["afn"]]
        return GPTConfig(**common, norm="post", padding="later", activation=activation)
    scales = {
        (True, False): "head_dim",
        (True, True): "head_dim_and_layer",
        (False, True): "layer",
        (False, False): "none",
    }
    by = (c["scale_attn_weights"], c["scale_attn_by_inverse_layer_idx"])
    return GPTConfig(
        **common, attention_scale=scales[by], activation=gelu[c["activation_function"]]
    )
