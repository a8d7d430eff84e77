"""The model that a CTranslate2 folder says, read from its own files alone.

The check of what was written runs this config, and not ours, so that a setting of ours that was not
written is seen. Numbers that CTranslate2 does not know, such as the longest row where no table of
positions says it, are those of `like`.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gesso.export.files.tensors import FolderError, Record
from gesso.export.stacks.to_ctranslate2 import table
from gesso.export.stacks.to_ctranslate2.file import CTranslate2File
from gesso.export.tables.tables import Row
from gesso.models.bert.config import BERTConfig
from gesso.models.gpt.config import Bias, GPTConfig
from gesso.models.seq2seq.config import Seq2SeqConfig

TANH = 5  # of the pooler, in CTranslate2's numbering of activations


def config_of(folder: Path, file: CTranslate2File, like: table.Computed) -> table.Computed:
    """Our config of the model in a folder. Raises FolderError for settings that no config of ours
    has, or that contradict one another."""
    about = json.loads((folder / "config.json").read_text())
    read: dict[str, Callable[..., table.Computed]] = {
        "TransformerDecoderSpec": _decoder,
        "TransformerEncoderSpec": _encoder,
        "TransformerSpec": _encoder_decoder,
    }
    config = read[file.name](file, about, like)
    if isinstance(config, Seq2SeqConfig):
        pieces = json.loads((folder / "shared_vocabulary.json").read_text())
        config = replace(config, start=pieces.index(about["decoder_start_token"]))
    _, settings = table_of(config)
    written = {name: value.item() for name, value in settings.items()}
    if differ := {
        name
        for name in written.keys() | file.settings.keys()
        if written.get(name) != file.settings.get(name)
    }:
        raise FolderError(f"model.bin has settings of no model here: {', '.join(sorted(differ))}")
    return config


def table_of(config: table.Computed) -> tuple[list[Row], table.Settings]:
    """The rows and settings of a config that CTranslate2 computes."""
    if isinstance(config, GPTConfig):
        return table.decoder(config)
    if isinstance(config, BERTConfig):
        return table.encoder(config)
    return table.encoder_decoder(config)


def _decoder(file: CTranslate2File, about: Record, like: GPTConfig) -> GPTConfig:
    layer = "decoder/layer_0"
    vocab, embed = file.specs["decoder/embeddings/weight"].shape
    learned = file.specs.get("decoder/position_encodings/encodings")
    block = "sequential"
    if f"{layer}/input_layer_norm/gamma" in file.specs:
        block = "parallel"
    elif f"{layer}/shared_layer_norm/gamma" in file.specs:
        block = "parallel_shared_norm"
    rotary: dict[str, Any] = {}
    if learned is None:
        attention = f"{layer}/self_attention"
        rotary = {
            "position_encoding": "rotary",
            "rotary_dims": file.settings[f"{attention}/rotary_dim"],
            "rotary_base": file.settings[f"{attention}/rotary_base"],
            "rotation": "interleaved"
            if file.settings[f"{attention}/rotary_interleave"]
            else "half",
        }
    has: dict[Bias, str] = {
        "qkv": f"{layer}/self_attention/linear_0/bias",
        "attention_out": f"{layer}/self_attention/linear_1/bias",
        "mlp": f"{layer}/ffn/linear_0/bias",
        "head": "decoder/projection/bias",
    }
    return GPTConfig(
        vocab=vocab,
        positions=learned.shape[0] if learned else like.positions,
        layers=_layers(file.specs, "decoder"),
        embed=embed,
        heads=int(file.settings["decoder/num_heads"]),
        mlp=file.specs[f"{layer}/ffn/linear_0/weight"].shape[0],
        block=block,
        norm="pre" if file.settings["decoder/pre_norm"] else "post",
        biases=tuple(bias for bias, name in has.items() if name in file.specs),
        head="tied" if "decoder/projection/weight" in file.aliases else "untied",
        activation=_activation(file, "decoder"),
        epsilon=about["layer_norm_epsilon"],
        **rotary,
    )


def _encoder(file: CTranslate2File, about: Record, like: BERTConfig) -> BERTConfig:
    types = file.specs.get("encoder/embeddings_1/weight")
    vocab, embed = file.specs["encoder/embeddings_0/weight"].shape
    return BERTConfig(
        vocab=vocab,
        positions=file.specs["encoder/position_encodings/encodings"].shape[0],
        token_types=types.shape[0] if types else 0,
        layers=_layers(file.specs, "encoder"),
        embed=embed,
        heads=int(file.settings["encoder/num_heads"]),
        mlp=file.specs["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        outputs=("pooler",) if file.settings.get("pooler_activation") == TANH else (),
        activation=_activation(file, "encoder"),
        epsilon=about["layer_norm_epsilon"],
    )


def _encoder_decoder(file: CTranslate2File, about: Record, like: Seq2SeqConfig) -> Seq2SeqConfig:
    attention = "encoder/layer_0/self_attention"
    vocab, embed = file.specs["encoder/embeddings_0/weight"].shape
    heads = int(file.settings["encoder/num_heads"])
    buckets, _ = file.specs[f"{attention}/relative_attention_bias"].shape
    return Seq2SeqConfig(
        vocab=vocab,
        encoder_layers=_layers(file.specs, "encoder"),
        decoder_layers=_layers(file.specs, "decoder"),
        embed=embed,
        heads=heads,
        head_dim=int(file.settings.get(f"{attention}/head_dim", embed // heads)),
        mlp=file.specs["encoder/layer_0/ffn/linear_1/weight"].shape[1],
        position_encoding="relative",
        relative_buckets=buckets,
        relative_distance=int(file.settings[f"{attention}/relative_attention_max_distance"]),
        head="tied" if "decoder/projection/weight" in file.aliases else "untied",
        embedding_scale="none",
        head_scale="rsqrt_embed" if "decoder/scale_outputs" in file.settings else "none",
        norm_kind="layer" if "encoder/layer_norm/beta" in file.specs else "rms",
        attention_scale="none" if file.settings.get(f"{attention}/queries_scale") else "head_dim",
        gating="gated" if "encoder/layer_0/ffn/linear_0_noact/weight" in file.specs else "plain",
        activation=_activation(file, "encoder"),
        epsilon=about["layer_norm_epsilon"],
    )


def _layers(names: Iterable[str], side: str) -> int:
    start = f"{side}/layer_"
    numbers = (name.removeprefix(start).split("/")[0] for name in names if name.startswith(start))
    return len({each for each in numbers if each.isdigit()})


def _activation(file: CTranslate2File, side: str) -> Any:
    numbered = {number: name for name, number in table.ACTIVATIONS.items()}
    return numbered[int(file.settings[f"{side}/activation"])]
