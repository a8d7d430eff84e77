"""I5 for T5: outputs, both sides' hidden states, gradients, greedy ids and 20 steps are the pack's.

Tolerances are the pack's own (its manifest): the smallest reimplementation error ever measured on
it is 4.3e-4.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pack_reader import PACKS, flat, nest
from safetensors.numpy import load_file

from evaluation.generate_seq2seq import continuations
from models import Seq2SeqConfig, build

FOLDER = PACKS / "t5" / "open"
LOGITS, LOSS, TRAJECTORY, NORM = 5e-5, 2e-5, 5e-5, 1e-4


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def pack():
    if not FOLDER.is_dir():
        pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
    return Pack()


class Pack:
    def __init__(self):
        self.z = np.load(FOLDER / "reference.npz")
        self.train = json.loads((FOLDER / "manifest.json").read_text())["train"]
        self.config = t5_config(json.loads((FOLDER / "config.json").read_text()))
        self.model = build(self.config)
        self.table = table_of(self.config)
        self.params = self.read(self.tensors("model"))

    def tensors(self, name):
        return load_file(FOLDER / f"{name}.safetensors")

    def batch(self, case, i=...):
        z, labels = self.z, self.z[f"{case}/labels"][i]
        # Their decoder reads its own targets one place later, and pads are read like any token.
        read = np.where(labels == -100, 0, labels)[:, :-1]
        tokens = np.concatenate([np.full_like(read[:, :1], self.config.start), read], axis=1)
        if f"{case}/decoder_input_ids" in z.files:
            assert (tokens == z[f"{case}/decoder_input_ids"]).all()
        mask = z[f"{case}/attention_mask"][i].astype(np.int32)
        batch = {"source": z[f"{case}/input_ids"][i], "source_segments": mask, "tokens": tokens}
        return batch, labels

    def read(self, tensors):
        """Their tensors -> our params; the table must name all of both."""
        letters, params, used = flat(self.model.letters), {}, set()
        for ours, theirs, layout in self.table:
            layers = self.layers(ours) if "{Z}" in theirs else 1
            names = [theirs.replace("{Z}", str(i)) for i in range(layers)]
            used |= set(names)
            parts = [ours_of(tensors[name], layout, letters[ours], self.sizes) for name in names]
            params[ours] = np.stack(parts) if "{Z}" in theirs else parts[0]
        assert used == tensors.keys() and params.keys() == letters.keys()
        return nest(params)

    def write(self, params):
        """Our params -> their tensors."""
        letters, params, tensors = flat(self.model.letters), flat(params), {}
        for ours, theirs, layout in self.table:
            array = np.asarray(params[ours])
            for i, each in enumerate(array if "{Z}" in theirs else [array]):
                name = theirs.replace("{Z}", str(i))
                tensors[name] = theirs_of(each, layout, letters[ours])
        return tensors

    def layers(self, ours):
        c = self.config
        return c.encoder_layers if ours.startswith("encoder") else c.decoder_layers

    @property
    def sizes(self):
        return self.config.sizes


def ours_of(tensor, layout, letters, sizes):
    order, letters = layout.replace("(", "").replace(")", ""), letters.lstrip("Z")
    x = tensor.reshape([sizes[each] for each in order])
    return x.transpose([order.index(each) for each in letters])


def theirs_of(array, layout, letters):
    order, letters = layout.replace("(", "").replace(")", ""), letters.lstrip("Z")
    x = array.transpose([letters.index(each) for each in order])
    if layout.startswith("("):
        return x.reshape(-1, x.shape[-1])
    return x.reshape(x.shape[0], -1) if layout.endswith(")") else x


def table_of(config):
    """Rows: our parameter, their tensor ({Z}: one per layer), their letters ((NH) is one dim)."""
    rows = [("embed", "shared.weight", "VD")]
    rows += [("head_table", "lm_head.weight", "VD")] if config.head == "untied" else []
    for side, sublayers in (("encoder", ("Self",)), ("decoder", ("Self", "EncDec"))):
        ours, theirs = f"{side}/layers", f"{side}.block.{{Z}}.layer"
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows.append((f"{side}/relative_bias/table", first, "RN"))
        rows.append((f"{side}/norm/scale", f"{side}.final_layer_norm.weight", "D"))
        for number, kind in enumerate(sublayers):
            attention = {"Self": "attention", "EncDec": "source_attention"}[kind]
            norm = {"Self": "attention_norm", "EncDec": "source_norm"}[kind]
            rows.append((f"{ours}/{norm}/scale", f"{theirs}.{number}.layer_norm.weight", "D"))
            for our, their, layout in (*((x, x, "(NH)D") for x in "qkv"), ("out", "o", "D(NH)")):
                name = f"{theirs}.{number}.{kind}Attention.{their}.weight"
                rows.append((f"{ours}/{attention}/{our}", name, layout))
        last = len(sublayers)
        up = [("up", "wi")] if config.gating == "plain" else [("gate", "wi_0"), ("up", "wi_1")]
        rows.append((f"{ours}/mlp_norm/scale", f"{theirs}.{last}.layer_norm.weight", "D"))
        for our, their, layout in (*((a, b, "FD") for a, b in up), ("down", "wo", "DF")):
            name = f"{theirs}.{last}.DenseReluDense.{their}.weight"
            rows.append((f"{ours}/mlp/{our}", name, layout))
    return rows


def t5_config(c):
    """A Hugging Face config.json -> Seq2SeqConfig, every field that changes a number."""
    names = {"relu": "relu", "gelu_new": "gelu_tanh", "gelu": "gelu", "silu": "silu"}
    return Seq2SeqConfig(
        vocab=c["vocab_size"],
        encoder_layers=c["num_layers"],
        decoder_layers=c["num_decoder_layers"],
        embed=c["d_model"],
        heads=c["num_heads"],
        head_dim=c["d_kv"],
        mlp=c["d_ff"],
        position_encoding="relative",
        relative_buckets=c["relative_attention_num_buckets"],
        relative_distance=c["relative_attention_max_distance"],
        embedding_scale="none",
        head="tied" if c["tie_word_embeddings"] else "untied",
        head_scale="rsqrt_embed" if c["scale_decoder_outputs"] else "none",
        norm_kind="rms",
        attention_scale="none",
        gating="gated" if c["is_gated_act"] else "plain",
        activation=names[c["dense_act_fn"]],
        start=c["decoder_start_token_id"],
        epsilon=c["layer_norm_epsilon"],
    )


def token_mean(logits, labels):
    """The reference's loss: the mean over all targets of the batch, -100 ignored, nothing moved."""
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(nll * (labels != -100)) / jnp.sum(labels != -100)


