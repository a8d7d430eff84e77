"""Small folders for the tests: configs of every format, random weights, files as others make."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from gesso.export.formats import format_for
from gesso.export.tables.tables import places, slots, write_tensors
from gesso.models import BERTConfig, EncoderDecoderConfig, GPTConfig, Seq2SeqConfig, build
from gesso.models.trees import flat, nest

PACKS = Path(__file__).resolve().parents[3] / "shared" / "packs"
SHAPE = {"vocab": 37, "positions": 24, "layers": 2, "embed": 12, "heads": 3}
ROTARY = {"position_encoding": "rotary", "head": "untied", "biases": ("mlp", "head")}
NEO = {"attention_scale": "none", "biases": ("attention_out", "mlp"), "padding": "reach"}
T5 = {
    "vocab": 37,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "embed": 12,
    "heads": 3,
    "head_dim": 6,
    "mlp": 20,
    "position_encoding": "relative",
    "relative_buckets": 8,
    "relative_distance": 20,
    "embedding_scale": "none",
    "norm_kind": "rms",
    "attention_scale": "none",
    "embed_std": 1.0,
}
LLAMA = SHAPE | {
    "embed": 16,
    "heads": 4,
    "position_encoding": "rotary",
    "rotary_dims": 4,
    "rotation": "half",
    "norm_kind": "rms",
    "gating": "gated",
    "activation": "silu",
    "biases": (),
}
TEXT = {**SHAPE, "mlp": 20}
ROBERTA = {"first_position": 2, "token_types": 1, "init": "normal", "epsilon": 1e-5}
WIDER = {**TEXT, "embed": 15, "layers": 3}
# Two of each format, so that between them every field that a format can say has two values.
CONFIGS = {
    "gpt1": GPTConfig(**SHAPE, mlp=48, norm="post", padding="later"),
    "gpt1-relu": GPTConfig(
        **SHAPE, mlp=48, norm="post", padding="later", activation="relu", epsilon=1e-3
    ),
    "gpt2": GPTConfig(**SHAPE, mlp=48, residual_init="depth"),
    "gpt2-other": GPTConfig(
        **SHAPE,
        mlp=20,
        residual_init="depth",
        attention_scale="head_dim_and_layer",
        activation="relu",
        epsilon=1e-3,
        head="untied",
        init_std=0.1,
        embedding_dropout=0.1,
        attention_dropout=0.2,
        residual_dropout=0.3,
    ),
    "gpt_neo": GPTConfig(**SHAPE, **NEO, mlp=48, pattern=("global", "local"), window=5),
    "gpt_neo-other": GPTConfig(
        **SHAPE, **NEO, mlp=20, pattern=("global", "global"), activation="gelu", head="untied"
    ),
    "gpt_j": GPTConfig(**SHAPE, **ROTARY, mlp=48, rotary_dims=2, block="parallel_shared_norm"),
    "gpt_j-tied": GPTConfig(
        **SHAPE, **{**ROTARY, "head": "tied"}, mlp=20, rotary_dims=4, block="parallel_shared_norm"
    ),
    "gpt_neox": GPTConfig(
        **SHAPE,
        mlp=48,
        position_encoding="rotary",
        rotation="half",
        rotary_dims=2,
        block="parallel",
        activation="gelu",
        head="untied",
    ),
    "gpt_neox-other": GPTConfig(
        **SHAPE,
        mlp=20,
        position_encoding="rotary",
        rotation="half",
        rotary_dims=4,
        rotary_base=500.0,
        block="sequential",
        biases=("mlp",),
    ),
    "opt": GPTConfig(**SHAPE, mlp=48, first_position=2, activation="relu"),
    "opt-350m": GPTConfig(
        **SHAPE, mlp=20, first_position=2, activation="relu", norm="post", word_embed=5
    ),
    "opt-other": GPTConfig(
        **SHAPE,
        mlp=20,
        first_position=2,
        activation="gelu",
        final_norm="none",
        biases=(),
        head="untied",
        init_std=0.1,
        attention_dropout=0.2,
        residual_dropout=0.3,
    ),
    "llama": GPTConfig(**LLAMA, mlp=20, key_heads=2, head="untied"),
    "llama-other": GPTConfig(
        **LLAMA | {"activation": "gelu_tanh", "biases": ("qkv", "attention_out", "mlp")},
        mlp=44,
        epsilon=1e-3,
        rotary_base=500.0,
        attention_dropout=0.2,
        init_std=0.1,
    ),
    "mistral": GPTConfig(**LLAMA, mlp=20, key_heads=1, pattern=("local",), window=5),
    "bert": BERTConfig(**TEXT, outputs=("mlm", "nsp")),
    "bert-masked": BERTConfig(
        **TEXT,
        outputs=("mlm",),
        head="untied",
        activation="gelu_tanh",
        epsilon=1e-3,
        token_types=3,
        embedding_dropout=0.3,
        residual_dropout=0.3,
        attention_dropout=0.2,
    ),
    "bert-classify": BERTConfig(**TEXT, outputs=("classify",), labels=5, head_dropout=0.4),
    "bert-tag": BERTConfig(**TEXT, outputs=("tag",), labels=4, activation="relu"),
    "bert-span": BERTConfig(**TEXT, outputs=("span",)),
    "bert-base": BERTConfig(**TEXT, outputs=("pooler",), init_std=0.1),
    "roberta": BERTConfig(**TEXT, **ROBERTA, outputs=("mlm",)),
    "roberta-classify": BERTConfig(
        **TEXT, **{**ROBERTA, "first_position": 4}, outputs=("classify",), labels=3
    ),
    "roberta-tag": BERTConfig(**TEXT, **ROBERTA, outputs=("tag",), labels=3),
    "bert2bert": EncoderDecoderConfig(
        encoder=BERTConfig(**TEXT, outputs=("pooler",)),
        decoder=BERTConfig(**WIDER, head="untied"),
        start=3,
    ),
    "roberta2roberta": EncoderDecoderConfig(
        encoder=BERTConfig(**TEXT, **ROBERTA, outputs=()), decoder=BERTConfig(**TEXT, **ROBERTA)
    ),
    "bert2gpt": EncoderDecoderConfig(
        encoder=BERTConfig(**TEXT, outputs=("pooler",)),
        decoder=GPTConfig(**WIDER, residual_init="depth"),
    ),
    "t5": Seq2SeqConfig(**T5, head="tied", head_scale="rsqrt_embed"),
    "t5-gated": Seq2SeqConfig(
        **T5, head="untied", gating="gated", activation="gelu_tanh", epsilon=1e-3, start=3
    ),
}


def random_params(config, seed=0):
    """Params of a config that no two places share."""
    random = np.random.default_rng(seed)
    return nest(
        {
            path: random.normal(0, 0.5, slot.shape).astype(np.float32)
            for path, slot in slots(build(config)).items()
        }
    )


def tensors_of(config, params):
    """{their name: array} of params, by the table of the format that fits."""
    found = places(format_for(config).table(config), slots(build(config)))
    return dict(write_tensors(found, flat(params), dtype=np.dtype(np.float32)))


def write_safetensors(path, tensors):
    """As the safetensors library writes them."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)


