"""Masked-token prediction on a model: only predicted places reach the vocabulary, rows and pieces
are apart, and any mesh or number of microbatches gives the same update."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from masked_model import make_model
from masked_rows import make_rows, tokenizer

from gesso.models import build as build_model
from gesso.models.config import BERTConfig
from gesso.objectives import MaskedLM, MaskedLMConfig, Term, build
from gesso.partitioning.axes import placements
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh
from gesso.pretrain.batch import batch_sharding
from gesso.pretrain.step import StepSettings, compile_step, make_train_step

VOCAB, LENGTH = 64, 32
SPECIAL = {"mask": 4, "cls": 2, "sep": 3}


def objective_of(pairs="nsp", **settings):
    config = MaskedLMConfig(pairs=pairs, pair_tokens=2, mask_rate=0.3, **SPECIAL, **settings)
    model = BERTConfig(vocab=VOCAB, outputs=("mlm", "nsp"))
    return MaskedLM(config, model=model)


def batch_of(objective, *, rows=16, first_row=0):
    """Packed rows, some of them mostly padding, with few enough ids for a small table."""
    made = make_rows(
        rows=rows,
        length=LENGTH,
        overhead=objective.overhead,
        companions=objective.companions,
        mean=9.0,
        first_row=first_row,
    )
    for name in ("tokens", "other_tokens"):
        if name in made:
            made[name] = np.where(made[name] > 4, 5 + made[name] % (VOCAB - 5), made[name])
    for name in made:
        if name.endswith(("tokens", "segments", "positions")):
            made[name][::5, 7:] = 0
    made["component"] = (np.arange(rows) % 2).astype(np.int32)
    return objective.host_batch(made)


@pytest.fixture(scope="module")
def encoder():
    return make_model(vocab=VOCAB, length=LENGTH)


@pytest.fixture(scope="module")
def bert():
    config = BERTConfig(
        vocab=VOCAB,
        positions=LENGTH,
        layers=1,
        embed=16,
        heads=4,
        mlp=32,
        outputs=("mlm", "nsp"),
        init_std=0.3,
    )
    model = build_model(config)
    return model, model.init(jax.random.key(0))


def run(objective, encoder, batch):
    """The objective's values as numpy arrays."""
    model, params = encoder
    made = jax.jit(lambda params, batch: objective(model.merge(params), batch, None))
    return jax.device_get(made(params, batch))


def test_terms():
    plain, pairs = objective_of("none"), objective_of("nsp")
    mlm = {
        "mlm": Term(weight="mlm_weight", targets="targets"),
        "mlm_accuracy": Term(weight="mlm_weight", coefficient=0.0),
    }
    nsp = {
        "nsp": Term(weight="nsp_weight"),
        "nsp_accuracy": Term(weight="nsp_weight", coefficient=0.0),
    }
    assert plain.terms == mlm and list(plain.terms)[0] == "mlm"
    assert pairs.terms == objective_of("sop").terms == mlm | nsp
    assert (plain.overhead, pairs.overhead, objective_of("sop").overhead) == (2, 3, 3)
    assert [each.companions for each in (plain, pairs, objective_of("sop"))] == [0, 1, 0]
    assert plain.overlap == 0 and plain.row_length(128) == 128
    batch = batch_of(pairs)
    of_rows = {"tokens", "segments", "positions", "token_types", *pairs.letters}
    assert {name for name, leaf in batch.items() if leaf.ndim == 2} == of_rows


