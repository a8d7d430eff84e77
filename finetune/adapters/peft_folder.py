"""Adapters as folders that peft reads and writes: adapter_config.json, adapter_model.safetensors.

LoRA and prompts. The base is the same model as `gesso export` writes it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gesso.export.files.folder import new_folder
from gesso.export.files.tensors import FolderError, Record, SafetensorsFile
from gesso.export.tables.expressible import Expressible, refuse
from gesso.export.tables.fields import Fields
from gesso.export.tables.tables import Tree, slots
from gesso.finetune.adapters.peft_layout import Module, modules_of, ours, theirs
from gesso.models.adapters.adapters import adapted_names, targets
from gesso.models.adapters.config import AdapterConfig
from gesso.models.adapters.merge import product
from gesso.models.adapters.virtual import virtual
from gesso.models.trees import flat, nest

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TASKS = {"gpt": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "encoder_decoder": "SEQ_2_SEQ_LM"}
# Where an adapter is from and how it was started; which modules have one, and of which rank, the
# tensors say. peft changes no shape by fan_in_fan_out.
_HARMLESS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
        *("revision", "inference_mode", "target_modules", "exclude_modules", "rank_pattern"),
        *("layers_to_transform", "layers_pattern", "fan_in_fan_out"),
        *("megatron_core", "qalora_group_size", "eva_config"),  # read where others are set
        *("num_attention_heads", "num_layers", "prompt_tuning_init", "prompt_tuning_init_text"),
        *("tokenizer_name_or_path", "tokenizer_kwargs"),
        # Of p-tuning's network, whose result is in the tensors.
        *("encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers"),
        "encoder_dropout",
    )
)
# Fields of a LoraConfig that change what is computed, and what they are where they do not. Other
# starts than these (pissa, olora, corda, loftq ...) change the base's weights.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "loftq_config": (None, {}),
    "corda_config": (None,),
    "lora_ga_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "use_bdlora": (False, None),
    "ensure_weight_tying": (False, None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "megatron_config": (None,),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
}


def _kind(config: AdapterConfig) -> str:
    if config.kind in ("lora", "prompt"):
        return ""
    return (
        f"adapters of kind {config.kind} are not written for peft; lora and prompt are (what"
        " can be merged goes everywhere: gesso adapter merge)"
    )


EXPRESSES = Expressible(
    format="peft",
    family="adapter",
    fields=("targets", "rank", "alpha", "scaling", "dropout", "tokens"),
    rules={"kind": _kind},
    # The network that made a prompt's tokens is not kept.
    neutral=lambda config: ("reparametrize", "hidden") if config.kind == "prompt" else (),
    of="adapter",
)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What `read_adapter` found: what `gesso.models.adapters.adapters.bind` takes."""

    config: AdapterConfig
    adapter: dict[str, Any]


def write_adapter(
    path: str | os.PathLike[str],
    model: Any,
    config: AdapterConfig,
    adapter: Tree,
    *,
    base: str = "",
) -> dict[str, int]:
    """Write an adapter for peft into a new folder; returns {file: bytes}. base: what
    adapter_config.json names as the base: a folder or a name on the hub.

    What was written is read back and must be the same function. Raises FolderError for kinds that
    peft has no folder for, and models that no published format has.
    """
    from safetensors.numpy import save_file

    refuse(EXPRESSES, config)
    written = _lora if config.kind == "lora" else _prompt
    record, tensors = written(model, config, adapter)
    record = {"base_model_name_or_path": base or None, "inference_mode": True, **record}

    def mine(folder: Path) -> bool:
        return {CONFIG, WEIGHTS} <= {each.name for each in folder.iterdir()}

    with new_folder(Path(path), mine=mine) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        (part / CONFIG).write_text(json.dumps(record, indent=1) + "\n")
        _refuse_another(read_adapter(part, model), model, config, adapter)
        return {each.name: each.stat().st_size for each in sorted(part.iterdir())}


