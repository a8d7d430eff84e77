"""Reference packs of BERT and of BERT2BERT, and their training recipe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pack_reader import Pack, token_mean

from gesso.models import build

__all__ = ["BERTPack", "token_mean", "trajectory"]


class BERTPack(Pack):
    """One pack; `.train` is its recipe."""

    def __init__(self, family):
        super().__init__(family)
        self.train = self.manifest["train"]

    def replaced(self, **change):
        """The model with other settings: of both sides, where there are two."""
        if self.family == "encoder_decoder":
            sides = {"encoder": self.config.encoder, "decoder": self.config.decoder}
            change = {name: dataclasses.replace(each, **change) for name, each in sides.items()}
        return build(dataclasses.replace(self.config, **change))


def trajectory(pack, loss_of, batches):
    """(loss, gradient norm) before each of the recipe's 20 updates; `batches` are cycled."""
    t = pack.train

    def rate(i):
        ramp = t["peak_lr"] * (i + 1) / t["warmup_steps"]
        turn = jnp.pi * (i - t["warmup_steps"]) / (t["total_steps"] - t["warmup_steps"])
        fall = t["end_lr"] + (t["peak_lr"] - t["end_lr"]) * 0.5 * (1 + jnp.cos(turn))
        return jnp.where(i < t["warmup_steps"], ramp, fall)

    adamw = optax.adamw(
        rate,
        b1=t["beta1"],
        b2=t["beta2"],
        eps=t["eps"],
        weight_decay=t["weight_decay"],
        mask=pack.decays(),
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
