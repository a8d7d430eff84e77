"""ONNX: the program as a graph; onnxruntime gives the same outputs at sizes it was not made at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_folders import CONFIGS, random_params

from gesso.export import FolderError
from gesso.export.stacks.stablehlo import whole_batch
from gesso.export.stacks.to_onnx import model as onnx_model
from gesso.export.stacks.to_onnx import program as onnx_program
from gesso.export.stacks.to_onnx import shapes as onnx_shapes
from gesso.export.stacks.to_onnx.graph import ALIGNMENT, Graph
from gesso.models import ELMoConfig, build
from gesso.models.trees import flat

onnx = pytest.importorskip("onnx")


def session(folder):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )


def batch_for(config, rows, length):
    random = np.random.default_rng(length)
    batch = {}
    for leaf in onnx_model.names_of(config):
        shape = (rows, length + 3 if leaf.startswith("source") else length)
        segments, types = leaf.endswith("segments"), leaf == "token_types"
        highest = 2 if segments else config.token_types if types else 37
        batch[leaf] = random.integers(1 if segments else 0, highest, shape, np.int32)
        if segments:
            batch[leaf][0, -2:] = 0
    return batch


@pytest.mark.parametrize(
    "name",
    [
        "gpt1",
        "gpt2-other",
        "gpt_neo",
        "gpt_j",
        "gpt_neox",
        "bert",
        "bert-tag",
        "roberta",
        "t5-gated",
        "bert2gpt",
    ],
)
def test_onnxruntime_gives_the_same_outputs_at_other_sizes(name, tmp_path):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    written = onnx_model.write(tmp_path / "out", config, params)
    assert written.agreement.outputs != ("graph",) and written.agreement.apart <= 1e-5
    ran, model = session(tmp_path / "out"), build(config)
    names = onnx_model.names_of(config)
    assert {each.name for each in ran.get_inputs()} == set(names.values())
    batch = batch_for(config, 3, 7)
    asked = {names[leaf]: x.astype(np.int64) for leaf, x in batch.items()}
    made = dict(zip([each.name for each in ran.get_outputs()], ran.run(None, asked), strict=True))
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(model.apply)(params, whole_batch(config, batch))
    seen = batch["segments"] != 0
    for output, y in ours.items():
        x, y = made[onnx_model.their_name(output, ours)], np.asarray(y)
        if x.shape[:2] == seen.shape:
            x, y = x[seen], y[seen]
        assert np.abs(x - y).max() <= 1e-5 * np.abs(y).max(), output


def test_every_weight_is_there_once(tmp_path):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    onnx_model.write(tmp_path / "out", config, params)
    sizes = [x.nbytes for x in flat(params).values()]
    file = (tmp_path / "out" / "model.onnx.data").stat().st_size
    assert sum(sizes) <= file <= sum(sizes) + ALIGNMENT * len(sizes)
    assert (tmp_path / "out" / "model.onnx").stat().st_size < 50_000
    assert (tmp_path / "out" / "config.json").is_file()


def test_what_has_no_rule_is_named(tmp_path, monkeypatch):
    with pytest.raises(FolderError, match="elmo models read their rows in a loop"):
        onnx_model.write(tmp_path / "out", ELMoConfig(), random_params(ELMoConfig()))
    monkeypatch.delitem(onnx_program.RULES, "iota")
    with pytest.raises(FolderError, match="no rule for 'iota' of JAX"):
        onnx_model.write(tmp_path / "out", CONFIGS["gpt2"], random_params(CONFIGS["gpt2"]))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_differs_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    right = onnx_model.portable
    monkeypatch.setattr(
        onnx_model, "portable", lambda config: dataclasses.replace(right(config), epsilon=1.0)
    )
    with pytest.raises(FolderError, match="does not give the model's outputs in onnxruntime"):
        onnx_model.write(tmp_path / "out", config, params)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FolderError, match=r"pip install 'gesso\[export\]'"):
        onnx_model.write(tmp_path / "out", CONFIGS["gpt2"], random_params(CONFIGS["gpt2"]))


def odd(x, y):
    """What no model has yet, in one function: products of every form, look-ups along other dims."""
    table = jnp.arange(12.0).reshape(3, 4)
    return {
        "einsum": jnp.einsum("blmk,bnk->bnlm", y, y[:, :, 0]),
        "summed over two": jnp.einsum("blmk,mkj->blj", y, jnp.ones((4, 5, 2)) + table[0, 0]),
        "table": table[:, x],
        "places": y[:, :, 1:3][..., ::2],
        "powers": (y**3 + jax.nn.sigmoid(y) - jnp.sqrt(jnp.abs(y))).sum((1, 3)),
        "turned": jnp.stack([y.min(2), y.max(2)], axis=1) / x.shape[1],
        "chosen": jnp.where(x[..., None] > 1, jnp.cos(y[:, :, 0]), jnp.clip(y[:, :, 1], -0.1, 0.1)),
    }


def test_rules_of_what_no_model_has_yet(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    b, length = jax.export.symbolic_shape("b, l")
    leaves = (
        jax.ShapeDtypeStruct((b, length), jnp.int32),
        jax.ShapeDtypeStruct((b, length, 4, 5), jnp.float32),
    )
    traced = jax.jit(odd).trace(*leaves)
    with (tmp_path / "w").open("wb") as f:
        graph = Graph(f, location="w")
        x = graph.input("x", ("b", "l"))
        codes = graph.input("codes", ("b", "l", 4, 5))
        y = onnx_program.Value(
            graph.node("Div", graph.node("Cast", codes, to=1), "ten"), codes.shape
        )
        graph.nodes.insert(0, onnx.helper.make_node("Constant", [], ["ten"], value_float=10.0))
        made = onnx_program.add_program(graph, traced.jaxpr, [x, y])
        for (name, info), value in zip(sorted(traced.out_info.items()), made, strict=True):
            graph.output(name, graph.whole(value, onnx_shapes.dims_of(info.shape)))
        graph.save(tmp_path / "odd.onnx", producer="test")
    random = np.random.default_rng(0)
    x, codes = random.integers(0, 4, (2, 6)), random.integers(-20, 20, (2, 6, 4, 5))
    ran = onnxruntime.InferenceSession(
        str(tmp_path / "odd.onnx"), providers=["CPUExecutionProvider"]
    )
    found = ran.run(None, {"x": x, "codes": codes})
    ours = odd(jnp.asarray(x), jnp.asarray(codes, jnp.float32) / 10)
    for out, theirs in zip(ran.get_outputs(), found, strict=True):
        assert np.abs(theirs - np.asarray(ours[out.name])).max() <= 1e-4, out.name
