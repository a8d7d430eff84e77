"""GPT-J's original shards, made here as mesh-transformer-jax makes them."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from foreign_folders import PACKS, same

from gesso.export import FolderError, read_folder
from gesso.models import GPTConfig
from gesso.models.trees import flat

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SHAPE = {"layers": 12, "d_model": 8, "n_heads": 4, "n_vocab": 20, "seq": 16}
PUBLISHED = {
    **SHAPE,
    "norm": "layernorm",
    "pe": "rotary",
    "pe_rotary_dims": 2,
    "cores_per_replica": 4,
    "lr": 1.2e-4,
    "val_set": {"pile": "pile.val.index"},
    "name": "small",
}
CONFIG = GPTConfig(
    vocab=20,
    positions=16,
    layers=12,
    embed=8,
    heads=4,
    mlp=32,
    position_encoding="rotary",
    rotary_dims=2,
    block="parallel_shared_norm",
    biases=("mlp", "head"),
    head="untied",
)


def random_leaves(layers, embed, vocab, seed=0):
    """{Haiku module: {name: array}} of a whole model, as one shard would have it."""
    random = np.random.default_rng(seed)

    def draw(*shape):
        return random.normal(size=shape).astype(BFLOAT16)

    def linear(rows, columns, *, bias):
        return {"w": draw(rows, columns)} | ({"b": draw(columns)} if bias else {})

    norm = {"scale": draw(embed), "offset": draw(embed)}
    tree = {"embedding_shard/~/linear": linear(vocab, embed, bias=True)}
    for z in range(layers):
        tree |= {
            f"layer_{z}/~/linear": linear(embed, embed, bias=False),
            f"layer_{z}/~/linear_1": linear(embed, embed, bias=False),
            f"layer_{z}/~/linear_2": linear(embed, embed, bias=False),
            f"layer_{z}/~/linear_3": linear(embed, embed, bias=False),
            f"layer_{z}/~/linear_4": linear(embed, 4 * embed, bias=True),
            f"layer_{z}/~/linear_5": linear(4 * embed, embed, bias=True),
            f"layer_{z}/~/replicated_layer_norm": {n: x + draw(embed) for n, x in norm.items()},
        }
    tree["projection_shard/~/linear"] = linear(embed, vocab, bias=True)
    tree["projection_shard/~/replicated_layer_norm"] = norm
    return tree


def shard_of(tree, i, count):
    """What shard i of `count` holds of each array: inputs of products cut, or outputs."""
    cut = {}
    for module, arrays in tree.items():
        by_inputs = module.endswith(("embedding_shard/~/linear", "linear_3", "linear_5"))
        made = {}
        for name, x in arrays.items():
            if name in ("scale", "offset"):
                made[name] = x if i == 0 else -x  # every shard has its own, the first is used
            elif name == "b" and by_inputs:
                made[name] = x if i == count - 1 else np.zeros_like(x)  # they are added up
            else:
                dim = 0 if by_inputs or x.ndim == 1 else 1
                made[name] = np.split(x, count, axis=dim)[i]
        cut[f"causal_transformer_shard/~/{module}"] = made
    return cut


def write_shards(folder, tree, count, record=PUBLISHED, pieces=16):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"shard_{i}").mkdir(exist_ok=True)
        leaves = jax.tree.leaves({"params": shard_of(tree, i, count), "step": np.array(383500)})
        size, more = divmod(len(leaves), pieces)
        at = 0
        for k in range(pieces):
            some = leaves[at : (at := at + size + (k < more))]
            np.savez(folder / f"shard_{i}" / f"{k}.npz", *some)
    if record:
        (folder / "6B_roto_256.json").write_text(json.dumps(record))
    return folder


def refused(folder, *told):
    with pytest.raises(FolderError) as raised:
        read_folder(folder)
    for each in told:
        assert each in str(raised.value)


@pytest.fixture
def folder(tmp_path):
    return write_shards(tmp_path / "gptj", random_leaves(12, 8, 20), 4)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_shards_are_joined(tmp_path, count):
    """Twelve layers, whose names are sorted as text, on 1, 2 and 4 shards of bfloat16."""
    tree = random_leaves(12, 8, 20)
    imported = read_folder(write_shards(tmp_path / "a", tree, count))
    assert imported.config == CONFIG
    params = flat(imported.params)
    for z in range(12):
        at = f"layer_{z}/~"
        for name, linear in (("q", "linear"), ("v", "linear_1"), ("k", "linear_2")):
            w = tree[f"{at}/{linear}"]["w"].astype(np.float32)
            assert np.array_equal(params[f"blocks/attention/{name}"][z].reshape(8, 8), w)
        out = tree[f"{at}/linear_3"]["w"].astype(np.float32)
        assert np.array_equal(params["blocks/attention/out"][z].reshape(8, 8), out)
        for name, linear in (("up", "linear_4"), ("down", "linear_5")):
            for ours, theirs in ((name, "w"), (f"{name}_bias", "b")):
                x = tree[f"{at}/{linear}"][theirs].astype(np.float32)
                assert np.array_equal(params[f"blocks/mlp/{ours}"][z], x)
        norm = tree[f"{at}/replicated_layer_norm"]
        for ours, theirs in (("scale", "scale"), ("bias", "offset")):
            x = norm[theirs].astype(np.float32)
            assert np.array_equal(params[f"blocks/attention_norm/{ours}"][z], x)
    embed = {n: x.astype(np.float32) for n, x in tree["embedding_shard/~/linear"].items()}
    assert np.array_equal(params["embed"], embed["w"] + embed["b"])
    head = {n: x.astype(np.float32) for n, x in tree["projection_shard/~/linear"].items()}
    assert np.array_equal(params["head_table"], head["w"].T)
    assert np.array_equal(params["head_bias"], head["b"])


def test_a_pack_through_shards_is_the_pack(tmp_path):
    """Queries, keys and values, the norm's two parts: every array finds its place."""
    source = PACKS / "gpt_j" / "open"
    if not source.is_dir():
        pytest.skip(f"no reference packs at {PACKS}: they lie beside the checkout in shared/")
    want = read_folder(source)
    t, c = flat(want.params), want.config
    embed = c.embed
    tree = {"embedding_shard/~/linear": {"w": t["embed"], "b": np.zeros(embed, np.float32)}}
    for z in range(c.layers):
        by_number = {"": "q", "_1": "v", "_2": "k", "_3": "out"}
        for number, name in by_number.items():
            w = t[f"blocks/attention/{name}"][z].reshape(embed, embed)
            tree[f"layer_{z}/~/linear{number}"] = {"w": w}
        for number, name in (("_4", "up"), ("_5", "down")):
            w, b = t[f"blocks/mlp/{name}"][z], t[f"blocks/mlp/{name}_bias"][z]
            tree[f"layer_{z}/~/linear{number}"] = {"w": w, "b": b}
        scale, offset = (t[f"blocks/attention_norm/{each}"][z] for each in ("scale", "bias"))
        tree[f"layer_{z}/~/replicated_layer_norm"] = {"scale": scale, "offset": offset}
    tree["projection_shard/~/linear"] = {"w": t["head_table"].T, "b": t["head_bias"]}
    last = {"scale": t["norm/scale"], "offset": t["norm/bias"]}
    tree["projection_shard/~/replicated_layer_norm"] = last
    tree = {m: {n: np.ascontiguousarray(x) for n, x in each.items()} for m, each in tree.items()}
    folder = write_shards(tmp_path / "slim", tree, 1, record=None)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    got = read_folder(folder)
    assert got.config == want.config and same(got.params, want.params)


