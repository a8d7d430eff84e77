"""Runs that train an adapter: the base keeps its bits, what it costs, any layout, its own base."""

import dataclasses
import shutil
from typing import Any

import jax
import numpy as np
import pytest

from gesso import configs
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.models import build
from gesso.models.adapters.adapters import targets
from gesso.models.adapters.config import AdapterConfig
from gesso.models.count import flops_per_token
from gesso.models.trained_count import adapter_shapes as adapter_shapes_of
from gesso.models.trained_count import trained_flops_per_token
from gesso.models.trees import flat
from gesso.objectives.kinds import build as build_objective
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh
from gesso.planning.program_flops import count_flops
from gesso.pretrain.batch import batch_sharding
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.checkpoints.manifest import read
from gesso.pretrain.config import CheckpointConfig, StartConfig
from gesso.pretrain.experiment import ExperimentError, override, to_json
from gesso.pretrain.open import open_run
from gesso.pretrain.optimizer.optimizer import make_optimizer
from gesso.pretrain.optimizer.trained import parts_of
from gesso.pretrain.origins.adapter import adapter_parts, adapter_shapes
from gesso.pretrain.session import run
from gesso.pretrain.state import abstract_state, init_state
from gesso.pretrain.step import (
    StepSettings,
    compile_step,
    make_train_step,
    trace_step,
)
from gesso.storage.files import write_json

TINY = {
    "model.layers": 3,
    "model.embed": 32,
    "model.mlp": 64,
    "model.positions": 40,
    "length": 32,
    "model.heads": 4,
}
KEY = jax.random.key(0)
LORA = AdapterConfig(kind="lora", rank=4, dropout=0.25)


def random_batch(rows=8, length=32, seed=0):
    random = np.random.default_rng(seed)
    made = build_objective(configs.experiment("debug-gpt-neo").objective).host_batch(
        {
            "tokens": random.integers(0, 256, (rows, length + 1)).astype(np.int32),
            "segments": np.ones((rows, length + 1), np.int32),
            "positions": np.tile(np.arange(length + 1, dtype=np.int32), (rows, 1)),
            "component": np.zeros(rows, np.int32),
        }
    )
    return made | {"row_crc": np.arange(rows, dtype=np.uint32)}


class Made:
    """The step of a tiny model with an adapter (None: all of it is trained)."""

    def __init__(
        self, adapter, mesh_config=None, layout="replicated", *, rows=8, trainable=(), **changes
    ):
        made = override(configs.experiment("debug-gpt-neo"), TINY | changes)
        mesh = make_mesh(
            mesh_config or MeshConfig(data=1), devices=jax.devices()[: 8 if mesh_config else 1]
        )
        self.where = {"mesh": mesh, "layout": LAYOUTS[layout]}
        self.model = model = build(made.model)
        shapes = {n: x.shape for n, x in flat(jax.eval_shape(model.init, KEY)).items()}
        whole = shapes | (adapter_shapes(adapter, model) if adapter else {})
        self.parts = (
            adapter_parts(adapter, model)
            if adapter
            else parts_of(model.letters, shapes, trainable=trainable)
        )
        self.optimizer = make_optimizer(made.optimizer, self.parts.letters, steps=10, whole=whole)
        settings = StepSettings(clip_norm=1.0, dropout=bool(adapter and adapter.dropout))
        objective = build_objective(made.objective)
        self.step = make_train_step(model, objective, self.optimizer, settings, self.parts)
        self.abstract = abstract_state(model, self.optimizer, parts=self.parts, **self.where)
        self.rows = rows
        self.batch = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.split(leaf))
            for name, leaf in random_batch(rows).items()
        }

    def split(self, leaf):
        return batch_sharding(self.where["mesh"], "BL"[: leaf.ndim])

    def compiled(self):
        return compile_step(self.step, self.abstract, self.batch, **self.where)

    def flops(self):
        return count_flops(trace_step(self.step, self.abstract, self.batch, **self.where).jaxpr)

    def trained(self, updates=2):
        """(the state before, after, the metrics of each update)."""
        state = init_state(self.model, self.optimizer, seed=0, parts=self.parts, **self.where)
        born, step, told = jax.device_get(state), self.compiled(), []
        for seed in range(updates):
            rows = random_batch(self.rows, seed=seed)
            batch = {name: jax.device_put(leaf, self.split(leaf)) for name, leaf in rows.items()}
            state, metrics = step(state, batch)
            told.append(jax.device_get(metrics))
        return born, jax.device_get(state), told


@pytest.fixture(scope="module")
def single():
    with jax.default_matmul_precision("highest"):
        return Made(LORA).trained()


def test_the_base_keeps_its_bits_and_has_no_moments(single):
    born, state, told = single
    for name, leaf in flat(state["frozen"]).items():
        np.testing.assert_array_equal(leaf, flat(born["frozen"])[name])
    trained = flat(state["params"])
    assert set(trained) == {
        f"adapter/blocks/attention/{name}/{leaf}" for name in "qv" for leaf in "ab"
    }
    for name, leaf in trained.items():
        assert np.abs(leaf - flat(born["params"])[name]).max() > 0, name
    kept = sum(x.size for x in jax.tree.leaves(state["opt_state"]) if x.ndim)
    assert kept == 2 * sum(x.size for x in trained.values())
    assert told[1]["grad_norm"] > 0


