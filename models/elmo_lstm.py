"""One layer of ELMo's LSTMs, both directions at once, and the loop over time it runs in.

Letters: U are the directions, L the time steps in the order a direction reads them (the backward
direction's rows come turned round), G the gates i, j, f, o in the order of published files.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.elmo_config import ELMoConfig
from models.layers import constant, param
from partitioning.axes import in_use, shard

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
        self.read = param(read, "UDGF", sizes=sizes, std=gates_std)
        self.recur = param(recur, "UDGF", sizes=sizes, std=gates_std)
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
        inputs = jax.tree.map(lambda each: _padded(each, more), (x_ULBD, marks))
        x_ULBD, marks = jax.tree.map(
            lambda each: each.reshape(2, turns, steps, *each.shape[2:]), inputs
        )
        dtype = x_ULBD.dtype
        bias_UGF = in_use(self.bias[...], "UGF").astype(jnp.float32).at[:, FORGET].add(1.0)
        weights = _Weights(
            in_use(self.read[...], "UDGF"),
            in_use(self.recur[...], "UDGF"),
            bias_UGF,
            in_use(self.project[...], "UFD"),
        )
        clips = (c.cell_clip or jnp.inf, c.projection_clip or jnp.inf)
        y, after = _run(clips, *(_pair(each) for each in (x_ULBD, marks, weights, state)))
        y_ULBD = jnp.stack([each.reshape(-1, *each.shape[2:])[:length] for each in y])
        return y_ULBD.astype(dtype), jax.tree.map(lambda *each: jnp.stack(each), *after)


class _Weights(NamedTuple):
    """Of one direction, once it is taken apart."""

    read: jax.Array
    recur: jax.Array
    bias: jax.Array
    project: jax.Array


def _padded(x_UL: jax.Array, more: int) -> jax.Array:
    if not more:
        return x_UL
    return jnp.pad(x_UL, [(0, 0), (0, more)] + [(0, 0)] * (x_UL.ndim - 2))


def _pair(tree: Any) -> Any:
    # One loop serves both directions, with half the steps of two; a product each, since one with a
    # batch dim for them is slower on CPU.
    return tuple(jax.tree.map(lambda x, u=u: x[u], tree) for u in (0, 1))


def _one_step(clips: Any, weights: _Weights, state: State, at: Any) -> tuple[State, Any]:
    read_BGF, marks = at
    cell_BF, hidden_BD = state
    if marks is not None:
        cell_BF = jnp.where(marks.begins[:, None], 0, cell_BF)
        hidden_BD = jnp.where(marks.begins[:, None], 0, hidden_BD)
    dtype = weights.recur.dtype
    a_BGF = read_BGF + jnp.einsum(
        "BD,DGF->BGF", hidden_BD.astype(dtype), weights.recur, preferred_element_type=jnp.float32
    )
    i, j, f, o = (shard(a_BGF, "BGF")[:, gate] for gate in range(4))
    i, j, f, o = jax.nn.sigmoid(i), jnp.tanh(j), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
    new_BF = jnp.clip(f * cell_BF + i * j, -clips[0], clips[0])
    said_BD = jnp.einsum(
        "BF,FD->BD",
        (o * jnp.tanh(new_BF)).astype(dtype),
        weights.project,
        preferred_element_type=jnp.float32,
    )
    said_BD = shard(jnp.clip(said_BD, -clips[1], clips[1]), "BD")
    gates_BGF = jnp.stack([i, j, f, o], axis=1).astype(dtype)
    after = State(new_BF, said_BD)
    if marks is not None:
        after = jax.tree.map(lambda x, y: jnp.where(marks.real[:, None], x, y), after, state)
        said_BD = jnp.where(marks.real[:, None], said_BD, 0)
    return after, (gates_BGF, after.cell, after.hidden.astype(dtype), said_BD.astype(dtype))


def _plain(clips: Any, x: Any, marks: Any, weights: Any, state: Any) -> tuple[Any, Any]:
    """Pairs (a direction each) of x [turns, steps, B, D], marks, weights and state -> pairs of y
    [turns, steps, B, D] and of the last state.

    A turn's input projections are one product before its steps, and in the backward pass the
    gradients of its weights one product after them: the loop itself multiplies by the recurrent
    and projection weights alone, and no step adds to a weight's gradient.
    """
    return _forward(clips, x, marks, weights, state)[0]


def _forward(clips, x, marks, weights, state):
    def step(state, at):
        made = [_one_step(clips, *each) for each in zip(weights, state, at, strict=True)]
        return tuple(each[0] for each in made), tuple(each[1] for each in made)

    def turn(state, part):
        x, marks = part
        read = [
            jnp.einsum("LBD,DGF->LBGF", each, w.read, preferred_element_type=jnp.float32) + w.bias
            for each, w in zip(x, weights, strict=True)
        ]
        at = tuple((shard(each, "LBGF"), m) for each, m in zip(read, marks, strict=True))
        return jax.lax.scan(step, state, at)

    after, kept = jax.lax.scan(turn, state, (x, marks))
    y = tuple(each[3] for each in kept)
    return (y, after), (tuple(each[:3] for each in kept), x, marks, weights, state)


def _one_step_back(clips: Any, weights: Any, carry: State, at: Any) -> tuple[State, Any]:
    dcell_BF, dhidden_BD = carry
    dy_BD, (gates_BGF, cell_BF, said_BD), before_BF, marks = at
    recur, project = weights
    dtype = gates_BGF.dtype
    i, j, f, o = (gates_BGF[:, gate].astype(jnp.float32) for gate in range(4))
    passed = carry
    if marks is not None:
        before_BF = jnp.where(marks.begins[:, None], 0, before_BF)
        dy_BD, dcell_BF, dhidden_BD = (
            jnp.where(marks.real[:, None], each, 0) for each in (dy_BD, dcell_BF, dhidden_BD)
        )
    inside = jnp.abs(said_BD) < clips[1]
    dsaid_BD = shard(jnp.where(inside, dhidden_BD + dy_BD, 0), "BD").astype(dtype)
    dm_BF = jnp.einsum("BD,DF->BF", dsaid_BD, project, preferred_element_type=jnp.float32)
    squashed_BF = jnp.tanh(cell_BF)
    dcell_BF = dcell_BF + dm_BF * o * (1 - jnp.square(squashed_BF))
    dcell_BF = jnp.where(jnp.abs(cell_BF) < clips[0], dcell_BF, 0)
    da_BGF = jnp.stack(
        [
            dcell_BF * j * i * (1 - i),
            dcell_BF * i * (1 - jnp.square(j)),
            dcell_BF * before_BF * f * (1 - f),
            dm_BF * squashed_BF * o * (1 - o),
        ],
        axis=1,
    ).astype(dtype)
    da_BGF = shard(da_BGF, "BGF")
    dhidden_BD = jnp.einsum("BGF,GFD->BD", da_BGF, recur, preferred_element_type=jnp.float32)
    before = State(dcell_BF * f, shard(dhidden_BD, "BD"))
    if marks is not None:
        before = jax.tree.map(
            lambda new, old: jnp.where(
                marks.begins[:, None], 0, jnp.where(marks.real[:, None], new, old)
            ),
            before,
            passed,
        )
    return before, (da_BGF, dsaid_BD, (o * squashed_BF).astype(dtype))


def _backward(clips, saved, gradients):
    kept, x, marks, weights, state = saved
    dy, dstate = gradients
    # Turned once here: a loop would read them the slow way round at every step.
    turned = tuple((w.recur.transpose(1, 2, 0), w.project.T) for w in weights)
    turned, read = jax.lax.optimization_barrier(
        (turned, tuple(w.read.transpose(1, 2, 0) for w in weights))
    )

    def step(carry, at):
        made = [_one_step_back(clips, *each) for each in zip(turned, carry, at, strict=True)]
        return tuple(each[0] for each in made), tuple(each[1] for each in made)

    def turn(carry, part):
        dstate, totals = carry
        dy, kept, x, marks, first = part
        # What was known before each step: what was kept of the step before.
        before = [
            State(*(jnp.concatenate([a[None].astype(b.dtype), b[:-1]]) for a, b in pairs))
            for pairs in (
                zip(begun, each[1:], strict=True) for begun, each in zip(first, kept, strict=True)
            )
        ]
        at = tuple(zip(dy, kept, (each.cell for each in before), marks, strict=True))
        dstate, made = jax.lax.scan(step, dstate, at, reverse=True)
        dx, new = [], []
        for u, (da_LBGF, dsaid_LBD, m_LBF) in enumerate(made):
            hidden_LBD = before[u].hidden
            if marks[u] is not None:
                hidden_LBD = jnp.where(marks[u].begins[..., None], 0, hidden_LBD)
            new.append(_weight_gradients(totals[u], x[u], hidden_LBD, da_LBGF, m_LBF, dsaid_LBD))
            dx.append(shard(jnp.einsum("LBGF,GFD->LBD", da_LBGF, read[u]), "LBD"))
        return (dstate, tuple(new)), tuple(dx)

    first = tuple(_before_turns(each[1:], begun) for each, begun in zip(kept, state, strict=True))
    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
    (dstate, totals), dx = jax.lax.scan(
        turn, (dstate, zeros), (dy, kept, x, marks, first), reverse=True
    )
    dweights = jax.tree.map(lambda total, w: total.astype(w.dtype), totals, weights)
    return dx, None, dweights, dstate


def _before_turns(kept: Any, state: State) -> State:
    """The state before each turn: the one before the first, then the last of the others."""
    return State(
        *(
            jnp.concatenate([a[None].astype(b.dtype), b[:-1, -1]])
            for a, b in zip(state, kept, strict=True)
        )
    )


def _weight_gradients(total, x_LBD, hidden_LBD, da_LBGF, m_LBF, dsaid_LBD):
    # One product for the two weights that make the gates, as published files stack them.
    both_LBD = jnp.concatenate([x_LBD, hidden_LBD], axis=-1)
    dboth_DGF = jnp.einsum("LBD,LBGF->DGF", both_LBD, da_LBGF, preferred_element_type=jnp.float32)
    dread_DGF, drecur_DGF = jnp.split(dboth_DGF, 2)
    dproject_FD = jnp.einsum("LBF,LBD->FD", m_LBF, dsaid_LBD, preferred_element_type=jnp.float32)
    return _Weights(
        total.read + dread_DGF,
        total.recur + drecur_DGF,
        total.bias + da_LBGF.sum((0, 1), dtype=jnp.float32),
        total.project + dproject_FD,
    )


_run: Any = jax.custom_vjp(_plain, nondiff_argnums=(0,))
_run.defvjp(_forward, _backward)
