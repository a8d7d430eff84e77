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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from gesso.export.agreement import BOUNDS, outputs, probe
from gesso.export.families.bert import norm
from gesso.export.files.tensors import FolderError, TensorSpec
from gesso.export.reading import slots
from gesso.export.stacks import plainer
from gesso.export.stacks.shared import checked, finished, fits, new_export
from gesso.export.stacks.to_gguf.tokenizer import add_tokenizer
from gesso.export.tables.tables import Place, Row, places, read_parameters, write_tensors
from gesso.export.tokenizers.files import files_of
from gesso.export.writing import Written
from gesso.models import build
from gesso.models.bert.config import BERTConfig
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """What is written: llama.cpp's architecture, and a model of ours that it computes."""

    architecture: str
    config: Any
    params: Mapping[str, Any]
    table: list[Row]


def write(
    folder: str | Path,
    config: Any,
    params: Mapping[str, Any],
    *,
    tokenizer: Any = None,
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
    try:
        import gguf
    except ImportError:
        raise FolderError(
            "a GGUF file needs the gguf package: pip install 'gesso[export]'"
        ) from None
    graph = graph_of(config, params)
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
        agreement = _check(part / FILE, graph, found, config, params, dtype)
        kind = f"gguf {graph.architecture}"
        return finished(part, folder, model_type=kind, dtype=dtype, agreement=agreement)


def graph_of(config: Any, params: Mapping[str, Any]) -> Graph:
    """The architecture of llama.cpp that computes a model. FolderError naming why there is none."""
    makers: dict[str, Callable[..., Graph]] = {"gpt": _decoder, "bert": _encoder}
    if config.family not in makers:
        raise FolderError(
            f"GGUF is written for the families {' and '.join(makers)}, not {config.family}"
        )
    if config.activation == "relu":
        raise FolderError("llama.cpp has these models with gelu only, and this one has relu")
    return makers[config.family](config, params)


def _decoder(config: GPTConfig, params: Mapping[str, Any]) -> Graph:
    if config.norm == "post":
        raise FolderError("llama.cpp has no decoder that normalises after each sublayer (GPT-1)")
    shared, learned = config.block == "parallel_shared_norm", config.position_encoding == "learned"
    if learned and config.block != "sequential":
        raise FolderError(f"llama.cpp has no {config.block} block with learned positions")
    if "head" in config.biases and not shared:
        raise FolderError(
            "llama.cpp has a bias on the head only with one norm for attention and mlp (GPT-J)"
        )
    config, said = plainer.global_attention(config, params)
    config, said = plainer.scaled_by_head_dim(config, said)
    config, said = plainer.turned_by_halves(config, said)
    config, said = plainer.with_biases(config, said, ("qkv", "attention_out", "mlp"))
    rows = list(_DECODER)
    if shared:
        config, said = plainer.with_biases(config, said, ("head",))
        rows.append(Row("head_bias", "output.bias", "V"))
    else:
        rows += norm("blocks/mlp_norm", f"{_B}.ffn_norm")
    if learned:
        rows.append(Row("positions", "position_embd.weight", "SD"))
    else:
        config, said = plainer.with_own_head(config, said)
    if config.head == "untied":
        rows.append(_OWN_HEAD)
    architecture = "phi2" if shared else "gpt2" if learned else "gptneox"
    return Graph(architecture=architecture, config=config, params=said, table=rows)


def _encoder(config: BERTConfig, params: Mapping[str, Any]) -> Graph:
    plain, said = plainer.encoder_alone(config, params)
    rows = [
        Row("embed", "token_embd.weight", "VD"),
        Row("positions", "position_embd.weight", "SD"),
        *norm("embed_norm", "token_embd_norm"),
        *(Row(f"blocks/attention/{x}", f"{_B}.attn_{x}.weight", "(NH)D") for x in "qkv"),
        *(Row(f"blocks/attention/{x}_bias", f"{_B}.attn_{x}.bias", "(NH)") for x in "qkv"),
        *_MLP,
        *norm("blocks/attention_norm", f"{_B}.attn_output_norm"),
        *norm("blocks/mlp_norm", f"{_B}.layer_output_norm"),
    ]
    if config.token_types:
        rows.append(Row("token_types", "token_types.weight", "TD"))
    return Graph(architecture="bert", config=plain, params=said, table=rows)


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
    if graph.architecture == "bert":
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
        writer.add_token_type_count(max(1, c.token_types))
        return
    if c.position_encoding == "rotary":
        writer.add_rope_dimension_count(c.rotary_dims)
        writer.add_rope_freq_base(c.rotary_base)
    if graph.architecture == "gptneox":
        writer.add_parallel_residual(c.block == "parallel")


def _write_tensors(writer: Any, found: list[Place], params: Mapping[str, Any], dtype: str) -> None:
    import gguf

    small = {
        "float32": (np.dtype(np.float32), gguf.GGMLQuantizationType.F32),
        "float16": (np.dtype(np.float16), gguf.GGMLQuantizationType.F16),
        "bfloat16": (np.dtype(ml_dtypes.bfloat16), gguf.GGMLQuantizationType.BF16),
    }

    def kept_in(name: str, shape: tuple[int, ...]) -> tuple[np.dtype, Any]:
        wide = len(shape) == 1 or name in _ALWAYS_FLOAT32
        return small["float32" if wide else dtype]

    for place in found:
        for name in place.tensors.values():
            kind, raw = kept_in(name, place.shape)
            size = int(np.prod(place.shape)) * kind.itemsize
            # The package knows no bfloat16; `raw` says what the bytes are.
            writer.add_tensor_info(name, place.shape, np.dtype(np.float32), size, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for place in found:
        kind, _ = kept_in(place.row.theirs, place.shape)
        for _, x in write_tensors([place], params, dtype=kind):
            writer.write_tensor_data(x)
    writer.close()


class GGUFFile:
    """The tensors of a GGUF file, for export.tables.tables."""

    def __init__(self, path: Path) -> None:
        import gguf

        kinds = {
            gguf.GGMLQuantizationType.F32: np.dtype(np.float32),
            gguf.GGMLQuantizationType.F16: np.dtype(np.float16),
            gguf.GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
        }
        self._found = {each.name: each for each in gguf.GGUFReader(path).tensors}
        self.specs = {
            # Their shapes count from the innermost dim.
            name: TensorSpec(kinds[each.tensor_type], tuple(map(int, each.shape[::-1])), path.name)
            for name, each in self._found.items()
        }

    def read(self, name: str) -> np.ndarray:
        spec = self.specs[name]
        x = np.ascontiguousarray(self._found[name].data)
        return x.reshape(-1).view(spec.dtype).reshape(spec.shape)


def _check(
    path: Path,
    graph: Graph,
    found: list[Place],
    config: Any,
    params: Mapping[str, Any],
    dtype: str,
) -> Any:
    batch = probe(config)
    read = nest(dict(read_parameters(found, GGUFFile(path))))
    theirs, ours = outputs(graph.config, read, batch), outputs(config, params, batch)
    apart = {
        name: float(np.abs(x - ours[name]).max() / np.abs(ours[name]).max())
        for name, x in theirs.items()
    }
    return checked(apart, bound=BOUNDS[dtype], where="the file read back")
