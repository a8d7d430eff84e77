"""Virtual tokens: what they begin as, and what they are made by while they are trained.

Reparametrized, embeddings of J tokens go through a small network; what it makes is used, and what
is kept in the end. An mlp is peft's PromptEncoder (of a prefix: P-tuning v2's PrefixEncoder), an
lstm LAMA's prompt encoder (https://github.com/THUDM/P-tuning): two layers of a bidirectional LSTM
of half the width each, then an mlp.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from gesso.models.adapters.config import AdapterConfig
from gesso.models.trees import Leaf, Params, Pytree

_LSTM_LAYERS = 2


def virtual(config: AdapterConfig, adapter: Mapping[str, Leaf]) -> Pytree:
    """What the trained arrays make: virtual tokens JD, or of a prefix {"k", "v"}, ZJNH each."""
    if config.kind == "prefix" and config.reparametrize == "none":
        return {"k": adapter["k"], "v": adapter["v"]}
    x = adapter["virtual"]
    if config.reparametrize == "lstm":
        x = _lstm(adapter["lstm"], x)
    if config.kind == "prefix":
        made = jnp.tanh(x @ adapter["mlp"]["0"]["weight"] + adapter["mlp"]["0"]["bias"])
        # [hidden, Z, 2, N, H]: keys and values of every layer.
        k, v = jnp.moveaxis(jnp.tensordot(made, adapter["mlp"]["1"]["weight"], 1), (2, 1), (0, 1))
        bias = adapter["mlp"]["1"]["bias"]
        return {"k": k + bias[:, 0, None], "v": v + bias[:, 1, None]}
    if config.reparametrize == "none":
        return x
    layers = [adapter["mlp"][name] for name in sorted(adapter["mlp"])]
    for number, layer in enumerate(layers):
        x = x @ layer["weight"] + layer["bias"]
        x = x if number == len(layers) - 1 else jax.nn.relu(x)
    return x


def virtual_letters(config: AdapterConfig) -> Params:
    """The letters of the arrays that `draw_virtual` draws; the networks' are on every device."""
    if config.kind == "prefix" and config.reparametrize == "none":
        return {"k": "ZJNH", "v": "ZJNH"}
    found: Params = {"virtual": "JD"}
    layer = {"weight": "", "bias": ""}
    if config.reparametrize != "none":
        count = 2 if config.kind == "prefix" or config.reparametrize == "lstm" else 3
        found["mlp"] = {str(number): layer for number in range(count)}
    if config.reparametrize == "lstm":
        one = {"input": "", "carry": "", "bias": ""}
        found["lstm"] = {f"{n}{way}": one for n in range(_LSTM_LAYERS) for way in ("f", "b")}
    return found


def draw_virtual(
    config: AdapterConfig,
    key: jax.Array,
    base: Mapping[str, Leaf],
    letters: Mapping[str, str],
) -> Params:
    """The arrays before training, float32. base, letters: of the model, by name.

    Virtual tokens begin as rows of the table of words (https://arxiv.org/abs/2104.08691), those
    that go through a network and the keys and values of a prefix as normal numbers; networks as
    torch draws them.
    """
    table = next(base[n] for n in ("source_embed", "encoder/embed", "embed") if n in base)
    embed, count = table.shape[1], config.tokens
    tokens_key, network_key = jax.random.split(key)
    if config.kind == "prefix" and config.reparametrize == "none":
        layers, _, heads, width = base[_keys(letters)].shape
        k, v = jax.random.normal(tokens_key, [2, layers, count, heads, width])
        return {"k": k, "v": v}
    if config.reparametrize == "none":
        chosen = jax.random.randint(tokens_key, [count], 0, table.shape[0])
        rows = table[chosen] if isinstance(table, jax.Array) else jnp.zeros([count, embed])
        return {"virtual": rows.astype(jnp.float32)}
    drawn: Params = {"virtual": jax.random.normal(tokens_key, [count, embed])}
    hidden = config.hidden or embed
    keys = iter(jax.random.split(network_key, 32))
    if config.reparametrize == "lstm":
        half = hidden // 2
        drawn["lstm"] = {
            f"{n}{way}": {
                "input": _uniform(next(keys), [embed if n == 0 else hidden, 4 * half], half),
                "carry": _uniform(next(keys), [half, 4 * half], half),
                "bias": _uniform(next(keys), [4 * half], half),
            }
            for n in range(_LSTM_LAYERS)
            for way in ("f", "b")
        }
    if config.kind == "prefix":
        layers, _, heads, width = base[_keys(letters)].shape
        widths: list[list[int]] = [[embed, hidden], [hidden, layers, 2, heads, width]]
    elif config.reparametrize == "lstm":
        widths = [[hidden, hidden], [hidden, embed]]
    else:
        widths = [[embed, hidden], [hidden, hidden], [hidden, embed]]
    drawn["mlp"] = {
        str(number): {
            "weight": _uniform(next(keys), shape, shape[0]),
            "bias": _uniform(next(keys), shape[1:], shape[0]),
        }
        for number, shape in enumerate(widths)
    }
    return drawn


def _keys(letters: Mapping[str, str]) -> str:
    return next(name for name in letters if name.endswith("attention/k"))


def _uniform(key: jax.Array, shape: Sequence[int], fan: int) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-(fan**-0.5), maxval=fan**-0.5)


def _lstm(layers: Mapping[str, Leaf], x: jax.Array) -> jax.Array:
    """Both directions of every layer side by side, [J, hidden]."""
    for n in range(_LSTM_LAYERS):
        forward = _one_way(layers[f"{n}f"], x)
        backward = _one_way(layers[f"{n}b"], x[::-1])[::-1]
        x = jnp.concatenate([forward, backward], axis=-1)
    return x


def _one_way(weights: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    half = weights["carry"].shape[0]

    def step(carry: Pytree, z: jax.Array) -> Pytree:
        h, c = carry
        # torch's order of the gates: in, forget, cell, out.
        i, f, g, o = jnp.split(z + h @ weights["carry"], 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros([half], x.dtype)
    return jax.lax.scan(step, (zero, zero), x @ weights["input"] + weights["bias"])[1]
