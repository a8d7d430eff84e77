"""Reference packs of BERT and of BERT2BERT: their names and layouts to our tree and back.

A row of a table: our parameter, their tensor, and their layout in our letters. `(NH)` is N and H in
one dim, `{Z}` one tensor per layer. Sizes are our parameters' own.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pack_reader import PACKS, flat, nest
from safetensors.numpy import load_file

from models import EncoderDecoderConfig, build
from models.bert_config import from_published


def norm(ours, theirs):
    return [(f"{ours}/scale", f"{theirs}.weight", "D"), (f"{ours}/bias", f"{theirs}.bias", "D")]


def dense(ours, theirs, layout):
    return [
        (f"{ours}/weight", f"{theirs}.weight", layout),
        (f"{ours}/bias", f"{theirs}.bias", layout[0]),
    ]


def attention(ours, theirs):
    named = (("q", "query"), ("k", "key"), ("v", "value"))
    return [
        *((f"{ours}/{a}", f"{theirs}.self.{b}.weight", "(NH)D") for a, b in named),
        *((f"{ours}/{a}_bias", f"{theirs}.self.{b}.bias", "(NH)") for a, b in named),
        (f"{ours}/out", f"{theirs}.output.dense.weight", "D(NH)"),
        (f"{ours}/out_bias", f"{theirs}.output.dense.bias", "D"),
    ]


def encoder(ours, theirs):
    layer, table = f"{theirs}encoder.layer.{{Z}}", f"{theirs}embeddings"
    return [
        (f"{ours}embed", f"{table}.word_embeddings.weight", "VD"),
        (f"{ours}positions", f"{table}.position_embeddings.weight", "SD"),
        (f"{ours}token_types", f"{table}.token_type_embeddings.weight", "TD"),
        *norm(f"{ours}embed_norm", f"{table}.LayerNorm"),
        *attention(f"{ours}blocks/attention", f"{layer}.attention"),
        *norm(f"{ours}blocks/attention_norm", f"{layer}.attention.output.LayerNorm"),
        (f"{ours}blocks/mlp/up", f"{layer}.intermediate.dense.weight", "FD"),
        (f"{ours}blocks/mlp/up_bias", f"{layer}.intermediate.dense.bias", "F"),
        (f"{ours}blocks/mlp/down", f"{layer}.output.dense.weight", "DF"),
        (f"{ours}blocks/mlp/down_bias", f"{layer}.output.dense.bias", "D"),
        *norm(f"{ours}blocks/mlp_norm", f"{layer}.output.LayerNorm"),
    ]


def pooler(ours, theirs):
    return dense(f"{ours}pooler", f"{theirs}pooler.dense", "FD")


def masked(ours, theirs):
    return [
        *dense(f"{ours}mlm/dense", f"{theirs}.predictions.transform.dense", "FD"),
        *norm(f"{ours}mlm/norm", f"{theirs}.predictions.transform.LayerNorm"),
        (f"{ours}mlm/bias", f"{theirs}.predictions.bias", "V"),
    ]


CROSS = "decoder.bert.encoder.layer.{Z}.crossattention"
TABLES = {
    "bert_pretraining": [
        *encoder("", "bert."),
        *pooler("", "bert."),
        *masked("", "cls"),
        *dense("nsp", "cls.seq_relationship", "YD"),
    ],
    "bert_seqcls": [
        *encoder("", "bert."),
        *pooler("", "bert."),
        *dense("classifier", "classifier", "YD"),
    ],
    "bert_qa": [*encoder("", "bert."), *dense("span", "qa_outputs", "YD")],
    "encoder_decoder": [
        *encoder("encoder/", "encoder."),
        *pooler("encoder/", "encoder."),
        *encoder("decoder/", "decoder.bert."),
        *masked("decoder/", "decoder.cls"),
        *attention("source/attention", CROSS),
        *norm("source/norm", f"{CROSS}.output.LayerNorm"),
    ],
}


class BERTPack:
    """One pack: `.config`, `.model`, `.params`, `.z` (reference arrays), `.train` (the recipe)."""

    def __init__(self, family):
        self.family, self.folder = family, PACKS / family / "open"
        if not self.folder.is_dir():
            pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
        self.z = np.load(self.folder / "reference.npz")
        self.train = json.loads((self.folder / "manifest.json").read_text())["train"]
        self.config = config_of(json.loads((self.folder / "config.json").read_text()))
        self.model = build(self.config)
        self.params = self.read(self.tensors("model"))

    def tensors(self, name):
        return load_file(self.folder / f"{name}.safetensors")

    def replaced(self, **change):
        """The model with other settings: of both sides, where there are two."""
        if self.family == "encoder_decoder":
            sides = {"encoder": self.config.encoder, "decoder": self.config.decoder}
            change = {name: dataclasses.replace(each, **change) for name, each in sides.items()}
        return build(dataclasses.replace(self.config, **change))

    def read(self, tensors):
        """Their tensors -> our params; the table must name all of both."""
        shapes = flat(jax.eval_shape(self.model.init, jax.random.key(0)))
        letters, params, used = flat(self.model.letters), {}, set()
        for ours, theirs, layout in TABLES[self.family]:
            names, index = names_of(theirs, shapes[ours].shape), "{Z}" in theirs
            used |= set(names)
            inside = letters[ours][index:]
            sizes = dict(zip(letters[ours], shapes[ours].shape, strict=True))
            order = layout.replace("(", "").replace(")", "")
            parts = [
                tensors[name]
                .reshape([sizes[each] for each in order])
                .transpose([order.index(each) for each in inside])
                for name in names
            ]
            params[ours] = np.stack(parts) if index else parts[0]
        assert used == tensors.keys() and params.keys() == letters.keys()
        return nest(params)

    def write(self, params):
        """Our params -> their tensors."""
        letters, params, tensors = flat(self.model.letters), flat(params), {}
        for ours, theirs, layout in TABLES[self.family]:
            array, index = np.asarray(params[ours]), "{Z}" in theirs
            inside, order = letters[ours][index:], layout.replace("(", "").replace(")", "")
            names = names_of(theirs, array.shape)
            for name, each in zip(names, array if index else [array], strict=True):
                x = each.transpose([inside.index(letter) for letter in order])
                joined = layout.index("(") if "(" in layout else None
                if joined is not None:
                    x = x.reshape(*x.shape[:joined], -1, *x.shape[joined + 2 :])
                tensors[name] = x
        return tensors


def names_of(theirs, shape):
    return [theirs.format(Z=i) for i in range(shape[0] if "{Z}" in theirs else 1)]


def config_of(record):
    """A published config.json -> our config, every field that changes a number."""
    if record["model_type"] != "encoder-decoder":
        return from_published(record)
    return EncoderDecoderConfig(
        encoder=from_published(record["encoder"], outputs=("pooler",)),
        decoder=from_published(record["decoder"], outputs=("mlm",), role="decoder"),
        start=record["decoder_start_token_id"],
    )


def token_mean(logits, labels):
    """The reference's loss: the mean over all labels of the batch; -100 is ignored."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(nll * (labels != -100)) / jnp.sum(labels != -100)


