"""GGUF for llama.cpp, written tensor by tensor with the `gguf` package; its own tokenizer inside.

llama.cpp's converter refuses every vocabulary that it does not know by a hash, so this writes the
file itself. Of the GPTs it has graphs for GPT-2 and GPT-NeoX. GPT-J it has none for, but Phi-2's is
the same one (one norm for attention and mlp, rotary positions on a part of each head, a bias on the
head) with two more biases, which are 0 here, and rotary pairs in another order
(export.stacks.plainer). GPT-Neo without local layers is a GPT-2 whose queries are scaled.
"""

# The format's package is an extra; this file is checked without it too.
# pyright: reportMissingImports=false

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from gesso.export.agreement import BOUNDS, Agreement, Written, outputs, probe
from gesso.export.families import bert_configs, gpt_base
from gesso.export.families.bert import norm
from gesso.export.files.tensors import FolderError
from gesso.export.stacks import plainer
from gesso.export.stacks.shared import check_agreement, distances, finish, fits, new_export
from gesso.export.stacks.to_gguf.reading import GGUFFile, config_of
from gesso.export.stacks.to_gguf.tokenizer import add_tokenizer
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
from gesso.models import build
from gesso.models.bert.config import BERTConfig
from gesso.models.config import ModelConfig
from gesso.models.gpt.config import GPTConfig
from gesso.models.trees import flat, nest

FILE = "model.gguf"
Pooling = Literal["none", "mean", "cls"]
# llama.cpp adds these in float32, whatever the products are kept in.
_ALWAYS_FLOAT32 = ("position_embd.weight", "token_types.weight")
_B = "blk.{Z}"
_MLP = [
    Row("blocks/mlp/up", f"{_B}.ffn_up.weight", "FD"),
    Row("blocks/mlp/up_bias", f"{_B}.ffn_up.bias", "F"),
    Row("blocks/mlp/down", f"{_B}.ffn_down.weight", "DF"),
    Row("blocks/mlp/down_bias", f"{_B}.ffn_down.bias", "D"),
    Row("blocks/attention/out", f"{_B}.attn_output.weight", "D(NH)"),
    Row("blocks/attention/out_bias", f"{_B}.attn_output.bias", "D"),
]
_DECODER = [
    Row("embed", "token_embd.weight", "VD"),
    Row("blocks/attention/{q,k,v}", f"{_B}.attn_qkv.weight", "(*NH)D"),
    Row("blocks/attention/{q,k,v}_bias", f"{_B}.attn_qkv.bias", "(*NH)"),
    *_MLP,
    *norm("blocks/attention_norm", f"{_B}.attn_norm"),
    *norm("norm", "output_norm"),
]
_OWN_HEAD = Row("head_table", "output.weight", "VD")
_ENCODER = [
    Row("embed", "token_embd.weight", "VD"),
    Row("positions", "position_embd.weight", "SD"),
    *norm("embed_norm", "token_embd_norm"),
    *(Row(f"blocks/attention/{x}", f"{_B}.attn_{x}.weight", "(NH)D") for x in "qkv"),
    *(Row(f"blocks/attention/{x}_bias", f"{_B}.attn_{x}.bias", "(NH)") for x in "qkv"),
    *_MLP,
    *norm("blocks/attention_norm", f"{_B}.attn_output_norm"),
    *norm("blocks/mlp_norm", f"{_B}.layer_output_norm"),
]
_SIZES = ("vocab", "positions", "layers", "embed", "heads", "mlp", "head", "epsilon")


def _gelu(config: GPTConfig | BERTConfig) -> str:
    if config.activation in ("gelu", "gelu_tanh"):
        return ""
    return f"llama.cpp has these models with gelu only, and this one has {config.activation}"


def _norm(config: GPTConfig) -> str:
    if config.norm == "pre":
        return ""
    return "llama.cpp has no decoder that normalises after each sublayer (GPT-1)"