def worst(got, want, mask):
    assert np.isfinite(got).all()
    return np.abs(np.float64(got) - want)[..., mask, :].max()


def test_logits_losses_and_hidden_states(pack):
    apply = jax.jit(functools.partial(pack.model.apply, hidden=True))
    for case in ("full", "right"):
        (batch, labels), z = pack.batch(case), pack.z
        out = apply(pack.params, batch)
        assert worst(out["logits"], z[f"{case}/logits"], labels != -100) <= LOGITS
        assert abs(float(token_mean(out["logits"], labels)) - z[f"{case}/loss"]) <= LOSS
    for name, mask in (("encoder_hidden", batch["source_segments"] == 1), ("hidden", labels >= 0)):
        want = z[f"right/{name.replace('_hidden', '').replace('hidden', 'decoder')}_hidden_states"]
        assert out[name].shape == want.shape
        assert worst(out[name], want, mask) <= LOGITS


@pytest.mark.parametrize("change", [{}, {"remat": "full"}, {"remat": "dots", "unroll": 2}])
def test_gradients(pack, change):
    model, (batch, labels) = build(dataclasses.replace(pack.config, **change)), pack.batch("right")

    def loss(params):
        return token_mean(model.apply(params, batch)["logits"], labels)

    ours = pack.write(jax.jit(jax.grad(loss))(pack.params))
    theirs, norm = pack.tensors("grads"), float(pack.z["grad/global_norm"])
    assert ours.keys() == theirs.keys()
    for name, want in theirs.items():
        error = np.linalg.norm(np.float64(ours[name]) - want)
        assert error <= 1e-3 * np.linalg.norm(want) + 1e-6 * norm, name


def test_greedy_ids(pack):
    want, (batch, _) = pack.z["greedy/new_ids"], pack.batch("right")
    given = {name: batch[name] for name in ("source", "source_segments")}
    given["tokens"] = batch["tokens"][:, :1]
    made = continuations(pack.model, pack.params, given, max_tokens=want.shape[1], eos=-1)
    assert (made == want).all()


def test_a_trajectory_of_20_steps(pack):
    t = pack.train

    def rate(i):
        ramp = t["peak_lr"] * (i + 1) / t["warmup_steps"]
        turn = jnp.pi * (i - t["warmup_steps"]) / (t["total_steps"] - t["warmup_steps"])
        fall = t["end_lr"] + (t["peak_lr"] - t["end_lr"]) * 0.5 * (1 + jnp.cos(turn))
        return jnp.where(i < t["warmup_steps"], ramp, fall)

    decayed = jax.tree.map(lambda letters: letters not in ("D", "ZD"), pack.model.letters)
    adamw = optax.adamw(
        rate,
        b1=t["beta1"],
        b2=t["beta2"],
        eps=t["eps"],
        weight_decay=t["weight_decay"],
        mask=decayed,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(t["grad_clip_norm"]), adamw)

    @jax.jit
    def step(params, state, batch, labels):
        def loss(params):
            return token_mean(pack.model.apply(params, batch)["logits"], labels)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, optax.tree.norm(gradient)

    params, state = pack.params, optimizer.init(pack.params)
    for i in range(t["steps"]):
        params, state, value, norm = step(params, state, *pack.batch("train", i % 5))
        assert abs(float(value) - pack.z["train/loss"][i]) <= TRAJECTORY, f"step {i}"
        assert abs(float(norm) / pack.z["train/grad_norm"][i] - 1) <= NORM, f"step {i}"
    ours = pack.write(params)
    for name, want in pack.tensors("params_after").items():
        assert np.abs(ours[name] - want).max() <= 1e-4, name


@pytest.mark.parametrize(
    "change",
    [
        {"head_scale": "none"},
        {"attention_scale": "head_dim"},
        {"relative_distance": 19},
        {"activation": "gelu_tanh"},
        {"embedding_scale": "sqrt_embed"},
        {"norm_kind": "layer"},
    ],
)
def test_a_wrong_field_shows(pack, change):
    """The pack would catch a field that is read wrongly: each moves the logits past tolerance."""
    model, (batch, labels) = build(dataclasses.replace(pack.config, **change)), pack.batch("full")
    params = pack.params
    if change.get("norm_kind") == "layer":
        params = with_biases(params, model.letters)
    logits = jax.jit(model.apply)(params, batch)["logits"]
    assert worst(logits, pack.z["full/logits"], labels != -100) > 2e-4


def with_biases(params, letters):
    have = flat(params)
    scales = {
        name: have[name[: -len("bias")] + "scale"] for name in flat(letters) if name not in have
    }
    return nest(have | {name: np.zeros_like(scale) for name, scale in scales.items()})
