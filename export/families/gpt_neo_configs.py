"""config.json of GPT-Neo and GPT-NeoX to GPTConfig and back, as EleutherAI spelled it."""

from gesso.export.families.gpt_base import (
    ACTIVATIONS,
    ALL_BIASES,
    SPELLED,
    Keys,
    biases_only,
    decodes,
    expressible,
    inner_size,
    inner_width,
    read_shared,
)
from gesso.export.files.tensors import Record
from gesso.export.tables.fields import Fields
from gesso.models.gpt.config import AttentionKind, GPTConfig

_NEO_KEYS = Keys(
    positions="max_position_embeddings",
    embed="hidden_size",
    layers="num_layers",
    heads="num_heads",
    embedding_dropout="embed_dropout",
    attention_dropout="attention_dropout",
    residual_dropout="resid_dropout",
)
_NEOX_KEYS = Keys(
    positions="max_position_embeddings",
    embed="hidden_size",
    layers="num_hidden_layers",
    heads="num_attention_heads",
    epsilon="layer_norm_eps",
    embedding_dropout="hidden_dropout",
    attention_dropout="attention_dropout",
    residual_dropout="hidden_dropout",
)
GPT_NEO = expressible(
    "gpt_neo",
    fields=("pattern", "window"),
    only={"attention_scale": ["none"]},
    rules={"biases": biases_only(("attention_out", "mlp"))},
)
GPT_NEOX = expressible(
    "gpt_neox",
    fields=("rotary_dims", "rotary_base"),
    only={
        "position_encoding": ["rotary"],
        "rotation": ["half"],
        "block": ["parallel", "sequential"],
    },
    rules={"biases": biases_only(ALL_BIASES, ("mlp",))},
)


def read_gpt_neo(f: Fields) -> GPTConfig:
    decodes(f)
    f.harmless("classifier_dropout", "attention_layers")
    shared = read_shared(f, _NEO_KEYS, dropout=0.0, tied=True)
    pattern, window = _expand(f, shared["layers"]), f.integer("window_size", 256)
    return GPTConfig(
        **shared,
        mlp=inner_width(f, "intermediate_size", shared["embed"]),
        pattern=pattern,
        window=window if "local" in pattern else 0,
        attention_scale="none",
        padding="reach",
        biases=("attention_out", "mlp"),
        activation=f.choice("activation_function", ACTIVATIONS, "gelu_new"),
    )


def _expand(f: Fields, layers: int) -> tuple[AttentionKind, ...]:
    """attention_types [[["global", "local"], 12]] layer by layer."""
    types = f.value("attention_types", [[["global", "local"], layers // 2]])
    try:
        found = [kind for kinds, count in types for kind in list(kinds) * count]
    except (TypeError, ValueError):
        found = []
    stated = f.record.get("attention_layers", found)
    if len(found) != layers or not {*found} <= {"global", "local"} or stated != found:
        f.problem(
            f"attention_types: {types!r} and attention_layers: {stated!r} do not say which of"
            f" {layers} layers are global or local"
        )
        return ("global",)
    return tuple(found)


def write_gpt_neo(config: GPTConfig) -> Record:
    period = list(config.period)
    return {
        "model_type": "gpt_neo",
        "architectures": ["GPTNeoForCausalLM"],
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions,
        "hidden_size": config.embed,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "intermediate_size": inner_size(config),
        "attention_types": [[period, config.layers // len(period)]],
        "attention_layers": list(config.kinds),
        "window_size": config.window or 256,
        "activation_function": SPELLED[config.activation],
        "layer_norm_epsilon": config.epsilon,
        "initializer_range": config.init_std,
        "embed_dropout": config.embedding_dropout,
        "attention_dropout": config.attention_dropout,
        "resid_dropout": config.residual_dropout,
        "tie_word_embeddings": config.head == "tied",
        "use_cache": True,
    }


def read_gpt_neox(f: Fields) -> GPTConfig:
    decodes(f)
    f.harmless("classifier_dropout")
    for never_read in ("attention_probs_dropout_prob", "hidden_dropout_prob"):
        f.only(never_read, 0, 0.0)  # the published 20B config has them; no version reads them
    shared = read_shared(f, _NEOX_KEYS, dropout=0.0, tied=False)
    fraction, base = _rotary(f)
    return GPTConfig(
        **shared,
        mlp=f.integer("intermediate_size"),
        position_encoding="rotary",
        rotary_dims=int(shared["embed"] // shared["heads"] * fraction),
        rotary_base=base,
        rotation="half",
        block="parallel" if f.switch("use_parallel_residual", True) else "sequential",
        biases=ALL_BIASES if f.switch("attention_bias", True) else ("mlp",),
        activation=f.choice("hidden_act", ACTIVATIONS, "gelu"),
    )


def _rotary(f: Fields) -> tuple[float, float]:
    """(fraction of the head dim, base) in the spelling of transformers 4 or 5."""
    f.only("rope_scaling", None)
    new = f.value("rope_parameters", None)
    # transformers 4.57 writes both of its own spellings.
    again = f.value("partial_rotary_factor", 0.25), f.value("rope_theta", 10000.0)
    found = f.number("rotary_pct", again[0]), f.number("rotary_emb_base", again[1])
    said = "one another"
    if new is not None:
        inner = Fields(new, source=f"{f.source}: rope_parameters")
        inner.only("rope_type", "default")
        found = inner.number("partial_rotary_factor", 0.25), inner.number("rope_theta", 10000.0)
        inner.close()
        said = "rope_parameters"
    fraction, base = found
    named = {
        "rotary_pct": fraction,
        "partial_rotary_factor": fraction,
        "rotary_emb_base": base,
        "rope_theta": base,
    }
    for name, value in named.items():
        if f.record.get(name, value) != value:
            f.problem(f"{name}: {f.record[name]!r} contradicts {said}, which say {value}")
    return found


def write_gpt_neox(config: GPTConfig) -> Record:
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions,
        "hidden_size": config.embed,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "rotary_pct": _fraction(config.rotary_dims, config.head_dim),
        "rotary_emb_base": config.rotary_base,
        "use_parallel_residual": config.block == "parallel",
        "attention_bias": "qkv" in config.biases,
        "hidden_act": SPELLED[config.activation],
        "layer_norm_eps": config.epsilon,
        "initializer_range": config.init_std,
        "hidden_dropout": config.residual_dropout,
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.head == "tied",
        "use_cache": True,
    }


def _fraction(dims: int, head_dim: int) -> float:
    """A fraction that every reader's int(head_dim * fraction) turns into `dims`."""
    fraction = dims / head_dim
    return fraction if int(head_dim * fraction) == dims else (dims + 0.5) / head_dim
