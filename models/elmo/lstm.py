"""One layer of ELMo's LSTMs, both directions at once, and the loop over time it runs in.

Letters: U are the directions, L the time steps in the order a direction reads them (the backward
direction's rows come turned round), G the gates i, j, f, o in the order of published files.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gesso.models.elmo.config import ELMoConfig
from gesso.models.layers.layers import constant, param
from gesso.models.trees import Pytree
from gesso.partitioning.axes import in_use, shard

FORGET = 2  # the gate that 1 is added to at run time; files hold its bias without that


class State(NamedTuple):
    """What a direction knows after a token: its cells and its output, which it reads next."""

    cell: jax.Array
    hidden: jax.Array


class Marks(NamedTuple):
    """Of each place of a row as a direction reads it, bool[U, L, B].

    begins: a document begins here after another one ended: nothing is known of what came before.
    real: there is a token; at padding the state stays what it is.
    """

    begins: jax.Array
    real: jax.Array


class BiLSTM(nnx.Module):
    """LSTM with projection (https://arxiv.org/abs/1402.1128), cells and projections clipped:

    a = W_x x + W_h h + b;  c = clip(f c + i j);  h = clip(W_p (o tanh c))

    with sigmoid gates i, f, o, tanh j, and 1 added to the forget gate's bias.
    """

    def __init__(self, config: ELMoConfig, key: jax.Array):
        self.config, sizes = config, config.sizes
        read, recur, project = jax.random.split(key, 3)
        # TensorFlow's default for its two kernels, [x; h] to gates and cells to output (Glorot).
        gates_std = (2 / (2 * config.embed + 4 * config.cell)) ** 0.5
        self.read = param(read, "UGDF", sizes=sizes, std=gates_std)
        self.recur = param(recur, "UGDF", sizes=sizes, std=gates_std)
        self.bias = constant(0.0, "UGF", sizes=sizes)
        out_std = (2 / (config.cell + config.embed)) ** 0.5
        self.project = param(project, "UFD", sizes=sizes, std=out_std)

    def __call__(
        self, x_ULBD: jax.Array, marks: Marks | None, state: State
    ) -> tuple[jax.Array, State]:
        """What each direction says after each place, ULBD (0 at padding), and its last state.
        state: cell f32[U, B, F], hidden f32[U, B, D] from before the first place."""
        c, length = self.config, x_ULBD.shape[1]
        steps = min(c.unroll or length, length)
        turns = -(-length // steps)
        steps = -(-length // turns)  # as even as can be: the least padding
        if (more := turns * steps - length) and marks is None:
            shape = x_ULBD.shape[:3]
            marks = Marks(jnp.zeros(shape, bool), jnp.ones(shape, bool))
        inputs = jax.tree.map(lambda each: _pad(each, more), (x_ULBD, marks))
        x_ULBD, marks = jax.tree.map(
            lambda each: each.reshape(2, turns, steps, *each.shape[2:]), inputs
        )
        dtype = x_ULBD.dtype
        bias_UGF = in_use(self.bias[...], "UGF").astype(jnp.float32).at[:, FORGET].add(1.0)
        weights = _Weights(
            in_use(self.read[...], "UGDF"),
            in_use(self.recur[...], "UGDF"),
            bias_UGF,
            in_use(self.project[...], "UFD"),
        )
        clips = (c.cell_clip or jnp.inf, c.projection_clip or jnp.inf)
        y, after = _run(clips, *(_pair(each) for each in (x_ULBD, marks)), weights, _pair(state))
        y_ULBD = jnp.stack([each.reshape(-1, *each.shape[2:])[:length] for each in y])
        return y_ULBD.astype(dtype), jax.tree.map(lambda *each: jnp.stack(each), *after)


class _Weights(NamedTuple):
    """Of both directions as parameters lie; their totals in the backward pass: tuples of gates.

    Products take a gate's part each: an array [.., G, F] has a dim of 4 where TPUs want a multiple
    of 8, and turning the weights would cost more than the loop over time.
    """

    read: Pytree
    recur: Pytree
    bias: Pytree
    project: Pytree


class _Direction(NamedTuple):
    """What a step of one direction multiplies by: DF of each gate, and FD."""

    recur: tuple[jax.Array, ...]
    project: jax.Array


def _pad(x_UL: jax.Array, more: int) -> jax.Array:
    if not more:
        return x_UL
    return jnp.pad(x_UL, [(0, 0), (0, more)] + [(0, 0)] * (x_UL.ndim - 2))


def _pair(tree: Pytree) -> Pytree:
    # One loop serves both directions, with half the steps of two; a product each, since one with a
    # batch dim for them is slower on CPU.
    return tuple(jax.tree.map(lambda x, u=u: x[u], tree) for u in (0, 1))


def _one_step(clips: Pytree, weights: _Direction, state: State, at: Pytree) -> tuple[State, Pytree]:
    read, marks = at
    cell_BF, hidden_BD = state
    if marks is not None:
        cell_BF = jnp.where(marks.begins[:, None], 0, cell_BF)
        hidden_BD = jnp.where(marks.begins[:, None], 0, hidden_BD)
    dtype = weights.project.dtype
    heard_BD = hidden_BD.astype(dtype)
    i, j, f, o = (
        shard(read_BF + _product("BD,DF->BF", heard_BD, recur_DF), "BF")
        for read_BF, recur_DF in zip(read, weights.recur, strict=True)
    )
    i, j, f, o = jax.nn.sigmoid(i), jnp.tanh(j), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
    new_BF = jnp.clip(f * cell_BF + i * j, -clips[0], clips[0])
    said_BD = _product("BF,FD->BD", (o * jnp.tanh(new_BF)).astype(dtype), weights.project)
    said_BD = shard(jnp.clip(said_BD, -clips[1], clips[1]), "BD")
    gates = tuple(each.astype(dtype) for each in (i, j, f, o))
    after, before = State(new_BF, said_BD), State(cell_BF, heard_BD)
    if marks is not None:
        after = jax.tree.map(lambda x, y: jnp.where(marks.real[:, None], x, y), after, state)
        said_BD = jnp.where(marks.real[:, None], said_BD, 0)
    return after, (gates, before, said_BD.astype(dtype))


def _product(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _over_gates(spec: str, xs: Pytree, ys: Pytree) -> jax.Array:
    first, *others = (_product(spec, x, y) for x, y in zip(xs, ys, strict=True))
    return sum(others, start=first)


def _plain(
    clips: Pytree, x: Pytree, marks: Pytree, weights: _Weights, state: Pytree
) -> tuple[Pytree, Pytree]:
    """Pairs (a direction each) of x [turns, steps, B, D], marks and state -> pairs of y
    [turns, steps, B, D] and of the last state.

    A turn's input projections are products before its steps, and in the backward pass the
    gradients of its weights products after them: the loop itself multiplies by the recurrent and
    projection weights alone, and no step adds to a weight's gradient.
    """
    return _forward(clips, x, marks, weights, state)[0]


def _forward(clips, x, marks, weights, state):
    directions = tuple(
        _Direction(tuple(weights.recur[u]), weights.project[u]) for u in range(len(x))
    )

    def step(state, at):
        made = [_one_step(clips, *each) for each in zip(directions, state, at, strict=True)]
        return tuple(each[0] for each in made), tuple(each[1] for each in made)

    def turn(state, part):
        x, marks = part
        read = tuple(
            tuple(
                shard(_product("LBD,DF->LBF", x_LBD, read_DF) + bias_F, "LBF")
                for read_DF, bias_F in zip(weights.read[u], weights.bias[u], strict=True)
            )
            for u, x_LBD in enumerate(x)
        )
        return jax.lax.scan(step, state, tuple(zip(read, marks, strict=True)))

    after, kept = jax.lax.scan(turn, state, (x, marks))
    y = tuple(each[-1] for each in kept)
    return (y, after), (kept, x, marks, weights)


def _one_step_back(
    clips: Pytree, weights: _Direction, carry: State, at: Pytree
) -> tuple[State, Pytree]:
    dcell_BF, dhidden_BD = carry
    dy_BD, (gates, (before_BF, _), said_BD), marks = at
    dtype = weights.project.dtype
    i, j, f, o = (each.astype(jnp.float32) for each in gates)
    passed = carry
    if marks is not None:
        dy_BD, dcell_BF, dhidden_BD = (
            jnp.where(marks.real[:, None], each, 0) for each in (dy_BD, dcell_BF, dhidden_BD)
        )
    inside = jnp.abs(said_BD) < clips[1]
    dsaid_BD = shard(jnp.where(inside, dhidden_BD + dy_BD, 0), "BD").astype(dtype)
    dm_BF = _product("BD,FD->BF", dsaid_BD, weights.project)
    cell_BF = jnp.clip(f * before_BF + i * j, -clips[0], clips[0])
    squashed_BF = jnp.tanh(cell_BF)
    dcell_BF = dcell_BF + dm_BF * o * (1 - jnp.square(squashed_BF))
    dcell_BF = jnp.where(jnp.abs(cell_BF) < clips[0], dcell_BF, 0)
    da = (
        dcell_BF * j * i * (1 - i),
        dcell_BF * i * (1 - jnp.square(j)),
        dcell_BF * before_BF * f * (1 - f),
        dm_BF * squashed_BF * o * (1 - o),
    )
    da = tuple(shard(each.astype(dtype), "BF") for each in da)
    dhidden_BD = _over_gates("BF,DF->BD", da, weights.recur)
    before = State(dcell_BF * f, shard(dhidden_BD, "BD"))
    if marks is not None:
        before = jax.tree.map(
            lambda new, old: jnp.where(
                marks.begins[:, None], 0, jnp.where(marks.real[:, None], new, old)
            ),
            before,
            passed,
        )
    # Here the gates' gradients are at hand: after the loop their sums would read them all again.
    dbias = tuple(each.sum(0, dtype=jnp.float32) for each in da)
    return before, (da, dbias, dsaid_BD, (o * squashed_BF).astype(dtype))


def _backward(clips, saved, gradients):
    kept, x, marks, weights = saved
    dy, dstate = gradients
    directions = tuple(
        _Direction(tuple(weights.recur[u]), weights.project[u]) for u in range(len(x))
    )

    def step(carry, at):
        made = [_one_step_back(clips, *each) for each in zip(directions, carry, at, strict=True)]
        return tuple(each[0] for each in made), tuple(each[1] for each in made)

    def turn(carry, part):
        dstate, totals = carry
        dy, kept, x, marks = part
        at = tuple(zip(dy, kept, marks, strict=True))
        dstate, made = jax.lax.scan(step, dstate, at, reverse=True)
        dx, new = [], []
        for u, (da, *others) in enumerate(made):
            new.append(_weight_gradients(totals[u], x[u], kept[u][1].hidden, da, *others))
            dx_LBD = _over_gates("LBF,DF->LBD", da, weights.read[u])
            dx.append(shard(dx_LBD, "LBD").astype(x[u].dtype))
        return (dstate, tuple(new)), tuple(dx)

    zeros = tuple(
        _Weights(*(_parts(jnp.zeros(w.shape[1:], jnp.float32), name) for name, w in named))
        for named in (weights._asdict().items() for _ in x)
    )
    (dstate, totals), dx = jax.lax.scan(turn, (dstate, zeros), (dy, kept, x, marks), reverse=True)
    dweights = _Weights(
        *(
            jnp.stack([jnp.stack(each) if isinstance(each, tuple) else each for each in pair])
            for pair in zip(*totals, strict=True)
        )
    )
    dweights = jax.tree.map(lambda total, w: total.astype(w.dtype), dweights, weights)
    return dx, None, dweights, dstate


def _parts(w: jax.Array, name: str) -> Pytree:
    """A weight's total in the backward pass: of each gate by itself, where it has gates."""
    return w if name == "project" else tuple(w)


def _weight_gradients(total, x_LBD, hidden_LBD, da, dbias, dsaid_LBD, m_LBF):
    def grow(totals: Pytree, y_LBD: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(
            w_DF + _product("LBD,LBF->DF", y_LBD, da_LBF)
            for w_DF, da_LBF in zip(totals, da, strict=True)
        )

    return _Weights(
        grow(total.read, x_LBD),
        grow(total.recur, hidden_LBD),
        tuple(
            b_F + da_LBF.sum((0, 1), dtype=jnp.float32)
            for b_F, da_LBF in zip(total.bias, da, strict=True)
        ),
        total.project + _product("LBF,LBD->FD", m_LBF, dsaid_LBD),
    )


_run: Pytree = jax.custom_vjp(_plain, nondiff_argnums=(0,))
_run.defvjp(_forward, _backward)
