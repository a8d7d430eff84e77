"""A run begun with other runs' parameters: each of them loaded, resized, tied or drawn, by name."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from gesso import configs
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.finetune.start import adopt
from gesso.launch.commands.finetune import request
from gesso.models import BERTConfig, EncoderDecoderConfig, build
from gesso.models.trees import flat
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.checkpoints.manifest import Leaf
from gesso.pretrain.config import CheckpointConfig, StartConfig
from gesso.pretrain.experiment import ExperimentError, override, to_json
from gesso.pretrain.initial import warm_state
from gesso.pretrain.open import store_of
from gesso.pretrain.origins.parameters import match
from gesso.pretrain.origins.resize import resize
from gesso.pretrain.origins.sources import Piece, Source, open_source
from gesso.pretrain.setup import set_up
from gesso.pretrain.start import (
    IMPORTED,
    add_base,
    base_record,
    checkpoint_state,
    choose_start,
    find_warm_start,
)
from gesso.storage.files import write_json

TINY = {
    "data.store": "embedded:bytes:0.3",
    "model.layers": 2,
    "model.embed": 16,
    "model.mlp": 32,
    "model.positions": 32,
    "length": 32,
    "batch": 8,
}
BERT = BERTConfig(
    vocab=264, positions=32, layers=2, embed=16, heads=2, mlp=32, outputs=("mlm", "nsp")
)


def tiny(name="debug-gpt-neo", **changes):
    return override(configs.experiment(name), TINY | changes)


def make_run(folder: Path, experiment, *, seed: int = 3, info=()) -> dict[str, np.ndarray]:
    """A run folder with one checkpoint of parameters alone, as `gesso import` makes it."""
    params = jax.tree.map(np.asarray, build(experiment.model).init(jax.random.key(seed)))
    tokenizer = load_tokenizer("bytes")
    write_json(folder / "experiment.json", to_json(experiment))
    save_tokenizer(tokenizer, folder / "tokenizer")
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(), log=lambda text: None)
    told = {"tokenizer": tokenizer.fingerprint, "experiment": to_json(experiment), **dict(info)}
    checkpoints.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)}, told)
    checkpoints.close()
    return flat(params)


@pytest.fixture(scope="module")
def store():
    return store_of(tiny())


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "gpt"
    return folder, make_run(folder, tiny())


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [
        (MeshConfig(data=8), "replicated"),
        (MeshConfig(data=2, fsdp=2, tensor=2), "fsdp_tensor"),
    ],
)
def test_a_larger_vocabulary_and_longer_rows(gpt, store, mesh, layout):
    """Rows of bytes the tokenizer has keep their bits; further ones are their mean; positions
    repeat; of the upper layer alone, moments exist."""
    folder, theirs = gpt
    asked = tiny(
        **{"model.vocab": 272, "model.positions": 40, "first_layer": 1, "mesh": mesh},
        layout=layout,
        start=StartConfig(source=str(folder)),
    )
    s = set_up(asked, store=store)
    start = find_warm_start(s)
    assert {each.name: each.kind for each in start.origins if each.kind != "loaded"} == {
        "embed": "resized",
        "positions": "resized",
    }
    state = warm_state(s, start)
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), state, s.abstract
        )
    )
    ours = flat(jax.device_get(s.whole(state)))
    assert ours.keys() == theirs.keys()
    known = load_tokenizer("bytes").vocab_size
    for name, leaf in theirs.items():
        if name == "embed":
            np.testing.assert_array_equal(ours[name][: len(leaf)], leaf)
            mean = leaf[:known].mean(0)
            np.testing.assert_allclose(ours[name][264:], np.tile(mean, (8, 1)), atol=1e-7)
        elif name == "positions":
            np.testing.assert_array_equal(ours[name], np.concatenate([leaf, leaf[:8]]))
        else:
            np.testing.assert_array_equal(ours[name], leaf, err_msg=name)


def test_fewer_rows_are_the_first_ones():
    x = jax.numpy.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(resize(x, (4, 2), "VD", 6), x[:4])
    np.testing.assert_array_equal(resize(x, (3, 2), "SD", 6), x[:3])
    np.testing.assert_array_equal(resize(x, (7, 2), "VD", 2)[6], x[:2].mean(0))


@pytest.fixture(scope="module")
def berts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("berts")
    made = override(configs.experiment("debug-bert"), {"model": BERT, "length": 32})
    return {
        side: (folder / side, make_run(folder / side, made, seed=seed))
        for side, seed in (("encoder", 1), ("decoder", 2))
    }


def of_two_berts():
    model = EncoderDecoderConfig(
        encoder=dataclasses.replace(BERT, outputs=()),
        decoder=dataclasses.replace(BERT, outputs=("mlm",)),
    )
    return override(
        configs.experiment("debug-transformer"),
        {"model": model, "data.store": TINY["data.store"], "length": 32, "batch": 8},
    )


def test_bert2bert_has_each_side_from_its_own_source(berts, store):
    """Encoder and decoder are loaded, cross-attention is drawn: not copied from self-attention."""
    start = StartConfig(encoder=str(berts["encoder"][0]), decoder=str(berts["decoder"][0]))
    plain = of_two_berts()
    asked = adopt(plain, start)
    assert asked.model == plain.model
    s = set_up(asked, store=store)
    start = find_warm_start(s)
    kinds = {each.name: each.kind for each in start.origins}
    assert {name.split("/")[0] for name, kind in kinds.items() if kind == "fresh"} == {"source"}
    assert "encoder/mlm/bias" in start.left
    ours = flat(jax.device_get(s.whole(warm_state(s, start))))
    scratch = flat(jax.device_get(build(plain.model).init(jax.random.key(asked.seed))))
    for name, leaf in ours.items():
        side, _, rest = name.partition("/")
        source = scratch[name] if side == "source" else berts[side][1][rest]
        np.testing.assert_array_equal(leaf, source, err_msg=name)
    assert not np.array_equal(ours["source/attention/q"], ours["decoder/blocks/attention/q"])


def test_a_source_with_other_settings_inside_a_side_is_refused(tmp_path, store):
    """Shapes are the same: only the settings tell."""
    plain = of_two_berts()
    model = plain.model
    make_run(tmp_path / "both", plain)
    other = dataclasses.replace(model.encoder, epsilon=1e-3, residual_dropout=0.2)
    asked = dataclasses.replace(
        plain,
        model=dataclasses.replace(model, encoder=other),
        start=StartConfig(source=str(tmp_path / "both")),
    )
    with pytest.raises(ExperimentError) as refused:
        find_warm_start(set_up(asked, store=store))
    said = str(refused.value)
    assert "model.encoder.epsilon: 1e-12 there, 0.001 asked" in said
    assert "dropout" not in said and "decoder" not in said
    for free in ("epsilon", "encoder.epsilon"):
        start = dataclasses.replace(asked.start, allow_changed=(free,))
        find_warm_start(set_up(dataclasses.replace(asked, start=start), store=store))


def piece(tree, name, shape):
    return Piece(name=f"{tree}/{name}", leaf=Leaf(dtype="float32", shape=shape, fingerprint=""))


def made_source(shapes):
    return Source(
        run=Path("runs/x"),
        step=3,
        experiment=tiny(),
        pieces={name: (piece("params", name, shape),) for name, shape in shapes.items()},
        tokenizer="t",
        info={},
    )


SHAPES = {"embed": (8, 4), "blocks/q": (2, 4, 4), "head_table": (8, 4), "classifier/bias": (3,)}
LETTERS = {"embed": "VD", "blocks/q": "ZDD", "head_table": "VD", "classifier/bias": "Y"}


def found(start, source, shapes=None):
    made = match(start, {"": source}, LETTERS, shapes or SHAPES)
    return {each.name: (each.kind, each.taken) for each in made.origins}, made.left


def test_names_are_matched_tied_drawn_and_left():
    source = made_source({"embed": (8, 4), "body/q": (2, 4, 4), "mlm/bias": (8,)})
    start = StartConfig(rename={"body/*": "blocks/*"}, allow_fresh=("classifier/*",))
    kinds, left = found(start, source)
    assert kinds == {
        "embed": ("loaded", "embed"),
        "blocks/q": ("loaded", "body/q"),
        "head_table": ("tied", "embed"),
        "classifier/bias": ("fresh", ""),
    }
    assert left == ("mlm/bias",)


def test_what_does_not_match_is_refused_by_name_with_both_shapes():
    source = made_source({"embed": (8, 6), "blocks/q": (3, 4, 4), "classifier/bias": (2,)})
    with pytest.raises(ExperimentError) as refused:
        found(StartConfig(), source)
    said = str(refused.value)
    assert "embed is [8, 4] here and [8, 6] there" in said
    assert "blocks/q is [2, 4, 4] here and [3, 4, 4] there" in said
    assert "classifier/bias is [3] here and [2] there" in said
    assert "head_table is [8, 4] here and [8, 6] there" in said
    assert "--start.allow-fresh" in said
    with pytest.raises(ExperimentError, match=r"blocks/q \[2, 4, 4\] is not there"):
        found(StartConfig(allow_fresh=("classifier*",)), made_source({"embed": (8, 4)}))


def test_a_split_stack_is_read_as_one():
    both = (piece("frozen", "q", (3, 4)), piece("params", "q", (1, 4)))
    assert dataclasses.replace(made_source({}), pieces={"q": both}).shape("q") == (4, 4)


def test_other_tokenizers_models_and_folders_are_refused(gpt, store, tmp_path):
    folder, _ = gpt

    def refused(match, **changes):
        asked = tiny()
        asked = override(asked, {"start": StartConfig(source=str(folder))} | changes)
        with pytest.raises(ExperimentError, match=match):
            find_warm_start(set_up(asked, store=store))

    refused("activation: 'gelu_tanh' there, 'relu' asked", **{"model.activation": "relu"})
    t5 = configs.experiment("debug-t5")
    settings = {"model": t5.model, "objective": t5.objective, "optimizer.no_decay": ()}
    refused("holds a gpt, and experiment 'debug-gpt-neo' trains a seq2seq", **settings)
    other = tmp_path / "other"
    make_run(other, tiny(), info={"tokenizer": "0" * 64})
    refused("made with another tokenizer", start=StartConfig(source=str(other)))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    with pytest.raises(ExperimentError, match="gesso import"):
        open_source(tmp_path / "hf")
    with pytest.raises(ExperimentError, match="there is no folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ExperimentError, match=r"has not checkpoint 7; it has \[0\]"):
        open_source(folder / "checkpoints" / "7")
    assert open_source(folder / "checkpoints" / "0").step == 0


def test_a_base_that_is_kept_elsewhere_is_made_again_or_refused(gpt, store, tmp_path):
    """What adapters rely on: their checkpoints hold no frozen tree, but its fingerprint."""
    s = set_up(tiny(start=StartConfig(source=str(gpt[0])), first_layer=1), store=store)
    s = dataclasses.replace(s, parts=dataclasses.replace(s.parts, frozen_saved="elsewhere"))
    state = warm_state(s, find_warm_start(s))
    kept, info = checkpoint_state(s, state), base_record(s, state)
    assert "frozen" not in kept
    again = add_base(s, kept, info)
    assert jax.tree.all(jax.tree.map(np.array_equal, again["frozen"], state["frozen"]))
    other = tmp_path / "other"
    make_run(other, tiny(), seed=4)
    e = dataclasses.replace(s.experiment, start=StartConfig(source=str(other)))
    with pytest.raises(ExperimentError, match="is not what this run was trained over"):
        add_base(dataclasses.replace(s, experiment=e), kept, info)


def test_resume_goes_before_start_before_imported_before_scratch(gpt, store, tmp_path):
    folder, _ = gpt
    asked = set_up(tiny(start=StartConfig(source=str(folder))), store=store)
    plain = set_up(tiny(), store=store)
    none = tmp_path / "none"
    assert choose_start(plain, none) == "scratch"
    assert choose_start(asked, none) == "start"
    assert choose_start(asked, folder / "checkpoints") == "resume"
    make_run(tmp_path / "imported", tiny(), info={IMPORTED: True})
    assert choose_start(plain, tmp_path / "imported" / "checkpoints") == "imported"
    with pytest.raises(ExperimentError, match="holds imported parameters, and start names others"):
        choose_start(asked, tmp_path / "imported" / "checkpoints")


def test_the_command_takes_the_model_of_the_source_and_its_own_recipe(gpt, tmp_path, capsys):
    folder, _ = gpt
    asked = request(
        ["debug-ulmfit", "--start", str(folder), str(tmp_path / "run"), "--model.vocab", "272"]
    )
    theirs = tiny().model
    assert asked.folder == tmp_path / "run"
    assert asked.named == {"model.vocab"}
    assert asked.experiment.start.source == str(folder)
    assert asked.experiment.stages == configs.experiment("debug-ulmfit").stages
    assert asked.experiment.model == dataclasses.replace(theirs, vocab=272)
    for arguments, told in (
        (["debug-ulmfit"], "say what to start from"),
        (["--start", str(folder), "debug-ulmfit"], "name comes first"),
        (["debug-ulmfit", "--start"], "needs a folder"),
        (["bert-base", "--start", str(folder)], "holds a gpt"),
        (["debug-ulmfit", "--start.encoder", str(folder)], "no such side"),
    ):
        with pytest.raises(ValueError, match=told):
            request(arguments)
    with pytest.raises(SystemExit):
        request(["debug-ulmfit", "--start", str(folder), "--help"])
    assert "Gradual unfreezing" in capsys.readouterr().out


def test_a_run_begun_before_needs_its_source_no_more(gpt, tmp_path):
    folder, _ = gpt
    first = request(["debug-ulmfit", "--start", str(folder), str(tmp_path / "run")])
    write_json(tmp_path / "run" / "experiment.json", to_json(first.experiment))
    gone = str(tmp_path / "gone")
    record = json.loads((tmp_path / "run" / "experiment.json").read_text())
    record["start"]["source"] = gone
    write_json(tmp_path / "run" / "experiment.json", record)
    again = request(["debug-ulmfit", "--start", gone, str(tmp_path / "run")])
    assert again.experiment.model == first.experiment.model