def trajectory(pack, loss_of, batches):
    """(loss, gradient norm) before each of the recipe's 20 updates; `batches` are cycled."""
    t = pack.train

    def rate(i):
        ramp = t["peak_lr"] * (i + 1) / t["warmup_steps"]
        turn = jnp.pi * (i - t["warmup_steps"]) / (t["total_steps"] - t["warmup_steps"])
        fall = t["end_lr"] + (t["peak_lr"] - t["end_lr"]) * 0.5 * (1 + jnp.cos(turn))
        return jnp.where(i < t["warmup_steps"], ramp, fall)

    # Decay reaches what has two dims in their files.
    two = {ours: len(layout.replace("(NH)", "N")) == 2 for ours, _, layout in TABLES[pack.family]}
    adamw = optax.adamw(
        rate,
        b1=t["beta1"],
        b2=t["beta2"],
        eps=t["eps"],
        weight_decay=t["weight_decay"],
        mask=nest(two),
    )
    optimizer = optax.chain(optax.clip_by_global_norm(t["grad_clip_norm"]), adamw)

    @jax.jit
    def step(params, state, batch):
        loss, gradient = jax.value_and_grad(loss_of)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss, optax.tree.norm(gradient)

    params, state, made = pack.params, optimizer.init(pack.params), []
    for i in range(t["steps"]):
        params, state, loss, norm = step(params, state, batches[i % len(batches)])
        made.append((float(loss), float(norm)))
    return np.array(made).T
