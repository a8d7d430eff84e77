"""ELMo: sharded = single, packed = unpacked, the written-out gradient = autodiff's, what it costs.

The packs (test_elmo_packs.py) hold the equations to the published implementations.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from elmo_rows import SMALL, rows_of, tokenizer
from jax.sharding import NamedSharding

from gesso.models import build, flops_per_token, parameters
from gesso.models.elmo.lstm import BiLSTM, Marks, State
from gesso.objectives import BiLMConfig
from gesso.objectives import build as build_objective
from gesso.partitioning.axes import partition, placements, spec
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh

MESHES = {
    "fsdp": MeshConfig(data=2, fsdp=4),
    "tensor": MeshConfig(data=4, tensor=2),
    "fsdp_tensor": MeshConfig(data=2, fsdp=2, tensor=2),
}
PIECES = [[5, 7], [12], [3, 2, 4, 3], [9], [11, 2], [13], [1, 1, 6], []]


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


def loss_of(model, objective):
    def loss(params, batch):
        values = objective(model.merge(params), batch, jax.random.key(1))
        return sum(
            term.coefficient * jnp.sum(values[name] * batch[term.weight]) / batch[term.weight].sum()
            for name, term in objective.terms.items()
        )

    return loss


def made(softmax, **changes):
    config = dataclasses.replace(SMALL, **changes)
    samples = 16 if softmax == "sampled" else 0
    objective = build_objective(
        BiLMConfig(softmax=softmax, samples=samples), tokenizer=tokenizer(), model=config
    )
    return build(config), objective, objective.host_batch(rows_of(PIECES, length=13))


@functools.cache
def born():
    return jax.jit(build(SMALL).init)(jax.random.key(0))


@functools.cache
def single_device(softmax):
    model, objective, batch = made(softmax, dropout=0.2)
    with jax.default_matmul_precision("highest"):
        params = born()
        return params, jax.jit(jax.value_and_grad(loss_of(model, objective)))(params, batch)


@pytest.mark.parametrize(
    ("layout", "softmax"),
    [
        *(pytest.param(each, "full", marks=pytest.mark.slow) for each in ("fsdp", "tensor")),
        ("fsdp_tensor", "full"),
        ("fsdp_tensor", "sampled"),
    ],
)
def test_sharded_equals_single_device(layout, softmax):
    """I1: cells and gates over tensor, projections over fsdp; the same dropout and samples."""
    params, (want, want_gradient) = single_device(softmax)
    model, objective, batch = made(softmax, dropout=0.2)
    devices, rules = make_mesh(MESHES[layout]), LAYOUTS[layout]
    at_rest = placements(model.letters, rules.at_rest, devices)
    in_flight = {
        name: NamedSharding(
            devices, spec(objective.letters.get(name, "BL"[: leaf.ndim]), rules.in_flight)
        )
        for name, leaf in batch.items()
    }
    with partition(devices, rules):
        placed = jax.jit(model.init, out_shardings=at_rest)(jax.random.key(0))
        step = jax.jit(
            jax.value_and_grad(loss_of(model, objective)),
            in_shardings=(at_rest, in_flight),
            out_shardings=(None, at_rest),
        )
        got, gradient = step(placed, batch)
    for x, y in zip(jax.tree.leaves(placed), jax.tree.leaves(params), strict=True):
        assert (np.asarray(x) == np.asarray(y)).all()
    # Sums over shards are added in another order: some ulps of float32.
    assert abs(float(got) - float(want)) < 4e-6 * float(want)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=4e-6 * largest)
    if "tensor" in layout:
        recur = placed["layers"]["recur"]
        assert recur.addressable_shards[0].data.shape[-1] == recur.shape[-1] // 2


def test_packed_equals_unpacked():
    """I4: every document costs what it costs in a row of its own, wherever it stands."""
    model, objective, _ = made("full")
    params = born()
    run = jax.jit(lambda params, batch: objective(model.merge(params), batch, None))
    packed = rows_of([[4, 6, 3], [13], [2, 8]], length=13)
    cost = run(params, objective.host_batch(packed))
    alone, places = [], []
    for row, segments in enumerate(packed["segments"]):
        for number in range(1, segments.max() + 1):
            here = np.flatnonzero(segments == number)
            alone.append(packed["tokens"][row, here])
            places.append((row, here[:-1]))
    own = rows_of([[len(each)] for each in alone], length=13)
    assert len(alone) == 6
    for row, tokens in enumerate(alone):
        own["tokens"][row, : len(tokens)] = tokens
    want = run(params, objective.host_batch(own))
    for direction in objective.terms:
        for i, (row, here) in enumerate(places):
            got = cost[direction][row, here]
            np.testing.assert_allclose(got, want[direction][i, : len(here)], atol=2e-6)


def test_padding_says_nothing_and_gives_no_nan():
    model, objective, batch = made("full")
    params = born()
    batch = {name: np.zeros_like(leaf) for name, leaf in batch.items()}

    def total(params):
        values = objective(model.merge(params), batch, None)
        return sum(jnp.sum(values[name] * batch[f"{name}_weight"]) for name in values)

    loss, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert loss == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(gradient))


def plain(config, module, x_ULBD, marks, state):
    """The layer as its docstring has it, step by step, for autodiff to differentiate."""

    def direction(u):
        def step(state, at):
            x, begins, real = at
            before = jax.tree.map(lambda each: jnp.where(begins[:, None], 0, each), state)
            a = jnp.einsum("bd,gdf->bgf", x, module.read[u]) + module.bias[u]
            a = a + jnp.einsum("bd,gdf->bgf", before.hidden, module.recur[u])
            i, f, o = (jax.nn.sigmoid(a[:, g] + (g == 2)) for g in (0, 2, 3))
            cell = f * before.cell + i * jnp.tanh(a[:, 1])
            cell = jnp.clip(cell, -config.cell_clip, config.cell_clip)
            hidden = (o * jnp.tanh(cell)) @ module.project[u]
            hidden = jnp.clip(hidden, -config.projection_clip, config.projection_clip)
            after = jax.tree.map(
                lambda x, y: jnp.where(real[:, None], x, y), State(cell, hidden), state
            )
            return after, jnp.where(real[:, None], hidden, 0)

        start = jax.tree.map(lambda each: each[u], state)
        return jax.lax.scan(step, start, (x_ULBD[u], marks.begins[u], marks.real[u]))

    after, said = zip(*(direction(u) for u in (0, 1)), strict=True)
    return jnp.stack(said), jax.tree.map(lambda *each: jnp.stack(each), *after)


@pytest.mark.parametrize("unroll", [4, 0])
def test_the_written_out_gradient_is_the_right_one(unroll):
    """Of every input, the first state and the last one too; clips bite, documents begin and end."""
    config = dataclasses.replace(SMALL, unroll=unroll)
    keys = jax.random.split(jax.random.key(2), 5)
    module = jax.jit(lambda key: BiLSTM(config, key))(keys[0])
    x = jax.random.normal(keys[1], (2, 11, 3, 16))
    state = State(
        0.3 * jax.random.normal(keys[2], (2, 3, 32)), 0.2 * jax.random.normal(keys[3], (2, 3, 16))
    )
    real = np.ones((2, 11, 3), bool)
    real[:, 8:, 0] = real[:, :2, 1] = real[:, 5, 2] = False
    begins = np.zeros_like(real)
    begins[0, 4, 0] = begins[1, 6, 1] = begins[:, 0, 2] = True
    marks = Marks(jnp.asarray(begins), jnp.asarray(real))
    weights = jax.random.normal(keys[4], (2, 11, 3, 16))

    def scored(run):
        def score(module, x, state):
            said, after = run(module, x, state)
            return jnp.sum(weights * said) + sum(jnp.sum(jnp.sin(a)) for a in after)

        return jax.jit(jax.value_and_grad(score, argnums=(0, 1, 2)))(module, x, state)

    got, gradient = scored(lambda module, x, state: module(x, marks, state))
    want, want_gradient = scored(lambda module, x, state: plain(config, module, x, marks, state))
    assert float(got) == pytest.approx(float(want), abs=1e-4)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


def test_bfloat16_stays_near_float32():
    model, objective, batch = made("full", dropout=0.2)
    params = born()
    run = jax.jit(jax.value_and_grad(loss_of(model, objective)))
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    want, (got, gradient) = single_device("full")[1][0], run(low, batch)
    assert abs(float(got) - float(want)) < 0.02
    assert all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "changes",
    [{}, {"highways": 3, "head": "separate"}, {"reads": "words", "head": "tied"}, {"head": "none"}],
)
def test_counted_parameters_are_those_there_are(changes):
    config = dataclasses.replace(SMALL, **changes)
    made = jax.eval_shape(build(config).init, jax.random.key(0))
    count = parameters(config)
    assert sum(x.size for x in jax.tree.leaves(made)) == count["total"]
    assert count["matmul"] < count["total"] + count["embedding"]
    assert flops_per_token(config, 8) == flops_per_token(config, 800) > 0


def test_free_and_tied_heads():
    """Each direction its own softmax, or the table of words as the softmax of both."""
    words = rows_of([[6], [4]], length=6)
    batch = {"tokens": words["tokens"] % 64, "segments": words["segments"]}
    for head in ("separate", "tied", "shared"):
        config = dataclasses.replace(SMALL, reads="words", head=head)
        model = build(config)
        params = jax.jit(model.init)(jax.random.key(0))
        module = model.merge(params)
        out = jax.jit(lambda params, model=model: model.apply(params, batch, hidden=True))(params)
        assert out["forward_logits"].shape == (2, 6, 64)
        assert out["hidden"].shape == (3, 2, 6, 32)
        for u, direction in enumerate(("forward", "backward")):
            table, bias = module.head(direction)
            said = out["hidden"][-1][..., 16 * u : 16 * (u + 1)]
            np.testing.assert_allclose(out[f"{direction}_logits"], said @ table.T + bias, atol=1e-5)
        same = (module.head("forward")[0] == module.head("backward")[0]).all()
        assert bool(same) == (head != "separate")


def test_contradictions_are_refused():
    for changes, told in (
        ({"filters": ((9, 4),)}, "widths are from 1 to the 8"),
        ({"head": "tied"}, "needs the table of a model that reads words"),
        ({"reads": "words", "chunk_words": 8}, "has no effect"),
        ({"dropout": 1.0}, "below 1"),
        ({"cell_clip": -1.0}, "cannot be negative"),
        ({"characters": 3, "filters": ((1, 4),)}, "no room"),
    ):
        with pytest.raises(ValueError, match=told):
            build(dataclasses.replace(SMALL, **changes))
