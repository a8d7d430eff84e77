"""OPT (https://arxiv.org/abs/2205.01068) as published: config.json, names and layouts."""

from gesso.export.families import gpt_labels
from gesso.export.families.gpt_base import (
    ACTIVATIONS,
    ALL_BIASES,
    SPELLED,
    Keys,
    biases_only,
    decodes,
    expressible,
    read_shared,
)
from gesso.export.families.linear import linear, norm
from gesso.export.files.tensors import Record
from gesso.export.tables.fields import Fields
from gesso.export.tables.format import Format, Tie
from gesso.export.tables.tables import Row
from gesso.models.gpt.config import GPTConfig

_KEYS = Keys(epsilon="", init_std="init_std", residual_dropout="dropout")
_OFFSET = 2  # rows of the table of positions before that of a document's first token
_EPSILON = 1e-5  # torch's default: config.json has no word for another
OPT = expressible(
    "opt",
    fields=("word_embed", "norm", "final_norm"),
    only={"first_position": [_OFFSET], "epsilon": [_EPSILON]},
    rules={"biases": biases_only(ALL_BIASES, ())},
)


def read(f: Fields) -> GPTConfig:
    """GPTConfig of a config.json."""
    decodes(f)
    for never_learnt in ("activation_dropout", "layerdrop"):
        f.only(never_learnt, 0, 0.0)
    f.only("layer_norm_elementwise_affine", True)
    shared = read_shared(f, _KEYS, dropout=0.0, tied=True)
    words = f.integer("word_embed_proj_dim", shared["embed"])
    before = f.switch("do_layer_norm_before", True)
    removed = f.switch("_remove_final_layer_norm", False)
    return GPTConfig(
        **shared | {"positions": shared["positions"] + _OFFSET},
        first_position=_OFFSET,
        word_embed=0 if words == shared["embed"] else words,
        mlp=f.integer("ffn_dim"),
        norm="pre" if before else "post",
        final_norm="none" if removed and before else "pre",
        biases=ALL_BIASES if f.switch("enable_bias", True) else (),
        activation=f.choice("activation_function", ACTIVATIONS, "relu"),
    )


def write(config: GPTConfig) -> Record:
    """The config.json of a config that OPT expresses."""
    return {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions - _OFFSET,
        "hidden_size": config.embed,
        "word_embed_proj_dim": config.word_embed or config.embed,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "ffn_dim": config.mlp,
        "do_layer_norm_before": config.norm == "pre",
        "_remove_final_layer_norm": config.final_norm == "none",
        "enable_bias": bool(config.biases),
        "layer_norm_elementwise_affine": True,
        "activation_function": SPELLED[config.activation],
        "dropout": config.residual_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "layerdrop": 0.0,
        "init_std": config.init_std,
        "tie_word_embeddings": config.head == "tied",
        "use_cache": True,
    }


_D = "model.decoder"
_X = f"{_D}.layers.{{Z}}"


def table(config: GPTConfig) -> list[Row]:
    """The rows of one model."""
    words, biased = f"V{config.word_letter}", bool(config.biases)
    rows = [
        Row("embed", f"{_D}.embed_tokens.weight", words),
        Row("positions", f"{_D}.embed_positions.weight", "SD"),
        *norm("blocks/attention_norm", f"{_X}.self_attn_layer_norm"),
        *norm("blocks/mlp_norm", f"{_X}.final_layer_norm"),
        *linear("blocks/attention/out", f"{_X}.self_attn.out_proj", "D(NH)", biased),
        *linear("blocks/mlp/up", f"{_X}.fc1", "FD", biased),
        *linear("blocks/mlp/down", f"{_X}.fc2", "DF", biased),
    ]
    for x in "qkv":
        rows += linear(f"blocks/attention/{x}", f"{_X}.self_attn.{x}_proj", "(NH)D", biased)
    if config.norm == config.final_norm == "pre":
        rows += norm("norm", f"{_D}.final_layer_norm")
    if config.word_embed:
        rows += linear("project_in", f"{_D}.project_in", "DE", False)
        rows += linear("project_out", f"{_D}.project_out", "ED", False)
    if config.head == "untied":
        rows.append(Row("head_table", "lm_head.weight", words))
    return [*rows, gpt_labels.ROW] if config.outputs else rows


def _canonical(name: str) -> str:
    """As OPTForCausalLM calls it; files of the model without a head lack the prefix."""
    return name if name.startswith(("model.", "lm_head.", "score.")) else f"model.{name}"


FORMATS = {
    "opt": Format(
        model_type="opt",
        family="gpt",
        expresses=OPT,
        read=gpt_labels.label_reader(read),
        write=gpt_labels.label_writer(write),
        table=table,
        canonical=_canonical,
        ties=lambda config: (
            [Tie("lm_head.weight", f"{_D}.embed_tokens.weight", {"head": "untied"})]
            if config.head == "tied"
            else []
        ),
    )
}