def edit_config(folder, **changes):
    """Change fields of a folder's config.json; None in `changes` takes one out."""
    path = folder / "config.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


def copied(source, to):
    """A copy of a pack's folder that may be changed."""
    if not source.is_dir():
        pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
    shutil.copytree(source, to)
    for path in (to, *to.iterdir()):
        path.chmod(0o755)
    return to


def torch_zip(path, pickled, storages=None, *, compression=zipfile.ZIP_STORED):
    """A file as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as z:
        z.writestr("archive/data.pkl", pickled)
        z.writestr("archive/version", "3\n")
        for key, content in (storages or {}).items():
            z.writestr(f"archive/data/{key}", content)


def torch_pickle(tensors):
    """(data.pkl, {key: bytes}) of float32 tensors, made without PyTorch."""
    storages = {str(i): np.ascontiguousarray(x) for i, x in enumerate(tensors.values())}
    # Protocol 2, spelled out: the real one names torch's classes, which are not here.
    out = [b"\x80\x02}("]
    for (name, x), key in zip(tensors.items(), storages, strict=True):
        strides = tuple(step // 4 for step in np.ascontiguousarray(x).strides)
        out += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", b"("]
        out += [_text("storage"), b"ctorch\nFloatStorage\n", _text(key), _text("cpu")]
        out += [_number(x.size), b"tQ", _number(0), _numbers(x.shape), _numbers(strides)]
        out += [b"\x89ccollections\nOrderedDict\n)RtR"]
    out += [b"u."]
    return b"".join(out), {key: x.tobytes() for key, x in storages.items()}


def _text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def _number(value):
    return b"J" + int(value).to_bytes(4, "little", signed=True)


def _numbers(values):
    return b"(" + b"".join(map(_number, values)) + b"t"


def malicious(command):
    """A pickle that runs a shell command when it is loaded."""

    class Attack:
        def __reduce__(self):
            import os

            return os.system, (command,)

    return pickle.dumps({"model": Attack()}, protocol=2)


def same(a, b):
    """Whether two trees hold the same bits."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))
    )
