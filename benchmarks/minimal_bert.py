"""BERT's training step as one would write it in plain JAX on one screen: the peer of ours.

No shards, no microbatches: textbook post-norm layers in a scan, dense attention under a mask, the
head on the predicted places (or on all), log-softmax, AdamW with clipping.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax


def make(config: Any, *, learning_rate: float, head: Literal["gathered", "all"]) -> Any:
    """(our params -> state, (state, batch) -> (state, loss)); batch: that of objectives/masked.py
    without pairs. head "all": logits at every place, of which the predicted ones are taken."""
    c = config
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(learning_rate))

    def normalize(x: jax.Array, weights: Any) -> jax.Array:
        x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + c.epsilon)
        return x * weights["scale"] + weights["bias"]

    def block(x: jax.Array, p: Any, mask: jax.Array) -> jax.Array:
        rows, length, width = x.shape
        qkv = (x @ p["qkv"] + p["qkv_bias"]).reshape(rows, length, 3 * c.heads, -1)
        q, k, v = jnp.split(qkv, 3, axis=2)
        logits = jnp.einsum("blnh,bsnh->bnls", q, k) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(mask, logits, -1e9), axis=-1)
        y = jnp.einsum("bnls,bsnh->blnh", weights, v).reshape(rows, length, width)
        x = normalize(x + y @ p["out"] + p["out_bias"], p["attention_norm"])
        h = jax.nn.gelu(x @ p["up"] + p["up_bias"], approximate=False)
        return normalize(x + h @ p["down"] + p["down_bias"], p["mlp_norm"])

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        segments, places = batch["segments"], batch["masked_places"]
        mask = (segments[:, None, :, None] == segments[:, None, None, :]) & (
            segments[:, None, None] > 0
        )
        x = params["table"][batch["tokens"]] + params["positions"][batch["positions"]]
        x = normalize(x + params["types"][batch["token_types"]], params["norm"])
        x, _ = jax.lax.scan(lambda x, p: (block(x, p, mask), None), x, params["layers"])
        if head == "gathered":
            x = jnp.take_along_axis(x, places[..., None], axis=1)
        h = jax.nn.gelu(x @ params["dense"] + params["dense_bias"], approximate=False)
        logits = normalize(h, params["head_norm"]) @ params["table"].T + params["head_bias"]
        log_p = jax.nn.log_softmax(logits)
        if head == "all":
            log_p = jnp.take_along_axis(log_p, places[..., None], axis=1)
        nll = -jnp.take_along_axis(log_p, batch["targets"][..., None], axis=-1)[..., 0]
        return (nll * batch["mlm_weight"]).sum() / batch["mlm_weight"].sum()

    def step(state: Any, batch: Any) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def take_over(params: Any) -> Any:
        mine = _spelled(params, layers=c.layers, width=c.embed)
        return mine, optimizer.init(mine)

    return take_over, step


def _spelled(params: Any, *, layers: int, width: int) -> Any:
    """Our tree of parameters in this file's spelling."""
    attention, mlp = params["blocks"]["attention"], params["blocks"]["mlp"]
    matrices = [attention[x].reshape(layers, width, width) for x in "qkv"]
    biases = [attention[f"{x}_bias"].reshape(layers, width) for x in "qkv"]
    return {
        "table": params["embed"],
        "positions": params["positions"],
        "types": params["token_types"],
        "norm": params["embed_norm"],
        "layers": {
            "qkv": jnp.concatenate(matrices, axis=-1),
            "qkv_bias": jnp.concatenate(biases, axis=-1),
            "out": attention["out"].reshape(layers, width, width),
            "out_bias": attention["out_bias"],
            "up": mlp["up"],
            "up_bias": mlp["up_bias"],
            "down": mlp["down"],
            "down_bias": mlp["down_bias"],
            "attention_norm": params["blocks"]["attention_norm"],
            "mlp_norm": params["blocks"]["mlp_norm"],
        },
        "dense": params["mlm"]["dense"]["weight"],
        "dense_bias": params["mlm"]["dense"]["bias"],
        "head_norm": params["mlm"]["norm"],
        "head_bias": params["mlm"]["bias"],
    }