def read_adapter(path: str | os.PathLike[str], model: Any) -> Folder:
    """A folder of peft's as an adapter of `model`, float32 numpy arrays.

    What peft has one A for and we have several products (GPT-2's c_attn) becomes one LoRA each, of
    the ranks that B has anything for. Ranks and scales that differ between modules are made equal:
    by zeros, and by what B is multiplied with. Raises FolderError for a kind or a setting that is
    not honoured, and for tensors that do not fit the model.
    """
    folder = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FolderError(f"{folder} has no {name}; it is not an adapter of peft's")
    record = json.loads((folder / CONFIG).read_text())
    fields = Fields(record, source=str(folder / CONFIG), of="adapters here", harmless=_HARMLESS)
    file = SafetensorsFile(folder / WEIGHTS)
    tensors = {name: file.read(name).astype(np.float32) for name in file.specs}
    kind = record.get("peft_type")
    if kind in ("PROMPT_TUNING", "P_TUNING"):
        return _read_prompt(model, fields, tensors, folder)
    if kind != "LORA":
        raise FolderError(f"{folder} is of peft_type {kind!r}; LORA and PROMPT_TUNING can be read")
    return _read_lora(model, fields, tensors, folder)


def _lora(model: Any, config: AdapterConfig, adapter: Any) -> tuple[Record, Record]:
    arrays = {name: np.asarray(x) for name, x in flat(adapter).items()}
    modules = modules_of(model, dict.fromkeys(adapted_names(adapter)))
    tensors, ranks = {}, {}
    for module in modules:
        a, b = theirs(module, arrays, config)
        ranks[module.name] = len(a)
        tensors |= {
            name: np.ascontiguousarray(x) for name, x in zip(_names(module), (a, b), strict=True)
        }
    rank = next(iter(ranks.values()))

    def alpha(rank: int) -> float:
        return config.scale * (rank if config.scaling == "rank" else rank**0.5)

    differing = {name: each for name, each in ranks.items() if each != rank}
    record = {
        "peft_type": "LORA",
        "task_type": _TASKS.get(model.config.family),
        "target_modules": list(ranks),
        "r": rank,
        "lora_alpha": alpha(rank),
        "lora_dropout": config.dropout,
        "use_rslora": config.scaling == "sqrt_rank",
        "rank_pattern": differing,
        "alpha_pattern": {name: alpha(each) for name, each in differing.items()},
        "fan_in_fan_out": any(module.takes_inputs_first for module in modules),
        "bias": "none",
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    return record, tensors


def _prompt(model: Any, config: AdapterConfig, adapter: Any) -> tuple[Record, Record]:
    """What the virtual tokens are in the end; the network that made them is not kept."""
    tokens = np.asarray(virtual(config, adapter), np.float32)
    record = {
        "peft_type": "PROMPT_TUNING",
        "task_type": _TASKS[model.config.family],
        "prompt_tuning_init": "RANDOM",
        "num_virtual_tokens": len(tokens),
        "token_dim": tokens.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": model.config.heads,
        "num_layers": model.config.layers,
    }
    return record, {"prompt_embeddings": np.ascontiguousarray(tokens)}


def _read_prompt(model: Any, f: Fields, tensors: Mapping[str, np.ndarray], folder: Path) -> Folder:
    f.only("modules_to_save", None, [])
    f.only("num_transformer_submodules", 1, None)
    tokens = tensors.get("prompt_embeddings")
    embed = model.config.sizes["D"]
    if tokens is None or tokens.ndim != 2 or tokens.shape[1] != embed:
        has = "none" if tokens is None else list(tokens.shape)
        raise FolderError(f"{folder}: prompt_embeddings must be [tokens, {embed}]; there is {has}")
    f.only("num_virtual_tokens", len(tokens))
    f.only("token_dim", embed, None)
    f.close()
    config = AdapterConfig(kind="prompt", tokens=len(tokens))
    if problems := config.misfits(model.config):
        raise FolderError(f"{folder}: {problems[0]}")
    return Folder(config=config, adapter={"virtual": tokens})


def _read_lora(model: Any, f: Fields, tensors: Mapping[str, np.ndarray], folder: Path) -> Folder:
    for name, plain in _PLAIN.items():
        f.only(name, *plain)
    honoured = ("r", "lora_alpha", "alpha_pattern", "use_rslora", "lora_dropout")
    record = {**f.record, **{name: f.value(name, None) for name in honoured}}
    f.integer("r")
    f.number("lora_alpha")
    f.close()
    every = targets(AdapterConfig(kind="lora", targets=("*",)), model.letters)
    parts: dict[str, dict[int | None, tuple[Any, Any, float]]] = {}
    left = dict(tensors)
    for module in modules_of(model, every):
        a_name, b_name = _names(module)
        if a_name not in left or b_name not in left:
            continue
        a, b = left.pop(a_name), left.pop(b_name)
        scale = _scale(record, module.name, len(a))
        for name, ours_a, ours_b in ours(module, a, b):
            parts.setdefault(name, {})[module.layer] = (ours_a, ours_b, scale)
    if left:
        raise FolderError(f"{folder}: no module of this model has {', '.join(sorted(left)[:4])}")
    if not parts:
        raise FolderError(f"{folder}: it changes nothing (every B is zero or absent)")
    rank = max(a.shape[-1] for layers in parts.values() for a, _, _ in layers.values())
    scaling = "sqrt_rank" if record.get("use_rslora") else "rank"
    default = _scale(record, "", record["r"])
    alpha = default * (rank if scaling == "rank" else rank**0.5)
    config = AdapterConfig(
        kind="lora", targets=tuple(parts), rank=rank, alpha=alpha, scaling=scaling,
        dropout=record.get("lora_dropout") or 0.0,
    )  # fmt: skip
    made, shapes = {}, slots(model)
    for name, layers in parts.items():
        made |= _stack(name, layers, shapes[name].shape[0], config)
    return Folder(config=config, adapter=nest(made))


def _stack(
    name: str,
    layers: Mapping[int | None, tuple[Any, Any, float]],
    count: int,
    config: AdapterConfig,
) -> dict[str, np.ndarray]:
    """All layers of one parameter, each of one scale and rank: what is missing is zero."""
    made: list[tuple[Any, Any]] = []
    a_like, b_like, _ = next(iter(layers.values()))
    for layer in [None] if None in layers else range(count):
        a, b, scale = layers.get(layer, (0 * a_like, 0 * b_like, config.scale))
        short = config.rank - a.shape[-1]
        a = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, short)])
        b = np.pad(b, [(0, short)] + [(0, 0)] * (b.ndim - 1)) * np.float32(scale / config.scale)
        made.append((a, b))
    if None in layers:
        return {f"{name}/a": made[0][0], f"{name}/b": made[0][1]}
    a_all, b_all = zip(*made, strict=True)
    return {f"{name}/a": np.stack(a_all), f"{name}/b": np.stack(b_all)}