def _block(config: GPTConfig) -> str:
    if config.position_encoding != "learned" or config.block == "sequential":
        return ""
    return f"llama.cpp has no {config.block} block with model.position_encoding learned"


def _biases(config: GPTConfig) -> str:
    if "head" not in config.biases or config.block == "parallel_shared_norm":
        return ""
    return (
        "llama.cpp has a bias on the head only with one norm for attention and mlp"
        " (model.block parallel_shared_norm, GPT-J)"
    )


EXPRESSES = {
    "gpt": Expressible(
        format="gguf",
        family="gpt",
        fields=(
            *_SIZES,
            *("position_encoding", "rotary_dims", "rotation", "rotary_base"),
            *("attention_scale", "window"),
        ),
        rules={
            "activation": _gelu,
            "norm": _norm,
            "block": _block,
            "biases": _biases,
            "pattern": plainer.narrower,
        },
        neutral=gpt_base.neutral,
    ),
    # Heads are left out: what llama.cpp computes of an encoder are its features.
    "bert": Expressible(
        format="gguf",
        family="bert",
        fields=(*_SIZES, "first_position", "token_types", "outputs", "labels"),
        rules={"activation": _gelu},
        neutral=bert_configs.neutral,
    ),
}


def declaration(family: str) -> Declared | None:
    """What this format expresses of a family's config."""
    return EXPRESSES.get(family)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """What is written: llama.cpp's architecture, and a model of ours that it computes."""

    architecture: str
    config: GPTConfig | BERTConfig
    params: Tree
    table: list[Row]


def write(
    folder: str | Path,
    config: ModelConfig,
    params: Tree,
    *,
    tokenizer: GivenTokenizer = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    pooling: Pooling = "mean",
    name: str = "",
) -> Written:
    """Write model.gguf into a new folder.

    tokenizer: as in export.write_folder; without one the file has no vocabulary and reads ids.
    dtype: of the products' weights. pooling: what an encoder's embedding of a text is by default.
    name: what programs show. The file is read back and its outputs compared; a masked-token or
    classifying head, which llama.cpp has no graph for, is left out.

    Raises FolderError as export.write_folder does, and naming what llama.cpp cannot compute.
    """
    graph = graph_of(config, params)
    try:
        import gguf
    except ImportError:
        raise FolderError(
            "a GGUF file needs the gguf package: pip install 'gesso[export]'"
        ) from None
    found = places(graph.table, slots(build(graph.config)))
    fits(found, graph.params)
    made = files_of(tokenizer, model_type=config.family, vocab=config.vocab, longest=config.longest)
    with new_export(folder) as part:
        writer = gguf.GGUFWriter(part / FILE, graph.architecture)
        writer.add_name(name or Path(folder).name)
        _add_sizes(writer, graph, pooling)
        add_tokenizer(writer, made.files, ids=made.ids, vocab=config.vocab)
        writer.add_file_type({"float32": 0, "float16": 1, "bfloat16": 32}[dtype])
        _write_tensors(writer, found, flat(graph.params), dtype)
        agreement = _check(part / FILE, graph, config, params, dtype)
        kind = f"gguf {graph.architecture}"
        return finish(part, folder, model_type=kind, dtype=dtype, agreement=agreement)


def graph_of(config: ModelConfig, params: Tree) -> Graph:
    """The architecture of llama.cpp that computes a model. Inexpressible, or FolderError for a
    family that has none."""
    makers: dict[str, Callable[..., Graph]] = {"gpt": _decoder, "bert": _encoder}
    if config.family not in makers:
        raise FolderError(
            f"GGUF is written for the families {' and '.join(makers)}, not {config.family}"
        )
    refuse(EXPRESSES[config.family], config)
    return makers[config.family](config, params)


