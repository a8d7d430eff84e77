"""I1 for every family on every layout, in the real training step; what the step sends; and that the
partitioner never gathers an array on every device because it found no better way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from laid_out_steps import FAMILIES, MESHES, RECURRENT, born, compiler_says, laid_out, random_batch

from gesso.planning.hlo import collectives

UPDATES = 3
CASES = [
    (family, mesh)
    for family in FAMILIES
    for mesh in MESHES
    if not (family in RECURRENT and MESHES[mesh][1].sequence > 1)
]
NO_GOOD_WAY = "full rematerialization"


class Trained:
    """Three updates of a family's step on a mesh, brought home; and the compiled step."""

    def __init__(self, family: str, mesh: str):
        with jax.default_matmul_precision("highest"):
            made = laid_out(family, mesh)
            traced = made.trace()
            with compiler_says() as self.said:
                self.compiled = traced.lower().compile()
            if mesh in ("single", "fsdp_tensor"):  # once: init takes as long to compile
                state = born(made)
            else:
                state = jax.tree.map(lambda x, to: jax.device_put(x, to.sharding),
                                     single(family).born, made.state)  # fmt: skip
            self.born = jax.device_get(state)
            self.losses, self.norms = [], []
            for update in range(UPDATES):
                batch = random_batch(made, seed=update)
                placed = {name: jax.device_put(x, made.batch[name].sharding)
                          for name, x in batch.items()}  # fmt: skip
                state, metrics = self.compiled(state, placed)
                self.losses.append(float(metrics["loss"]))
                self.norms.append(float(metrics["grad_norm"]))
                if update == 0:
                    # What the optimizer keeps after one update is made of nothing but gradients.
                    self.kept = [
                        (_moment(path), np.asarray(x))
                        for path, x in jax.tree.leaves_with_path(state["opt_state"])
                    ]
        self.parameter_bytes = sum(x.nbytes for x in jax.tree.leaves(self.born["params"]))


def _moment(path) -> str:
    """What an array of the optimizer's state is: "mu", "nu", "count"."""
    return [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)][-1]


@functools.cache
def single(family: str) -> Trained:
    return Trained(family, "single")


@pytest.mark.parametrize(
    ("family", "mesh"),
    [
        pytest.param(*case, marks=() if case == ("gpt2", "fsdp_optimizer") else pytest.mark.slow)
        for case in CASES
    ],
)
def test_a_family_on_a_layout(family, mesh):
    one, many = single(family), Trained(family, mesh)
    for x, y in zip(*(jax.tree.leaves(run.born["params"]) for run in (many, one)), strict=True):
        # The same bits drawn; see tests/models/test_seq2seq_sharded.py for the two ulp.
        np.testing.assert_array_max_ulp(x, y, maxulp=2)
    # Sums in another order: some float32 roundings of losses near 5.6.
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-6)
    np.testing.assert_allclose(many.norms, one.norms, rtol=2e-5)
    assert one.losses[0] != one.losses[1], "batches must differ for this to show"
    largest: dict[str, float] = {}
    for name, x in one.kept:
        largest[name] = max(largest.get(name, 0.0), float(np.abs(x).max()))
    for (name, x), (_, y) in zip(many.kept, one.kept, strict=True):
        # Where a gradient is nothing but rounding (a key's bias), as of the largest there is.
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=5e-6 * largest[name])
    assert not [line for line in many.said if NO_GOOD_WAY in line]
    sends_as_its_layout_says(family, mesh, many)


def test_the_optimizer_alone_is_split():
    """fsdp_optimizer: parameters whole on every device, AdamW's moments a quarter; the same bytes
    of the optimizer as fsdp has, to the byte."""
    bytes_of = {
        mesh: laid_out("gpt2", mesh).exact_bytes()
        for mesh in ("replicated", "fsdp", "fsdp_optimizer")
    }
    assert bytes_of["fsdp_optimizer"]["parameters"] == bytes_of["replicated"]["parameters"]
    assert bytes_of["fsdp_optimizer"]["optimizer"] == bytes_of["fsdp"]["optimizer"]
    # What has no D (biases of heads and mlp) is whole.
    assert 0.25 < bytes_of["fsdp"]["optimizer"] / bytes_of["replicated"]["optimizer"] < 0.27


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_forward_pass_keeps_no_weights(family):
    """What the loop over layers hands to the backward pass are activations: gathered weights of all
    layers at once would be what fsdp is to avoid."""
    made = laid_out(family, "fsdp")
    weights = {x.shape[1:] for x in jax.tree.leaves(made.state["params"]["blocks"]) if x.ndim > 2}
    forward = next(_loops(made.trace().jaxpr.jaxpr))
    kept = [each.aval.shape for each in forward.outvars]
    assert len(kept) > 5
    assert not [shape for shape in kept if shape[1:] in weights]


