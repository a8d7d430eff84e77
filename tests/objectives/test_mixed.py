"""Several objectives in one run: whose row is whose, what each costs, and the same on any mesh."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from two_sided_rows import MODE, TOKENIZER, documents, made, packed

from gesso import configs
from gesso.launch.commands.pretrain import read
from gesso.models import build as build_model
from gesso.models.config import Seq2SeqConfig
from gesso.objectives.config import DenoiseConfig, MixedConfig, MixedPart, Seq2SeqLMConfig
from gesso.objectives.kinds import build
from gesso.objectives.mixed import Mixed
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh
from gesso.pretrain.batch import batch_sharding
from gesso.pretrain.experiment import from_json, to_json
from gesso.pretrain.state import init_state
from gesso.pretrain.step import StepSettings, compile_step, make_train_step

LENGTH = 48
TAB = ord("\t")
MIX = MixedConfig(
    parts={
        "r": MixedPart(objective=DenoiseConfig(mode=MODE), share=2.0),
        "x": MixedPart(objective=DenoiseConfig(mode=MODE + 1, noise_density=0.5), share=0.5),
        "s": MixedPart(objective=DenoiseConfig(form="prefix", noise_density=0.25), share=0.5),
        "c": MixedPart(objective=DenoiseConfig(form="causal"), coefficient=0.25),
        "t": MixedPart(objective=Seq2SeqLMConfig(label_smoothing=0.1), coefficient=0.5),
    }
)
SHARES = {"r": 0.4, "x": 0.1, "s": 0.1, "c": 0.2, "t": 0.2}
CONFIG = Seq2SeqConfig(
    vocab=512, encoder_layers=1, decoder_layers=1, embed=32, heads=2, head_dim=16, mlp=32
)


def rows_for(objective):
    pairs = [np.where(each == 65, TAB, each) for each in documents(count=120, mean=20.0)]
    for each in pairs[::2]:
        each[len(each) // 2] = TAB if len(each) > 4 else each[len(each) // 2]
    rows = packed(pairs, objective, length=LENGTH, first_row=1000)
    return {name: leaf[:32] for name, leaf in rows.items()}


def test_rows_are_shared_out_by_their_number_alone():
    mix = made(MIX)
    numbers = np.arange(50_000) + (1 << 40)
    part = mix.part_of(numbers)
    for index, share in enumerate(SHARES.values()):
        # Five standard deviations of a share of 50,000 rows.
        assert abs((part == index).mean() - share) < 5 * (share * (1 - share) / 50_000) ** 0.5
    picked = numbers[::-7]
    assert (mix.part_of(picked) == part[::-7]).all()
    other = made(MixedConfig(parts=MIX.parts, seed=1)).part_of(numbers)
    assert 0.5 < (other != part).mean() < 0.9, "independent: alike where both draw the same part"


def test_every_row_is_its_parts_and_weighs_nothing_elsewhere():
    mix = made(MIX)
    rows = rows_for(mix)
    batch = mix.host_batch(rows)
    part_of = mix.part_of(rows["row"])
    assert set(part_of) == {0, 1, 2, 3, 4}
    weights = {f"{name}_weight" for name in MIX.parts}
    weights |= {"t_document_weight", "t_unpaired_weight"}
    assert {name for name in batch if name.endswith("_weight")} == weights
    assert {term.weight for term in mix.terms.values()} == weights - {"t_unpaired_weight"}
    for index, (name, part) in enumerate(mix.parts.items()):
        mine = part_of == index
        own = part.host_batch({key: leaf[mine] for key, leaf in rows.items()})
        assert (batch[f"{name}_weight"][mine] == own["lm_weight"]).all()
        assert not batch[f"{name}_weight"][~mine].any()
        for leaf in own.keys() - set(part.weight_leaves):
            assert (batch[leaf][mine] == own[leaf]).all(), leaf


def test_parts_of_other_shapes_are_refused_by_the_leafs_name():
    mix = made(MIX)
    mix.parts["s"].room = mix.parts["s"].room.__class__(
        overhead=mix.overhead,
        source=mix.parts["r"].room.source,
        target=mix.parts["r"].room.target / 2,
    )
    with pytest.raises(ValueError, match=r"parts r and s .* batch's '(tokens|positions|segments)'"):
        mix.row_length(LENGTH)
    lacking = made(MIX)
    plain = lacking.parts["x"].host_batch
    lacking.parts["x"].host_batch = lambda rows: plain(rows) | {"extra": rows["tokens"]}
    with pytest.raises(ValueError, match=r"parts r and x .*'extra': no such leaf and \[48\] a row"):
        lacking.row_length(LENGTH)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="parts is empty"):
        made(MixedConfig())
    for fields, message in (
        ({"share": 0.0}, "parts.a.share must be positive"),
        ({"coefficient": -1.0}, "parts.a.coefficient cannot be negative"),
        ({"coefficient": 0.0}, "some coefficient must be above 0"),
        ({"objective": DenoiseConfig(mean_span=0.0)}, "parts.a.objective.mean_span must be"),
        ({"objective": DenoiseConfig(chunk_tokens=9)}, "chunk_tokens has no effect"),
        ({"objective": DenoiseConfig(mode=511)}, "objective.parts.a: objective.mode 511 is a"),
    ):
        with pytest.raises(ValueError, match=message):
            made(MixedConfig(parts={"a": MixedPart(**fields)}))


@pytest.fixture(scope="module")
def mixed():
    mix = build(MIX, tokenizer=TOKENIZER, model=CONFIG)
    return mix, mix.host_batch(rows_for(mix)) | {"row_crc": np.arange(32, dtype=np.uint32)}


def updated(mixed, *, mesh, layout="replicated", microbatches=1):
    """Params and metrics after one update, by plain SGD: what changed is the gradient."""
    objective, batch = mixed
    mesh = make_mesh(mesh, devices=jax.devices()[: 8 if mesh.data != 1 else 1])
    model, optimizer = build_model(CONFIG), optax.sgd(0.1)
    step = make_train_step(model, objective, optimizer, StepSettings(microbatches=microbatches))
    state = init_state(model, optimizer, seed=0, mesh=mesh, layout=LAYOUTS[layout])
    placed = {
        name: jax.device_put(
            leaf, batch_sharding(mesh, objective.letters.get(name, "BL"[: leaf.ndim]))
        )
        for name, leaf in batch.items()
    }
    with jax.default_matmul_precision("highest"):
        compiled = compile_step(step, state, placed, mesh=mesh, layout=LAYOUTS[layout])
    state, metrics = compiled(state, placed)
    return jax.device_get((state["params"], metrics))


@pytest.fixture(scope="module")
def whole(mixed):
    return updated(mixed, mesh=MeshConfig(data=1))


def test_each_term_is_the_mean_over_its_parts_rows(mixed, whole):
    objective, batch = mixed
    model, (_, metrics) = build_model(CONFIG), whole
    params = model.init(jax.random.key(0))
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(model.apply)(params, {k: v for k, v in batch.items() if k != "row_crc"})
    logits = np.asarray(logits["logits"], np.float64)
    nll = np.log(np.exp(logits).sum(-1))
    nll -= np.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
    loss = 0.0
    for name, part in MIX.parts.items():
        weight = batch[f"{name}_weight"]
        mean = (nll * weight).sum() / weight.sum()
        assert metrics[f"{name}_nll"] == pytest.approx(mean, rel=1e-5)
        trained = metrics["t_smoothed"] if name == "t" else mean
        loss += part.coefficient * trained
        counts = [int((weight.sum(axis=1) > 0).sum()), int(weight.sum())]
        assert metrics["counts"][f"{name}_weight"].tolist() == counts
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    documents_, unpaired = batch["t_document_weight"].sum(), batch["t_unpaired_weight"].sum()
    assert metrics["counts"]["t_document_weight"][1] == documents_
    assert metrics["t_unpaired"] * documents_ == pytest.approx(unpaired)
    assert metrics["loss_tokens"] == sum(batch[f"{name}_weight"].sum() for name in MIX.parts)


@pytest.mark.parametrize(
    "options",
    [
        {"mesh": MeshConfig(data=1), "microbatches": 4},
        {"mesh": MeshConfig(data=4, tensor=2), "layout": "tensor"},
    ],
)
def test_accumulated_or_sharded_is_whole(mixed, whole, options):
    """I1 and I3, of every kind of part: float32 sums in another order, some epsilons of 1e-7."""
    params, metrics = updated(mixed, **options)
    for name in mixed[0].terms:
        assert metrics[name] == pytest.approx(whole[1][name], rel=2e-6), name
    jax.tree.map(np.testing.assert_array_equal, metrics["counts"], whole[1]["counts"])
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_packed_is_unpacked(mixed):
    """I4: a piece alone in its row costs what it costs among others."""
    objective, batch = mixed
    model = build_model(CONFIG)
    params = model.init(jax.random.key(0))

    @jax.jit
    def nll(batch):
        return objective(model.merge(params), batch, None)["r_nll"]

    sides = {"source": "source_segments", "source_segments": "source_segments"}
    sides |= {"source_positions": "source_segments", "component": ""}
    packed_rows = {name: leaf for name, leaf in batch.items() if name != "row_crc"}
    chosen = np.flatnonzero((batch["segments"] == 2).any(axis=1))[:8]
    alone = {name: np.zeros_like(leaf[chosen]) for name, leaf in packed_rows.items()}
    for row, of in enumerate(chosen):
        for name, leaf in packed_rows.items():
            if segments := sides.get(name, "segments"):
                piece = leaf[of][batch[segments][of] == 2]
                alone[name][row, : len(piece)] = piece
    with jax.default_matmul_precision("highest"):
        among, by_itself = np.asarray(nll(packed_rows))[chosen], np.asarray(nll(alone))
    for row, of in enumerate(chosen):
        second = among[row][batch["segments"][of] == 2]
        # The same products over rows of zeros: float32 rounding alone.
        np.testing.assert_allclose(by_itself[row][: len(second)], second, atol=2e-5)


def test_the_record_and_the_command_line_know_every_part():
    experiment = dataclasses.replace(configs.experiment("debug-mixed"), model=CONFIG, objective=MIX)
    assert from_json(to_json(experiment)) == experiment
    mode, share = "--objective.parts.text.objective.mode", "--objective.parts.text.share"
    parts = read(["debug-mixed", mode, "260", share, "0.25"]).experiment.objective.parts
    assert parts["text"].objective == DenoiseConfig(form="causal", mode=260)
    assert parts["text"].share == 0.25 and parts["spans"].share == 0.5
    with pytest.raises(SystemExit) as ended:
        read(["debug-mixed", "--help"])
    assert ended.value.code == 0


def test_the_mixtures_of_configs_can_be():
    for name in ("debug-mixed", "t5-v1.1-base-ul2"):
        experiment = configs.experiment(name)
        # The tokenizers they name: bytes, and a sentencepiece model of 32,000.
        tokenizer = SimpleNamespace(eos=1, vocab_size=32_000 if "ul2" in name else 257)
        mix = build(experiment.objective, tokenizer=tokenizer, model=experiment.model)
        row_length = mix.row_length(experiment.length)
        assert row_length >= experiment.length


def test_a_mix_is_built_by_its_kind():
    assert isinstance(made(MIX), Mixed)