def _decoder(config: GPTConfig, params: Tree) -> Graph:
    shared, learned = config.block == "parallel_shared_norm", config.position_encoding == "learned"
    config, said = plainer.global_attention(config, params)
    config, said = plainer.scale_by_head_dim(config, said)
    config, said = plainer.turn_by_halves(config, said)
    config, said = plainer.with_biases(config, said, ("qkv", "attention_out", "mlp"))
    if shared:
        config, said = plainer.with_biases(config, said, ("head",))
    if not learned:
        config, said = plainer.with_own_head(config, said)
    architecture = "phi2" if shared else "gpt2" if learned else "gptneox"
    rows = table_of(architecture, config)
    return Graph(architecture=architecture, config=config, params=said, table=rows)


def _encoder(config: BERTConfig, params: Tree) -> Graph:
    plain, said = plainer.encoder_alone(config, params)
    return Graph(architecture="bert", config=plain, params=said, table=table_of("bert", plain))


def table_of(architecture: str, config: GPTConfig | BERTConfig) -> list[Row]:
    """The rows of an architecture of llama.cpp."""
    if isinstance(config, BERTConfig):
        types = [Row("token_types", "token_types.weight", "TD")] if config.token_types else []
        return [*_ENCODER, *types]
    rows = list(_DECODER)
    if architecture == "phi2":
        rows.append(Row("head_bias", "output.bias", "V"))
    else:
        rows += norm("blocks/mlp_norm", f"{_B}.ffn_norm")
    if config.position_encoding == "learned":
        rows.append(Row("positions", "position_embd.weight", "SD"))
    return [*rows, *([_OWN_HEAD] if config.head == "untied" else [])]


def _add_sizes(writer: Any, graph: Graph, pooling: Pooling) -> None:
    import gguf

    c = graph.config
    writer.add_context_length(c.positions)
    writer.add_embedding_length(c.embed)
    writer.add_feed_forward_length(c.mlp)
    writer.add_block_count(c.layers)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.heads)
    writer.add_layer_norm_eps(c.epsilon)
    writer.add_vocab_size(c.vocab)
    if isinstance(c, BERTConfig):
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
        writer.add_token_type_count(max(1, c.token_types))
        return
    if c.position_encoding == "rotary":
        writer.add_rope_dimension_count(c.rotary_dims)
        writer.add_rope_freq_base(c.rotary_base)
    if graph.architecture == "gptneox":
        writer.add_parallel_residual(c.block == "parallel")


def _write_tensors(writer: Any, found: list[Place], params: Tree, dtype: str) -> None:
    import gguf

    small = {
        "float32": (np.dtype(np.float32), gguf.GGMLQuantizationType.F32),
        "float16": (np.dtype(np.float16), gguf.GGMLQuantizationType.F16),
        "bfloat16": (np.dtype(ml_dtypes.bfloat16), gguf.GGMLQuantizationType.BF16),
    }

    def dtype_for(name: str, shape: tuple[int, ...]) -> tuple[np.dtype, Any]:
        wide = len(shape) == 1 or name in _ALWAYS_FLOAT32
        return small["float32" if wide else dtype]

    for place in found:
        for name in place.tensors.values():
            kind, raw = dtype_for(name, place.shape)
            size = int(np.prod(place.shape)) * kind.itemsize
            # The package knows no bfloat16; `raw` says what the bytes are.
            writer.add_tensor_info(name, place.shape, np.dtype(np.float32), size, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for place in found:
        kind, _ = dtype_for(place.row.theirs, place.shape)
        for _, x in write_tensors([place], params, dtype=kind):
            writer.write_tensor_data(x)
    writer.close()


def _check(path: Path, graph: Graph, config: ModelConfig, params: Tree, dtype: str) -> Agreement:
    """Run what the file says, config and weights, beside ours."""
    file = GGUFFile(path)
    theirs = config_of(file, activation=graph.config.activation)
    found = places(table_of(file.architecture, theirs), slots(build(theirs)))
    check(found, file)
    batch = probe(config)
    read = nest(dict(read_parameters(found, file)))
    return check_agreement(
        distances(outputs(theirs, read, batch), outputs(config, params, batch)),
        bound=BOUNDS[dtype],
        where="the file read back",
    )