def _loops(jaxpr):
    for each in jaxpr.eqns:
        if each.primitive.name == "scan":
            yield each
        for value in each.params.values():
            if isinstance(value, ClosedJaxpr):
                yield from _loops(value.jaxpr)


def test_the_partitioner_is_heard():
    """What it says of an array that it can only gather whole is in the lines the tests read."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    place = functools.partial(NamedSharding, mesh)

    def moved(x):
        x = jax.lax.with_sharding_constraint(x * 2, place(P(("a", "b"), None, None)))
        return jax.lax.with_sharding_constraint(x + 1, place(P(None, None, "b")))

    with compiler_says() as said:
        jax.jit(moved).lower(jnp.zeros((16, 8, 32))).compile()
    assert any(NO_GOOD_WAY in line for line in said), said


# What each mesh must send beyond a few hundred bytes: parameters (and along `sequence` keys and
# values) gathered, gradients (and along `tensor` activations) summed. XLA:CPU spells the sum of a
# split gradient as an all-reduce and a slice, the TPU's compiler as a reduce-scatter.
SENDS = {
    "replicated": {("sum", "data")},
    "fsdp": {("gather", "fsdp"), ("sum", "fsdp"), ("sum", "data")},
    "fsdp_optimizer": {("gather", "fsdp"), ("sum", "fsdp"), ("sum", "data")},
    "tensor": {("sum", "tensor"), ("sum", "data")},
    "fsdp_tensor": {("gather", "fsdp"), ("sum", "fsdp"), ("sum", "tensor"), ("sum", "data")},
    "sequence": {("gather", "fsdp"), ("gather", "sequence"), ("sum", "fsdp")},
    "sequence_tensor": {("gather", "fsdp"), ("gather", "sequence"), ("sum", "tensor")},
    "replica": {("gather", "fsdp"), ("sum", "fsdp"), ("sum", "tensor"), ("sum", "replica")},
}
NAMES = {"all-gather": "gather", "all-reduce": "sum", "reduce-scatter": "sum"}
# A head of masked tokens splits its dense layer, and a norm and the table read that whole.
HEAD = ("gather", "tensor")
MASKED = ("bert", "roberta", "bert2bert")
FEW = 4096  # bytes that a device sends in a step: checksums of rows, counts, norms


def sends_as_its_layout_says(family: str, mesh: str, many: Trained):
    """The kinds of collectives, along which axes, and how much of the parameters they carry."""
    sizes = MESHES[mesh][1].sizes(8)
    sent: dict[tuple[str, str], float] = {}
    for each in collectives(many.compiled.as_text(), sizes)[0]:
        key = (NAMES.get(each.kind, each.kind), each.axes)
        sent[key] = sent.get(key, 0.0) + each.wire_bytes
    sent = {key: size for key, size in sent.items() if size > FEW}
    assert sent.keys() >= SENDS[mesh], sent
    whole = many.parameter_bytes
    if family in MASKED:
        assert sent.pop(HEAD, 0.0) < 0.05 * whole
    assert {key for key in sent if key[0] != "sum"} <= SENDS[mesh], sent
    if mesh == "replicated":
        # Every gradient goes around once, but for that of a tied table, whose uses (three of T5's)
        # are summed each by itself.
        assert 0.99 < sent["sum", "data"] / (2 * 7 / 8 * whole) < 1.7
    if mesh == "fsdp":
        # For the forward pass and again for the backward pass, where it is not still at hand.
        assert 0.7 < sent["gather", "fsdp"] / (3 / 4 * whole) < 2.2
    if mesh == "fsdp_optimizer":
        # Once, after the update.
        assert 0.7 < sent["gather", "fsdp"] / (3 / 4 * whole) < 1.01