def _scale(record: Record, module: str, rank: int) -> float:
    """What peft multiplies a module's B A by."""
    patterns = record.get("alpha_pattern") or {}
    alpha = next((patterns[key] for key in patterns if _fits(key, module)), record["lora_alpha"])
    return alpha / (rank**0.5 if record.get("use_rslora") else rank)


def _fits(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _names(module: Module) -> tuple[str, str]:
    whole = _PREFIX + module.name
    if module.is_table:
        return f"{whole}.lora_embedding_A", f"{whole}.lora_embedding_B"
    return f"{whole}.lora_A.weight", f"{whole}.lora_B.weight"


def _refuse_another(read: Folder, model: Any, config: AdapterConfig, adapter: Any) -> None:
    """FolderError unless what was read back is the function that was written."""
    if config.kind == "prompt":
        same = np.array_equal(read.adapter["virtual"], virtual(config, adapter))
        wrong = [] if same else ["prompt_embeddings"]
    else:
        written, back, letters = flat(adapter), flat(read.adapter), flat(model.letters)
        wrong = []
        for name in adapted_names(adapter):
            a, b = written[f"{name}/a"], written[f"{name}/b"]
            mine = product(a, b, letters[name], config.scale)
            its = 0 * mine
            if f"{name}/a" in back:
                a, b = back[f"{name}/a"], back[f"{name}/b"]
                its = product(a, b, letters[name], read.config.scale)
            if np.abs(mine - its).max() > 1e-6 * max(np.abs(mine).max(), 1e-30):
                wrong.append(name)
    if wrong:
        raise FolderError(f"{', '.join(wrong)}: not what was written when read back")
