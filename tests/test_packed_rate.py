"""Packed rows beside padded ones: the same examples, their padding counted, the ratio theirs."""

import json

import numpy as np
import pytest

from benchmarks import packed
from gesso.configs import experiment
from gesso.finetune.instructions.build import build_instructions
from gesso.finetune.instructions.config import InstructionsConfig, SourceConfig
from gesso.pretrain.setup import set_up

SMALL = {"model.layers": 1, "model.embed": 8, "model.heads": 2, "model.mlp": 8}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    examples = [
        {"inputs": f"say {i} {'again ' * (i % 5)}", "targets": f"{i} " * (1 + i % 9)}
        for i in range(80)
    ]
    path = folder / "said.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in examples))
    source = SourceConfig(path=str(path), format="flan")
    return build_instructions(InstructionsConfig(sources=(source,)), folder / "store")


def test_every_way_holds_the_same_examples(store):
    settings = {
        **SMALL, "data.store": str(store.folder), "model.vocab": 264, "model.positions": 256,
        "length": 256, "batch": 8,
    }  # fmt: skip
    s = set_up(experiment("flan", settings), store=store)
    ways = {name: list(make(s, 8)) for name, make in packed.WAYS.items()}
    said = {
        name: sorted(
            int(each) for batch in batches for each in batch["targets"][batch["lm_weight"] > 0]
        )
        for name, batches in ways.items()
    }
    assert said["packed"] == said["row"] == said["longest"] != []
    rows = {name: sum(len(each["tokens"]) for each in batches) for name, batches in ways.items()}
    assert rows["row"] == rows["longest"] == s.order.pass_examples > 2 * rows["packed"]
    assert all((each["segments"] <= 1).all() for each in ways["row"])
    # The packed rows are training's own: as many of them, as full.
    own = s.order.take(np.arange(rows["packed"]))
    assert (own["segments"] > 0).sum() == sum(
        (each["segments"] > 0).sum() for each in ways["packed"]
    ) + _ends(own)


def _ends(rows):
    """Last tokens of full rows, which a batch has as targets alone."""
    return int((rows["segments"][:, -1] > 0).sum())


@pytest.mark.slow
def test_the_ratio_is_that_of_the_rows(store):
    found = packed.measure(store, length=256, batch=8, turns=3, model=SMALL)
    ways = found["ways"]
    assert ways["packed"]["padding"] < 0.1 < ways["longest"]["padding"] < ways["row"]["padding"]
    # Of one shape every step has one time, and a last, smaller batch counts as a whole one.
    steps = {name: -(-each["rows"] // 8) for name, each in ways.items()}
    assert found["ratio"]["row"] == pytest.approx(steps["row"] / steps["packed"], rel=0.01)
    assert "packed rows" in packed.markdown(
        {**found, "date": "d", "machine": "m", "versions": {"jax": "1"}}
    )