LAYOUTS_OF_8 = [
    pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), "fsdp_tensor", LORA),
    pytest.param(MeshConfig(data=2, fsdp=4), "fsdp", LORA, marks=pytest.mark.slow),
    *(
        pytest.param(
            MeshConfig(data=2, fsdp=2, tensor=2), "fsdp_tensor", each, marks=pytest.mark.slow
        )
        for each in (
            AdapterConfig(kind="prompt", tokens=4),
            AdapterConfig(kind="prefix", tokens=4, reparametrize="mlp"),
            AdapterConfig(kind="p_tuning", tokens=4, placeholder=7, reparametrize="lstm"),
            AdapterConfig(kind="ia3"),
        )
    ),
]


@pytest.mark.parametrize(("mesh", "layout", "adapter"), LAYOUTS_OF_8)
def test_any_layout_is_one_device(single, mesh, layout, adapter):
    with jax.default_matmul_precision("highest"):
        one = single if adapter is LORA else Made(adapter).trained()
        split = Made(adapter, mesh, layout).trained()
    for a, b in zip(jax.tree.leaves(split[0]), jax.tree.leaves(one[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(split[2], one[2], strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=6e-6)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-4)
    for name, leaf in flat(split[1]["frozen"]).items():
        np.testing.assert_array_equal(leaf, flat(one[1]["frozen"])[name])


def test_a_step_takes_the_products_of_the_formula_exactly():
    """All of the model trained, less the gradients of the frozen weights (2 T n m each), and 6 T r
    (n + m) for each pair of thin matrices (models.layers.operators.LowRank). A loop over layers;
    laid out straight the lowest layer's gradient of x is saved as well."""
    tokens = 8 * 32
    weights = {"q": 32 * 32, "k": 32 * 32, "v": 32 * 32, "out": 32 * 32, "up": 32 * 64}
    frozen = 4 * (sum(weights.values()) + weights["up"])
    thin = 4 * 2 * 4 * (32 + 32)  # layers, q and v, rank, inputs and outputs
    four: dict[str, Any] = {"model.layers": 4}
    lora, whole = Made(LORA, **four), Made(None, **four)
    asked = lora.flops() - whole.flops()
    assert asked == tokens * (6 * thin - 2 * frozen)
    # As a run's MFU, a plan and `gesso list` count it; the head's own gradient is dead code in the
    # traced program.
    trees = (flat(lora.abstract["params"]), flat(lora.abstract["frozen"]))
    trained, base = ({n: x.shape for n, x in tree.items()} for tree in trees)
    config = lora.model.config
    counted = trained_flops_per_token(config, 32, trained=trained, frozen=base)
    assert asked == tokens * (counted - flops_per_token(config, 32) + 2 * 264 * 32)
    shapes = adapter_shapes_of(config, LORA)
    assert shapes is not None
    planned = trained_flops_per_token(config, 32, trained=shapes[0], frozen=shapes[1])
    assert planned == counted


def kept_by_loops(jaxpr):
    """Shapes of what the loops of a program give: what they keep turn by turn for the backward pass
    is among them."""
    found = set()
    for each in jaxpr.eqns:
        if each.primitive.name == "scan":
            found |= {x.aval.shape for x in each.outvars}
        for value in each.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                found |= kept_by_loops(inner) if hasattr(inner, "eqns") else set()
    return found


@pytest.mark.parametrize("where", [(), (MeshConfig(data=2, fsdp=2, tensor=2), "fsdp_tensor")])
@pytest.mark.parametrize("pattern", [("global",), ("global", "local")])
def test_a_loop_keeps_no_frozen_weight_for_the_backward_pass(where, pattern):
    """The stack of all layers is there anyway; kept turn by turn it would be there twice."""
    window = {"model.window": 0 if len(pattern) == 1 else 8}
    made = Made(LORA, *where, **{"model.layers": 4, "model.pattern": pattern, **window})
    traced = trace_step(made.step, made.abstract, made.batch, **made.where).jaxpr
    weights = {
        x.shape[1:] for x in jax.tree.leaves(made.abstract["frozen"]["blocks"]) if x.ndim > 2
    }
    kept = kept_by_loops(traced.jaxpr)
    assert (4 // len(pattern), 8, 32, 64) in kept  # the mlp's activations
    of_weights = {
        shape
        for shape in kept
        for each in weights
        if shape[-len(each) :] == each and np.prod(shape[1:]) == np.prod(each)
    }
    assert not of_weights


def test_a_compiled_step_has_the_memory_and_arithmetic_of_the_formula():
    """XLA's own figures of the unrolled step, with its norm and clipping, within 5 %. In memory: a
    step that trains one norm of each layer, and what LowRank says that A and B keep. A base
    gradient or a W + B A of the adapted weights would be half as much again."""
    changes: dict[str, Any] = {"model.unroll": 3, "model.embed": 128, "model.mlp": 512}
    model = build(override(configs.experiment("debug-gpt-neo"), TINY | changes).model)
    every = AdapterConfig(kind="lora", rank=4, targets=products_of(model))
    norms = Made(None, rows=2, trainable=("*attention_norm/scale",), **changes).compiled()
    lora = Made(every, rows=2, **changes)
    compiled = lora.compiled()
    costs: list = [each.cost_analysis() for each in (norms, compiled)]
    memory: list = [each.memory_analysis() for each in (norms, compiled)]
    assert costs[1]["flops"] == pytest.approx(lora.flops(), rel=0.05)
    tokens, layers, trained = (
        2 * 32,
        3,
        sum(x.size for x in jax.tree.leaves(lora.abstract["params"])),
    )
    # What q, k and v read together, what out, up and down read, and x A of all six.
    kept = layers * tokens * (128 + 128 + 128 + 512 + 6 * 4)
    asked = memory[0].temp_size_in_bytes + 4 * (kept + trained)
    assert memory[1].temp_size_in_bytes == pytest.approx(asked, rel=0.05)
    base = sum(x.size for x in jax.tree.leaves(lora.abstract["frozen"]))
    known = 4 * (base + 3 * trained)
    assert known <= memory[1].argument_size_in_bytes <= known + 10_000


def products_of(model):
    return tuple(targets(AdapterConfig(kind="lora", targets=("blocks/*",)), model.letters))


@pytest.fixture(scope="module")
def base_run(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("adapters") / "base")


def saved_run(folder, seed=3, **changes):
    """A run folder with a checkpoint of parameters alone, as `gesso import` makes it."""
    experiment = override(configs.experiment("debug-gpt-neo"), RUN | changes)
    params = build(experiment.model).init(jax.random.key(seed))
    tokenizer = load_tokenizer("bytes")
    write_json(folder / "experiment.json", to_json(experiment))
    save_tokenizer(tokenizer, folder / "tokenizer")
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(), log=lambda text: None)
    told = {"tokenizer": tokenizer.fingerprint, "experiment": to_json(experiment)}
    checkpoints.save(0, {"params": params}, told)
    checkpoints.close()
    return folder


RUN = {
    "data.store": "embedded:bytes:0.3",
    "model.layers": 2,
    "model.embed": 16,
    "model.mlp": 32,
    "model.positions": 40,
    "length": 32,
    "batch": 8,
    "checkpoint.every_steps": 2,
    "evaluation.every_steps": 0,
    "evaluation.rows": 4,
    "evaluation.sample_every_steps": 0,
}


def lora_run(base, **changes):
    start = StartConfig(source=str(base))
    adapter = AdapterConfig(kind="lora", rank=2, dropout=0.1)
    made = override(configs.experiment("debug-gpt-neo"), RUN | {"steps": 4} | changes)
    return dataclasses.replace(made, start=start, adapter=adapter)


def test_a_run_saves_the_adapter_alone_and_continues_over_its_base_only(base_run, tmp_path):
    whole = run(lora_run(base_run), folder=tmp_path / "whole")
    assert whole.step == 4
    sealed = read(tmp_path / "whole" / "checkpoints" / "4")
    assert not [name for name in sealed.leaves if name.startswith("frozen/")]
    assert set(sealed.info["base"]) == {"fingerprint", "start"}
    run(lora_run(base_run, steps=2), folder=tmp_path / "part")
    run(lora_run(base_run), folder=tmp_path / "part", named=("steps",))
    again = read(tmp_path / "part" / "checkpoints" / "4")
    params = [name for name in again.leaves if name.startswith("params/")]
    assert params and all(again.leaves[n] == sealed.leaves[n] for n in params)
    opened = open_run(tmp_path / "whole")
    assert flat(opened.params).keys() == flat(opened.model.letters).keys()
    other = saved_run(tmp_path / "other", seed=4)
    with pytest.raises(ExperimentError, match="does not hold the parameters that this adapter"):
        open_run(tmp_path / "whole", base=str(other))
    shutil.rmtree(base := tmp_path / "moved", ignore_errors=True)
    shutil.copytree(base_run, base)
    moved = open_run(tmp_path / "whole", base=str(base))
    for name, leaf in flat(moved.params).items():
        np.testing.assert_array_equal(leaf, flat(opened.params)[name])


def test_an_adapter_without_a_base_or_over_an_adapter_is_refused(base_run, tmp_path):
    alone = dataclasses.replace(lora_run(base_run), start=StartConfig())
    with pytest.raises(ExperimentError, match="say which: gesso finetune"):
        run(alone, folder=tmp_path / "alone")
    too_long = dataclasses.replace(
        lora_run(base_run), adapter=AdapterConfig(kind="prompt", tokens=9)
    )
    with pytest.raises(ExperimentError, match="length 32 and 9 virtual tokens"):
        run(too_long, folder=tmp_path / "long")
    assert not (tmp_path / "long").exists()