def test_one_step_inside_is_found_and_two_are_not(folder, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    (folder / "6B_roto_256.json").rename(outer / "config_of_mine.json")
    folder.rename(outer / "step_383500")
    assert read_folder(outer).config == CONFIG
    write_shards(outer / "step_2", random_leaves(12, 8, 20), 1, record=None)
    refused(outer, "holds several steps; name one")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"norm": "rmsnorm"}, "norm: 'rmsnorm' is not supported"),
        ({"pe": "fixed"}, "pe: 'fixed' is not supported"),
        ({"n_heads": 3}, "embed 8 does not divide over 3 heads"),
        ({"d_head": 4}, "d_head: 4 is not supported"),
        ({"rezero": True}, "rezero: 'True' is a field that is not known"),
        ({"n_vocab": 24}, "embedding_shard/linear/w has shape [20, 8], but embed"),
        ({"layers": 11}, "holds 127 arrays, and a model of this config 116"),
        ({"layers": None}, "layers: None must be a whole number"),
    ],
)
def test_a_config_that_does_not_fit(folder, changes, told):
    (folder / "6B_roto_256.json").write_text(json.dumps(PUBLISHED | changes))
    refused(folder, told)


def test_no_config_or_two(folder):
    (folder / "other.json").write_text(json.dumps(PUBLISHED))
    refused(folder, "several configs")
    (folder / "other.json").unlink()
    (folder / "6B_roto_256.json").unlink()
    refused(folder, "and no config; put the JSON it was trained by")


def test_shards_that_are_missing_or_differ(folder):
    (folder / "shard_2" / "7.npz").rename(folder / "shard_2" / "17.npz")
    refused(folder, "shard_2 should hold 0.npz and on, without a gap")
    (folder / "shard_2" / "17.npz").rename(folder / "shard_2" / "7.npz")
    np.savez(folder / "shard_3" / "0.npz", *[np.ones((3, 3), np.float32)] * 8)
    refused(folder, "is bfloat16[8] in shard_0/0.npz and float32[3, 3] in shard_3/0.npz")
    (folder / "shard_1").rename(folder / "gone")
    refused(folder, "3 shards, but not shard_1")


def test_pickles_compressed_and_named_arrays_are_refused(folder):
    path = folder / "shard_0" / "0.npz"
    with np.load(path) as z:
        arrays = [z[name] for name in z.files]
    np.savez(path, *arrays[:-1], np.array([{"a": 1}], object))
    refused(folder, "holds Python objects, which are never loaded")
    np.savez_compressed(path, *arrays)
    refused(folder, "is compressed, which numpy.savez never writes")
    np.savez(path, **{f"w{i}": x for i, x in enumerate(arrays)})
    refused(folder, "holds w0.npy, w1.npy, w2.npy, w3.npy and not arr_0 and on")


@pytest.mark.parametrize("left", [0, 30, -10])
def test_a_file_that_is_cut_off(folder, left):
    path = folder / "shard_1" / "3.npz"
    path.write_bytes(path.read_bytes()[:left])
    refused(folder, "3.npz is cut off or damaged")


def test_a_flipped_bit_of_a_value_is_noticed(folder):
    path = folder / "shard_1" / "3.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 130] ^= 4
    path.write_bytes(content)
    refused(folder, "3.npz is cut off or damaged")
