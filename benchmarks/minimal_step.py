"""GPT-Neo's training step as one would write it in plain JAX on one screen: the peer of ours.

No segments, no shards, no microbatches: textbook layer norm, dense attention, a scan over pairs of
a global and a local layer, log-softmax, AdamW with clipping.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gesso.models.config import GPTConfig


def make(config: GPTConfig, *, learning_rate: float) -> Any:
    """(our params -> state, (state, tokens i32[B, L], targets i32[B, L]) -> (state, loss))."""
    c = config
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(learning_rate))

    def take_over(params: Any) -> Any:
        """Our tree of parameters in this file's spelling, and a fresh optimizer state."""
        blocks = params["blocks"]
        attention, mlp = blocks["attention"], blocks["mlp"]
        z, d = c.layers, c.embed
        norms = [blocks["attention_norm"], blocks["mlp_norm"]]
        mine = {
            "embed": params["embed"],
            "positions": params["positions"],
            "qkv": jnp.concatenate([attention[x].reshape(z, d, d) for x in "qkv"], axis=-1),
            "out": attention["out"].reshape(z, d, d),
            "up": mlp["up"],
            "down": mlp["down"],
            "out_bias": attention["out_bias"],
            "up_bias": mlp["up_bias"],
            "down_bias": mlp["down_bias"],
            "norms": jnp.stack(
                [jnp.stack([n[x] for n in norms], axis=1) for x in ("scale", "bias")], axis=1
            ),
            "norm": jnp.stack([params["norm"]["scale"], params["norm"]["bias"]]),
        }
        return mine, optimizer.init(mine)

    def normalize(x: jax.Array, weights: jax.Array) -> jax.Array:
        x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + c.epsilon)
        return x * weights[0] + weights[1]

    def block(x: jax.Array, p: Any, mask: jax.Array) -> jax.Array:
        rows, length, _ = x.shape
        qkv = normalize(x, p["norms"][:, 0]) @ p["qkv"]
        q, k, v = jnp.split(qkv.reshape(rows, length, 3 * c.heads, c.head_dim), 3, axis=2)
        logits = jnp.einsum("blnh,bsnh->bnls", q, k)
        weights = jax.nn.softmax(jnp.where(mask, logits, -1e9), axis=-1)
        y = jnp.einsum("bnls,bsnh->blnh", weights, v).reshape(x.shape)
        x = x + y @ p["out"] + p["out_bias"]
        h = jax.nn.gelu(normalize(x, p["norms"][:, 1]) @ p["up"] + p["up_bias"])
        return x + h @ p["down"] + p["down_bias"]

    def loss_fn(params: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        length = tokens.shape[1]
        distance = jnp.arange(length)[:, None] - jnp.arange(length)[None]
        masks = (distance >= 0, (distance >= 0) & (distance < c.window))
        x = params["embed"][tokens] + params["positions"][:length]
        outside = ("embed", "positions", "norm")
        layers = {name: leaf for name, leaf in params.items() if name not in outside}
        pairs = jax.tree.map(lambda leaf: leaf.reshape(-1, 2, *leaf.shape[1:]), layers)

        def pair(x: jax.Array, p: Any) -> Any:
            for i, mask in enumerate(masks):
                x = block(x, jax.tree.map(lambda leaf, i=i: leaf[i], p), mask)
            return x, None

        x, _ = jax.lax.scan(pair, x, pairs)
        log_p = jax.nn.log_softmax(normalize(x, params["norm"]) @ params["embed"].T)
        return -jnp.take_along_axis(log_p, targets[..., None], axis=-1).mean()

    def step(state: Any, tokens: jax.Array, targets: jax.Array) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, tokens, targets)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return take_over, step
