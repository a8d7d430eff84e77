"""Optax optimizers by name, with decay masks and learning-rate multipliers by parameter name."""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from gesso.models.model import Params
from gesso.models.trees import flat, nest
from gesso.pretrain.config import OptimizerConfig
from gesso.pretrain.optimizer.layer_rates import layer_scales, scale_updates
from gesso.pretrain.optimizer.schedule import make_schedule
from gesso.pretrain.optimizer.trained import Letters, PatternError, matches, refuse_unused


def parameter_names(params: Params) -> Params:
    """The nested dict `params` with each leaf replaced by its name, "blocks/attention/q"."""
    return nest({name: name for name in flat(params)})


def make_optimizer(
    config: OptimizerConfig,
    letters: Letters,
    *,
    steps: int,
    whole: Mapping[str, Sequence[int]] | None = None,
    counts: Literal["one", "each"] = "one",
) -> optax.GradientTransformation:
    """The optimizer of parameters that are spelled by `letters` ({"embed": "VD", ...}).

    whole: the shapes of all the model's parameters by name, where `letters` may be only those that
    are trained: patterns may name the others too, and layer_decay counts the layers in it.
    counts: "each" parameter, and layer, counts its updates for Adam's bias correction, so that some
    may begin later than others (a run in stages).

    Gradients arrive clipped (the step does it). Raises PatternError for patterns that match no
    parameter and for parameters that no multiplier covers.

    AdamW, Lion and Muon are optax's, as is Adagrad, whose epsilon is added to the sum of squares;
    the weight decay is decoupled and scaled by the learning rate (torch.optim.AdamW). Adafactor
    (https://arxiv.org/abs/1804.04235) factors and clips each layer by itself, as it would without
    stacked layers. Muon (https://kellerjordan.github.io/posts/muon; momentum 0.95) orthogonalises
    the weights of the layers; all else takes AdamW with b1 and b2.
    """
    names = parameter_names(letters)
    whole = whole or {}
    known = list(whole or jax.tree.leaves(names))
    schedule = make_schedule(config.schedule, steps=steps)
    parts = [_core(config, letters, counts)]
    if config.weight_decay:
        parts.append(
            optax.add_decayed_weights(config.weight_decay, mask=_decay_mask(config, names, known))
        )
    elif config.no_decay:
        raise PatternError("optimizer.no_decay has no effect while optimizer.weight_decay is 0")
    if config.multipliers:
        scale = _multipliers(config.multipliers, names, known)
        parts.append(
            optax.stateless(lambda updates, _: jax.tree.map(lambda u, s: u * s, updates, scale))
        )
    if config.layer_decay != 1:
        scales = layer_scales(config.layer_decay, letters, whole)
        parts.append(optax.stateless(lambda updates, _: scale_updates(updates, scales)))
    parts.append(
        optax.scale_by_learning_rate(lambda t: config.learning_rate * schedule(jnp.asarray(t)))
    )
    return optax.chain(*parts)


def _core(config: OptimizerConfig, letters: Letters, counts: str) -> optax.GradientTransformation:
    if config.name == "adamw" and counts == "each":
        return _adam_counting_each(letters, b1=config.b1, b2=config.b2, epsilon=config.epsilon)
    if config.name == "adamw":
        return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon)
    if config.name == "adamw_bert":
        return _adam_uncorrected(b1=config.b1, b2=config.b2, epsilon=config.epsilon)
    if config.name == "adagrad":
        return optax.scale_by_rss(config.initial_accumulator, eps=config.epsilon)
    if config.name == "lion":
        return optax.scale_by_lion(b1=config.b1, b2=config.b2)
    if config.name == "adafactor":
        factored = optax.chain(optax.adafactor(None), optax.scale(-1.0))
        labels = jax.tree.map(lambda each: "layers" if each.startswith("Z") else "single", letters)
        used = set(jax.tree.leaves(labels))
        each = {"layers": _per_layer(factored), "single": factored}
        return optax.partition({label: each[label] for label in used}, labels)
    matrices = jax.tree.map(_muon_dims, letters)
    muon = contrib.muon(
        1.0,
        beta=0.95,
        eps=config.epsilon,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=lambda _: matrices,
    )
    return optax.chain(muon, optax.scale(-1.0))


def _adam_counting_each(
    letters: Letters, *, b1: float, b2: float, epsilon: float
) -> optax.GradientTransformation:
    """optax.scale_by_adam, but every parameter, and every one of stacked layers, has a count of its
    own: moments that begin at 0 later than others are corrected for it as if alone."""

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        count = jax.tree.map(
            lambda p, each: jnp.zeros(p.shape[:1] if each.startswith("Z") else (), jnp.int32),
            params,
            letters,
        )
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=count, mu=zeros, nu=zeros)  # pyright: ignore

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, updates)
        count = jax.tree.map(lambda n: n + 1, state.count)

        def unbias(moment: jax.Array, n: jax.Array, b: float) -> jax.Array:
            n = n.reshape(*n.shape, *[1] * (moment.ndim - n.ndim)).astype(jnp.float32)
            return moment / (1 - b**n).astype(moment.dtype)

        steps = jax.tree.map(
            lambda m, v, n: unbias(m, n, b1) / (jnp.sqrt(unbias(v, n, b2)) + epsilon),
            mu,
            nu,
            count,
        )
        return steps, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _adam_uncorrected(*, b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam whose moments start at 0 and are not corrected for it: BERT's AdamWeightDecayOptimizer
    (https://github.com/google-research/bert, optimization.py). Early updates are smaller."""

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros, nu=zeros)

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, updates)
        steps = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        return steps, optax.ScaleByAdamState(count=state.count + 1, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _muon_dims(letters: str) -> contrib.MuonDimensionNumbers | None:
    """How a stacked weight is a matrix: D against the other letters; None where it is not one."""
    inner = letters[1:]
    if not letters.startswith("Z") or "D" not in inner or len(inner) < 2:
        return None
    embed = (letters.index("D"),)
    other = tuple(i for i, each in enumerate(letters) if each not in "ZD")
    reads_embed = inner[0] == "D"
    return contrib.MuonDimensionNumbers(
        reduction_axis=embed if reads_embed else other, output_axis=other if reads_embed else embed
    )


def _per_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` applied to every layer of stacked parameters by itself."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.vmap(inner.update)(updates, state, params)

    return optax.GradientTransformation(jax.vmap(inner.init), update)


def _decay_mask(config: OptimizerConfig, names: Params, known: list[str]) -> Params:
    for setting, patterns in (("decay", config.decay), ("no_decay", config.no_decay)):
        for pattern in patterns:
            refuse_unused(f"optimizer.{setting}", pattern, known)
    return jax.tree.map(
        lambda name: matches(name, config.decay) and not matches(name, config.no_decay), names
    )


def _multipliers(patterns: dict[str, float], names: Params, known: list[str]) -> Params:
    every = jax.tree.leaves(names)
    for pattern in patterns:
        refuse_unused("optimizer.multipliers", pattern, known)
    if open_names := [name for name in every if not matches(name, tuple(patterns))]:
        raise PatternError(
            f"optimizer.multipliers cover no {', '.join(open_names[:3])}"
            f"{' ...' if len(open_names) > 3 else ''}; add '*': 1.0 as the last pattern"
        )
    first = {
        name: next(scale for pattern, scale in patterns.items() if matches(name, (pattern,)))
        for name in every
    }
    return jax.tree.map(lambda name: first[name], names)
