"""Learning-rate schedules: the multiple of the peak that update number t (from 0) takes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gesso.pretrain.config import ScheduleConfig

Schedule = Callable[[jax.Array], jax.Array]


def make_schedule(config: ScheduleConfig, *, steps: int) -> Schedule:
    """t (i32[]) -> multiple of the peak (f32[]) for a run of `steps` updates.

    Sources: cosine and linear as Megatron-LM counts them (update 0 takes peak / warmup); wsd
    (MiniCPM, https://arxiv.org/abs/2404.06395): the decay is the run's last `decay_steps`;
    inverse_sqrt (https://arxiv.org/abs/1706.03762, equation 3): sqrt(warmup / t) after the warmup;
    inverse_sqrt_held (T5, https://arxiv.org/abs/1910.10683, section 3.1.2): without the ramp; stlr
    (ULMFiT, https://arxiv.org/abs/1801.06146, equation 3) with `final` = 1 / ratio.
    """
    warmup = config.warmup_steps
    decay = config.decay_steps or max(steps - warmup, 1)
    start = steps - decay if config.kind == "wsd" else warmup
    if config.kind == "stlr":
        return lambda t: _triangle(t, warmup or max(steps // 10, 1), steps, config.final)

    def multiple(t: jax.Array) -> jax.Array:
        t = jnp.asarray(t, jnp.float32)
        progress = jnp.clip((t - start) / decay, 0.0, 1.0)
        inverse_sqrt = jnp.sqrt(max(warmup, 1) / jnp.maximum(t + 1, max(warmup, 1)))
        shape = {
            "constant": lambda: jnp.float32(1),
            "cosine": lambda: (
                config.final + (1 - config.final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
            ),
            "linear": lambda: 1 - (1 - config.final) * progress,
            "wsd": lambda: 1 - (1 - config.final) * progress,
            "inverse_sqrt": lambda: jnp.maximum(inverse_sqrt, config.final),
            "inverse_sqrt_held": lambda: jnp.maximum(inverse_sqrt, config.final),
        }[config.kind]()
        if config.kind == "inverse_sqrt_held":
            return shape
        return jnp.where(t < warmup, (t + 1) / max(warmup, 1), shape)

    return multiple


def _triangle(t: jax.Array, cut: int, steps: int, final: float) -> jax.Array:
    t = jnp.asarray(t, jnp.float32)
    up, down = t / cut, 1 - (t - cut) / max(steps - cut, 1)
    return final + (1 - final) * jnp.clip(jnp.where(t < cut, up, down), 0.0, 1.0)