def test_gathered_is_the_head_at_all_places(encoder):
    """Another way to the same figures: logits everywhere, then the predicted places."""
    model, params = encoder
    objective = objective_of()
    batch = batch_of(objective)
    module = model.merge(params)
    losses = run(objective, encoder, batch)
    x_BLD = module.features(batch, None)
    log_p = jax.nn.log_softmax(jnp.tanh(x_BLD) @ params["table"].T, axis=-1)
    row, column = np.nonzero(batch["mlm_weight"])
    place, target = batch["masked_places"][row, column], batch["targets"][row, column]
    np.testing.assert_allclose(
        losses["mlm"][row, column], -log_p[row, place, target], rtol=0, atol=2e-5
    )
    right = np.asarray(log_p.argmax(-1))[row, place] == target
    assert np.array_equal(losses["mlm_accuracy"][row, column], right)
    row, column = np.nonzero(batch["nsp_weight"])
    place, label = batch["pair_places"][row, column], batch["pair_labels"][row, column]
    log_p = jax.nn.log_softmax(x_BLD[row, place] @ params["pair"], axis=-1)
    np.testing.assert_allclose(
        losses["nsp"][row, column], -log_p[np.arange(len(row)), label], rtol=0, atol=2e-5
    )
    assert np.array_equal(losses["nsp_accuracy"][row, column], log_p.argmax(-1) == label)
    assert all(value.dtype == jnp.float32 for value in losses.values())
    chunked = run(objective_of(chunk_tokens=16), encoder, batch)
    for name, value in losses.items():
        np.testing.assert_allclose(chunked[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("which", ["encoder", "bert"])
def test_packed_is_unpacked(request, which):
    """I4: a piece's losses are the same in a row of its own."""
    encoder = request.getfixturevalue(which)
    objective = objective_of()
    batch = batch_of(objective, rows=6)
    packed = run(objective, encoder, batch)
    alone, want = [], []
    for row in range(6):
        for number in range(1, batch["segments"][row].max() + 1):
            mine = batch["segments"][row] == number
            first, size = mine.argmax(), mine.sum()
            leaves = {
                name: np.pad(batch[name][row][mine], (0, LENGTH - size))
                for name in ("tokens", "positions", "token_types")
            }
            leaves["segments"] = np.pad(np.ones(size, np.int32), (0, LENGTH - size))
            for places, weight, names in (
                ("masked_places", "mlm_weight", ("targets",)),
                ("pair_places", "nsp_weight", ("pair_labels",)),
            ):
                inside = batch[weight][row] * np.isin(batch[places][row], np.flatnonzero(mine))
                leaves[places] = np.where(inside > 0, batch[places][row] - first, 0)
                leaves[weight] = inside.astype(np.float32)
                leaves |= {name: batch[name][row] for name in names}
                terms = [t for t, term in objective.terms.items() if term.weight == weight]
                want += [(len(alone), t, inside > 0, packed[t][row][inside > 0]) for t in terms]
            alone.append(leaves)
    whole = {name: np.stack([each[name] for each in alone]) for name in alone[0]}
    single = run(objective, encoder, whole)
    assert len(alone) > 8
    for row, term, inside, values in want:
        np.testing.assert_allclose(single[term][row][inside], values, rtol=0, atol=2e-6)


def trained(encoder, mesh_config, layout_name, *, microbatches=1, updates=2, devices=8):
    model, params = encoder
    objective = objective_of(chunk_tokens=64)
    mesh = make_mesh(mesh_config, devices=jax.devices()[:devices])
    layout = LAYOUTS[layout_name]
    optimizer = optax.adam(1e-2)
    placed = jax.device_put(params, placements(model.letters, layout.at_rest, mesh))
    state = {"params": placed, "opt_state": optimizer.init(placed), "step": jnp.int32(0)}
    state = jax.tree.map(
        lambda x: x if x.ndim else jax.device_put(x, batch_sharding(mesh, "")), state
    )
    settings = StepSettings(microbatches=microbatches, components=2, clip_norm=1.0)
    step = make_train_step(model, objective, optimizer, settings)
    losses = []
    compiled = None
    for k in range(updates):
        batch = batch_of(objective, first_row=16 * k)
        batch["row_crc"] = np.arange(16, dtype=np.uint32)
        arrays = {
            name: jax.device_put(
                leaf, batch_sharding(mesh, objective.letters.get(name, "BL"[: leaf.ndim]))
            )
            for name, leaf in batch.items()
        }
        compiled = compiled or compile_step(step, state, arrays, mesh=mesh, layout=layout)
        state, metrics = compiled(state, arrays)
        losses.append(jax.device_get(metrics))
    return jax.device_get(state["params"]), losses, compiled


@pytest.fixture(scope="module")
def single(encoder):
    with jax.default_matmul_precision("highest"):
        return trained(encoder, MeshConfig(data=1), "replicated", devices=1)


def close(a, b):
    for one, other in zip(jax.tree.leaves(a[0]), jax.tree.leaves(b[0]), strict=True):
        # Adam divides by the gradient's size: float32 noise becomes a share of the rate, 1e-2.
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-4)
    for mine, theirs in zip(a[1], b[1], strict=True):
        for term in ("loss", "mlm", "nsp", "mlm_accuracy", "nsp_accuracy"):
            np.testing.assert_allclose(mine[term], theirs[term], rtol=0, atol=3e-6)
        assert mine["loss_tokens"] == theirs["loss_tokens"] > 0
        for leaf, count in mine["counts"].items():
            assert count.tolist() == theirs["counts"][leaf].tolist()


@pytest.mark.parametrize(
    ("layout", "mesh"),
    [
        ("fsdp", MeshConfig(data=2, fsdp=4)),
        ("fsdp_tensor", MeshConfig(data=1, fsdp=2, sequence=2, tensor=2)),
    ],
)
def test_sharded_is_single_device(encoder, single, layout, mesh):
    """I1 of the objective, rows split over the mesh and, in the second, their length too."""
    with jax.default_matmul_precision("highest"):
        close(single, trained(encoder, mesh, layout))


def test_accumulated_is_the_whole_batch(encoder, single):
    """I3: 4 microbatches of very unequal weight."""
    with jax.default_matmul_precision("highest"):
        close(single, trained(encoder, MeshConfig(data=2), "replicated", microbatches=4, devices=2))


def test_gathered_features_stay_on_their_devices(encoder):
    """Where only rows are split, nothing of the size of features is sent around."""
    _, _, compiled = trained(encoder, MeshConfig(data=8), "replicated", updates=1)
    moves = r"= (\S+) (all-gather|all-to-all|collective-permute)\("
    sent = {shape for shape, _ in re.findall(moves, compiled.as_text())}
    assert sent <= {"u32[16]{0}"}, sent  # the rows' checksums
    # The sum of gradients is there: the test reads the program of a split step.
    assert "all-reduce" in compiled.as_text()


def test_rows_of_padding_cost_nothing_and_stay_finite(encoder):
    model, params = encoder
    objective = objective_of()
    batch = {name: np.zeros_like(leaf) for name, leaf in batch_of(objective, rows=2).items()}

    def loss(params):
        losses = objective(model.merge(params), batch, None)
        return sum(
            jnp.sum(losses[name] * batch[term.weight]) for name, term in objective.terms.items()
        )

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert value == 0 and not any(jnp.any(leaf) for leaf in jax.tree.leaves(grads))


class Plain:
    """A tokenizer without special tokens."""

    kind, vocab_size, eos, special = "bytes", 257, 256, {}
    continues = np.zeros(257, bool)
    byte_lengths = np.append(np.ones(256, np.int32), 0)


def test_special_tokens_beyond_the_tokenizers():
    model = BERTConfig(vocab=260, outputs=("mlm", "nsp"))
    objective = build(MaskedLMConfig(mask=257, cls=258, sep=259), tokenizer=Plain(), model=model)
    assert objective.masking.mask == 257 and objective.frame.cls == 258
    assert objective.masking.others.tolist() == list(range(256))
    assert np.flatnonzero(objective.masking.special).tolist() == [256, 257, 258, 259]


@pytest.mark.parametrize(
    ("fields", "vocab", "message"),
    [
        (
            {},
            260,
            r"needs \[MASK\], and the bytes tokenizer has none.*from 257 on.*--objective.mask",
        ),
        ({"mask": 257, "cls": 258}, 260, r"needs \[SEP\]"),
        ({"mask": 257, "cls": 257, "sep": 258}, 260, r"\[MASK\] must be an id of its own"),
        ({"mask": 257, "cls": 258, "sep": 260}, 260, "outside the model's vocabulary of 260"),
        ({"mask_rate": 2.0}, 260, "mask_rate must be in"),
    ],
)
def test_refused(fields, vocab, message):
    model = BERTConfig(vocab=vocab, outputs=("mlm", "nsp"))
    with pytest.raises(ValueError, match=message):
        build(MaskedLMConfig(**fields), tokenizer=Plain(), model=model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"outputs": ("nsp",)}, "has no mlm"),
        ({"outputs": ("mlm",)}, "has no nsp"),
        ({"outputs": ("mlm", "nsp"), "token_types": 1}, "two token types"),
    ],
)
def test_a_model_without_what_pairs_need_is_refused(fields, message):
    config = MaskedLMConfig(pairs="nsp", mask=250, cls=251, sep=252)
    with pytest.raises(ValueError, match=message):
        build(config, tokenizer=tokenizer(), model=BERTConfig(**fields))
