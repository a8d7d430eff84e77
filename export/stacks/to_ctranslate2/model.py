"""A model folder for CTranslate2, written tensor by tensor without the ctranslate2 package.

model.bin is a list of named variables behind a version and the name of a specification; the layout
is that of ModelSpec._serialize in https://github.com/OpenNMT/CTranslate2. Its own converter holds
the whole model twice, asks for transformers and torch, and knows fewer of our models.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from gesso.export.agreement import BOUNDS, Agreement, Written, outputs, probe
from gesso.export.families import bert_configs, gpt_base, t5
from gesso.export.files.tensors import FolderError, Record
from gesso.export.stacks import plainer
from gesso.export.stacks.shared import check_agreement, distances, finish, fits, new_export
from gesso.export.stacks.to_ctranslate2 import table as ctranslate2_table
from gesso.export.stacks.to_ctranslate2.file import CTranslate2File, write_variable, write_word
from gesso.export.stacks.to_ctranslate2.reading import config_of, table_of
from gesso.export.tables.expressible import Declared, Expressible, refuse
from gesso.export.tables.tables import (
    Place,
    Row,
    Tree,
    check,
    places,
    read_parameters,
    slots,
    write_tensors,
)
from gesso.export.tokenizers.files import GivenTokenizer, files_of
from gesso.export.tokenizers.vocabulary import pieces_of, special_of
from gesso.export.writing_weights import TAGS
from gesso.models import build
from gesso.models.bert.config import BERTConfig
from gesso.models.config import ModelConfig
from gesso.models.gpt.config import GPTConfig
from gesso.models.seq2seq.config import Seq2SeqConfig
from gesso.models.trees import flat, nest

BINARY_VERSION = 6
_ACTIVATIONS = {"activation": list(ctranslate2_table.ACTIVATIONS)}
_SIZES = ("vocab", "positions", "layers", "embed", "heads", "mlp", "head", "activation", "epsilon")


def _positions_problem(config: GPTConfig) -> str:
    if config.position_encoding == "learned" and config.block != "sequential":
        return f"a {config.block} block with model.position_encoding learned is not known here"
    return ""


EXPRESSES = {
    "gpt": Expressible(
        format="ctranslate2",
        family="gpt",
        fields=(
            *_SIZES,
            *("position_encoding", "rotary_dims", "rotation", "rotary_base", "norm"),
            *("attention_scale", "window", "biases"),
        ),
        only=_ACTIVATIONS,
        rules={"block": _positions_problem, "pattern": plainer.narrower},
        neutral=gpt_base.neutral,
    ),
    # Heads are left out: what CTranslate2 computes of an encoder are features and pooler.
    "bert": Expressible(
        format="ctranslate2",
        family="bert",
        fields=(*_SIZES, "first_position", "token_types", "outputs", "labels"),
        only=_ACTIVATIONS,
        neutral=bert_configs.neutral,
    ),
    "seq2seq": Expressible(
        format="ctranslate2",
        family="seq2seq",
        fields=(*t5.FIELDS, "head_scale"),
        only={**t5.ONLY, **_ACTIVATIONS},
        neutral=t5.neutral,
    ),
}


def declaration(family: str) -> Declared | None:
    """What this format expresses of a family's config."""
    return EXPRESSES.get(family)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What is written: CTranslate2's specification, and a model of ours that it computes.

    aliases: {name: the variable that it is}.
    """

    name: str
    revision: int
    config: ctranslate2_table.Computed
    params: Tree
    rows: list[Row]
    settings: Record
    aliases: Mapping[str, str]


def write(
    folder: str | Path,
    config: ModelConfig,
    params: Tree,
    *,
    tokenizer: GivenTokenizer = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
) -> Written:
    """Write model.bin, config.json, the vocabulary and the tokenizer's files into a new folder.

    tokenizer: as in export.write_folder; without one, row i is spelled "<row i>". Of an encoder
    CTranslate2 computes the features and the pooler; other heads are left out. What was written is
    read back and its outputs compared.

    Raises FolderError as export.write_folder does, and naming what CTranslate2 cannot compute.
    """
    spec = spec_of(config, params)
    found = places(spec.rows, slots(build(spec.config)))
    fits(found, spec.params)
    model_type = {"gpt": "gpt2", "bert": "bert", "seq2seq": "t5"}[config.family]
    made = files_of(tokenizer, model_type=model_type, vocab=config.vocab, longest=config.longest)
    pieces = pieces_of(made.files, vocab=config.vocab)
    with new_export(folder) as part:
        for name, content in made.files.items():
            (part / name).write_bytes(content)
        vocabulary = "shared_vocabulary" if config.family == "seq2seq" else "vocabulary"
        (part / f"{vocabulary}.json").write_text(json.dumps(pieces, indent=1) + "\n")
        about = _config(spec.config, special_of(made.files), pieces)
        (part / "config.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
        with (part / "model.bin").open("wb") as f:
            _write(f, spec, found, dtype)
        agreement = _check(part, spec, config, params, dtype)
        kind = f"ctranslate2 {spec.name}"
        return finish(part, folder, model_type=kind, dtype=dtype, agreement=agreement)


def spec_of(config: ModelConfig, params: Tree) -> Spec:
    """The specification that expresses a model. Inexpressible, or FolderError for a family that
    has none."""
    makers: dict[str, Callable[..., Spec]] = {
        "gpt": _decoder,
        "bert": _encoder,
        "seq2seq": _encoder_decoder,
    }
    if config.family not in makers:
        others = "elmo has one" if config.family == "elmo" else "hf and stablehlo have one"
        raise FolderError(f"CTranslate2 has no {config.family} model; --format {others}")
    refuse(EXPRESSES[config.family], config)
    return makers[config.family](config, params)


def _decoder(config: GPTConfig, params: Tree) -> Spec:
    config, said = plainer.global_attention(config, params)
    config, said = plainer.scale_by_head_dim(config, said)
    config, said = plainer.turn_by_halves(config, said)
    rows, settings = ctranslate2_table.decoder(config)
    tied = {"decoder/projection/weight": "decoder/embeddings/weight"}
    return Spec(
        name="TransformerDecoderSpec",
        revision=8,
        config=config,
        params=said,
        rows=rows,
        settings=settings,
        aliases=tied if config.head == "tied" else {},
    )


def _encoder(config: BERTConfig, params: Tree) -> Spec:
    plain, said = plainer.encoder_alone(config, params, keep=("pooler",))
    rows, settings = ctranslate2_table.encoder(plain)
    return Spec(
        name="TransformerEncoderSpec",
        revision=1,
        config=plain,
        params=said,
        rows=rows,
        settings=settings,
        aliases={},
    )


def _encoder_decoder(config: Seq2SeqConfig, params: Tree) -> Spec:
    rows, settings = ctranslate2_table.encoder_decoder(config)
    words = "encoder/embeddings_0/weight"
    aliases = {"decoder/embeddings/weight": words}
    if config.head == "tied":
        aliases["decoder/projection/weight"] = words
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        bias = "self_attention/relative_attention_bias"
        aliases |= {
            f"{side}/layer_{number}/{bias}": f"{side}/layer_0/{bias}" for number in range(1, layers)
        }
    return Spec(
        name="TransformerSpec",
        revision=7,
        config=config,
        params=params,
        rows=rows,
        settings=settings,
        aliases=aliases,
    )


def _config(
    config: ctranslate2_table.Computed, special: Mapping[str, str], pieces: list[str]
) -> Record:
    end = special.get("eos_token", special.get("sep_token", pieces[0]))
    about: Record = {
        "bos_token": special.get("bos_token", special.get("cls_token", end)),
        "eos_token": end,
        "unk_token": special.get("unk_token", end),
        "layer_norm_epsilon": config.epsilon,
        "multi_query_attention": False,
    }
    if isinstance(config, Seq2SeqConfig):
        about |= {
            "bos_token": pieces[config.start],
            "decoder_start_token": pieces[config.start],
            "add_source_bos": False,
            "add_source_eos": False,
        }
    return about


def _write(f: BinaryIO, spec: Spec, found: list[Place], dtype: str) -> None:
    f.write(struct.pack("<I", BINARY_VERSION))
    write_word(f, spec.name)
    count = len(spec.settings) + sum(len(place.tensors) for place in found)
    f.write(struct.pack("<II", spec.revision, count))
    for name, value in spec.settings.items():
        write_variable(f, name, np.asarray(value))
    for name, x in _weights(found, flat(spec.params), dtype):
        write_variable(f, name, x)
    f.write(struct.pack("<I", len(spec.aliases)))
    for alias, name in spec.aliases.items():
        write_word(f, alias)
        write_word(f, name)


def _weights(found: list[Place], params: Tree, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    _, kind = TAGS[dtype]
    for place in found:
        if math.prod(place.shape) * kind.itemsize >= 1 << 32:
            raise FolderError(f"{place.row.theirs} is over 4 GiB, which model.bin cannot hold")
        yield from write_tensors([place], params, dtype=kind)


def _check(folder: Path, spec: Spec, config: ModelConfig, params: Tree, dtype: str) -> Agreement:
    """Run what the folder says, config and weights, beside ours."""
    file = CTranslate2File(folder / "model.bin")
    theirs = config_of(folder, file, spec.config)
    rows, _ = table_of(theirs)
    found = places(rows, slots(build(theirs)))
    check(found, file)
    batch = probe(config)
    read = nest(dict(read_parameters(found, file)))
    return check_agreement(
        distances(outputs(theirs, read, batch), outputs(config, params, batch)),
        bound=BOUNDS[dtype],
        where="the file read back",
    )
