"""Masked-token runs: continued on other devices with the same batches, and refused before any."""

import inspect
import textwrap

import pytest

from gesso import configs
from gesso.data.store.build import build
from gesso.data.tokenizers.wordpiece import train
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.experiment import override
from gesso.pretrain.open import store_of
from gesso.pretrain.session import run
from gesso.pretrain.setup import set_up
from gesso.records.metrics import read_metrics

BATCH = 16
SMALL = {
    "data.store": "embedded:wordpiece:0.3",
    "model.embed": 32,
    "model.mlp": 64,
    "length": 64,
    "batch": BATCH,
    "steps": 6,
    "model.layers": 1,
    "objective.unit": "word",
    "optimizer.schedule.kind": "constant",
    "optimizer.schedule.warmup_steps": 2,
    "checkpoint.every_steps": 3,
    "logging.every_steps": 1,
    "logging.tensorboard": False,
    "evaluation.every_steps": 6,
    "evaluation.rows": 2,
    "mesh": MeshConfig(data=2, fsdp=4),
}


def small(**changes):
    return override(configs.experiment("debug-bert"), SMALL | changes)


def records(folder):
    return {r["step"]: r for r in read_metrics(folder) if r["kind"] == "train"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked") / "whole"
    run(small(), folder=folder)
    return folder


def test_counts_are_a_pure_function_of_the_rows(whole):
    setup = set_up(small(), store=store_of(small()))
    for step, record in records(whole).items():
        rows = setup.order.rows((step - 1) * BATCH, BATCH)
        batch = setup.objective.host_batch(rows)
        for leaf in ("mlm_weight", "nsp_weight"):
            weight = batch[leaf]
            assert record["counts"][leaf] == [weight.any(1).sum(), weight.sum()]
        assert record["loss_tokens"] == batch["mlm_weight"].sum()
        assert record["tokens"] == (batch["segments"] > 0).sum()
        assert record["loss"] == pytest.approx(record["mlm"] + record["nsp"], rel=1e-5)


@pytest.mark.slow
def test_continued_on_another_mesh_the_batches_are_the_same(whole, tmp_path):
    """I2."""
    folder = tmp_path / "run"
    run(small(steps=4, **{"evaluation.every_steps": 0}), folder=folder)
    mesh = {"mesh": MeshConfig(data=2, sequence=2, tensor=2), "layout": "tensor"}
    run(small(**mesh, microbatches=2), folder=folder, named={"steps"})
    a, b = records(whole), records(folder)
    assert sorted(a) == sorted(b) == list(range(1, 7))
    for step in a:
        for key in ("rows", "batch_crc32", "tokens", "loss_tokens", "counts"):
            assert a[step][key] == b[step][key], (step, key)
        assert b[step]["loss"] == pytest.approx(a[step]["loss"], abs=5e-5)


def test_held_out_terms(whole):
    (evaluation,) = (r for r in read_metrics(whole) if r["kind"] == "evaluation")
    terms = evaluation["terms"]
    assert set(terms) == {"mlm", "mlm_accuracy", "nsp", "nsp_accuracy"}
    assert all(term["count"] > 0 for term in terms.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.store": "embedded:bytes:0.3"}, r"needs \[MASK\], and the bytes tokenizer has none"),
        ({"model.outputs": ("mlm",)}, "this model has no nsp: name it in --model.outputs"),
        ({"data.packing": "concat"}, "pairs need pieces of one document"),
        ({"model.positions": 60}, "length 64 is over the model's 60 positions"),
    ],
)
def test_refused_before_any_device(changes, message):
    experiment = small(**changes)
    with pytest.raises(ValueError, match=message):
        set_up(experiment, store=store_of(experiment))


def test_pairs_of_components_with_one_document(tmp_path):
    text = "one document alone has no other one to take a second part from. " * 60
    for name in ("lone", "many"):
        parts = [text] if name == "lone" else [text[: 500 + i] for i in range(8)]
        (tmp_path / f"{name}.txt").write_text("\n\n".join(parts))
    tokenizer = train(iter([text, inspect.getsource(textwrap)]), vocab_size=200)
    build(
        sources=[str(tmp_path / "lone.txt"), str(tmp_path / "many.txt")],
        folder=tmp_path / "store",
        tokenizer=tokenizer,
        holdout=0,
        text_split="blank_line",
    )
    experiment = small(**{"data.store": str(tmp_path / "store")})
    with pytest.raises(ValueError, match="at least two documents in component 'lone'"):
        set_up(experiment, store=store_of(experiment))
    set_up(override(experiment, {"objective.pairs": "sop"}), store=store_of(experiment))
