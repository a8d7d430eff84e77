"""Rows of instruction examples: pure functions of their number, every draw in one of them once."""

import dataclasses
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from instruction_stores import config_of, store_of

from gesso.data.config import ExamplesConfig, MixtureConfig, OrderConfig
from gesso.data.instructions.rows import fit, rows_of
from gesso.data.open import heldout, order_of
from gesso.data.order.draws import Draws, permute_each, rates
from gesso.data.order.mixture import BLOCK, MixtureError
from gesso.data.order.pack import best_fit_grouped
from gesso.data.order.resume import StateDiffers
from gesso.finetune.instructions.build import build_instructions

LENGTH = 257


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("store"))


def order(store, **settings):
    return order_of(store, OrderConfig(length=LENGTH, **settings))


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype
        assert np.array_equal(one[name], two[name]), name


# The seven chain-of-thought sets that FLAN published, and their rates at a cap of 3,000 worked out
# by hand: 3000 / 17,873 = .1679, 2728 / 17,873 = .1526 and so on.
FLAN_COT = {
    "aqua": 2728,
    "creak": 6915,
    "ecqa": 7112,
    "gsm8k": 7470,
    "qasc": 1084,
    "sensemaking": 6070,
    "strategyqa": 2061,
}


def test_rates_are_examples_proportional_with_a_cap():
    made = rates(FLAN_COT, clusters=dict.fromkeys(FLAN_COT, "c"), mixture=MixtureConfig(), cap=3000)
    total = sum(made.values())
    assert total == 17_873
    shares = {name: round(rate / total, 4) for name, rate in made.items()}
    assert shares == {
        "aqua": 0.1526, "creak": 0.1679, "ecqa": 0.1679, "gsm8k": 0.1679, "qasc": 0.0607,
        "sensemaking": 0.1679, "strategyqa": 0.1153,
    }  # fmt: skip


def test_the_cap_comes_before_the_temperature():
    counts, clusters = {"a": 16, "b": 400, "c": 10_000}, dict.fromkeys("abc", "x")
    two = MixtureConfig(kind="temperature", temperature=2.0)
    assert rates(counts, clusters=clusters, mixture=two) == {"a": 4, "b": 20, "c": 100}
    assert rates(counts, clusters=clusters, mixture=two, cap=900) == {"a": 4, "b": 20, "c": 30}


def test_weights_of_clusters_are_shared_inside_by_capped_counts():
    counts, clusters = {"a": 10, "b": 90, "c": 7}, {"a": "x", "b": "x", "c": "y"}
    mixture = MixtureConfig(kind="weights", values={"x": 3.0, "y": 1.0})
    made = rates(counts, clusters=clusters, mixture=mixture, cap=30)
    assert made == {"a": 0.75, "b": 2.25, "c": 1.0}
    epochs = MixtureConfig(kind="epochs", values={"x": 2.0, "c": 5.0})
    assert rates(counts, clusters=clusters, mixture=epochs) == {"a": 20, "b": 180, "c": 35}
    alone = MixtureConfig(kind="weights", values={"c": 1.0})
    assert rates(counts, clusters=clusters, mixture=alone) == {"c": 1.0}


@pytest.mark.parametrize(
    ("mixture", "cap", "message"),
    [
        (MixtureConfig(temperature=2.0), 0, "no effect"),
        (MixtureConfig(kind="temperature", temperature=0.0), 0, "above 0"),
        (MixtureConfig(kind="weights"), 0, "needs values"),
        (MixtureConfig(values={"x": 1.0}), 0, "takes no values"),
        (MixtureConfig(kind="weights", values={"xx": 1.0}), 0, "did you mean 'x'"),
        (MixtureConfig(kind="weights", values={"x": 1.0, "a": 1.0}), 0, "names 'a' twice"),
        (MixtureConfig(kind="epochs", values={"x": 1.0}), 5, "no effect"),
        (MixtureConfig(preset="pile"), 0, "no preset"),
        (MixtureConfig(changes=((5, {"a": 1.0}),)), 0, "no changes"),
        (MixtureConfig(), -1, "must not be negative"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(mixture, cap, message):
    with pytest.raises(MixtureError, match=message):
        rates({"a": 3}, clusters={"a": "x"}, mixture=mixture, cap=cap)


def fake_store(train, *, renderings=2):
    n = len(train)
    names = tuple(f"t{i}" for i in range(n))
    first = np.cumsum([0, *train[:-1]]) * renderings
    tasks = SimpleNamespace(
        names=names, components=names, train=np.array(train), holdout=np.zeros(n, np.int64),
        first=first,
    )  # fmt: skip
    return SimpleNamespace(tasks=tasks, renderings=renderings, folder="f")


def test_draws_have_the_exact_counts_and_every_example_once_an_epoch():
    train = [7, 40, 1000]
    draws = Draws(fake_store(train), MixtureConfig(), examples=ExamplesConfig(cap=80), seed=3)
    assert draws.rates.tolist() == [7 / 127, 40 / 127, 80 / 127]
    task, pieces = draws.locate(np.arange(BLOCK))
    counts = np.bincount(task)
    assert np.abs(counts - BLOCK * draws.rates).max() < 1
    for t, n in enumerate(train):
        mine = (pieces[task == t] - draws._store.tasks.first[t]) // 2
        whole = len(mine) // n
        for epoch in range(whole):
            assert sorted(mine[epoch * n : (epoch + 1) * n]) == list(range(n))
        assert mine[:n].tolist() != mine[n : 2 * n].tolist()


def test_epochs_go_through_the_renderings():
    store = fake_store([50], renderings=4)
    draws = Draws(store, MixtureConfig(), examples=ExamplesConfig(), seed=0)
    _, pieces = draws.locate(np.arange(400))
    epochs = [sorted(pieces[50 * e : 50 * e + 50].tolist()) for e in range(8)]
    for e in range(4):
        assert epochs[e] == epochs[e + 4], "after all renderings the first one comes again"
    assert sorted(sum(epochs[:4], [])) == list(range(200))
    assert Counter(p % 4 for p in epochs[0]).keys() == {0, 1, 2, 3}, "examples start at their own"


def test_a_permutation_with_an_n_of_each_its_own():
    for n in (1, 2, 3, 17, 64, 65, 1000):
        index = np.arange(n)
        for key in (0, 1):
            keys = np.full(n, key, np.uint64)
            made = permute_each(index, np.full(n, n), keys=keys)
            assert sorted(made) == list(range(n))
        assert n < 17 or made.tolist() != list(range(n))


@pytest.mark.parametrize(
    ("head", "tail", "want"),
    [
        (5, 3, (5, 3)),
        (12, 4, (12, 4)),
        (13, 4, (12, 4)),  # the prompt is cut
        (99, 15, (1, 15)),  # the target survives whole
        (99, 16, (4, 12)),  # it cannot: a quarter of the row for the prompt
        (2, 40, (2, 14)),
    ],
)
def test_the_target_survives(head, tail, want):
    kept = fit(np.array([head]), np.array([head + tail]), length=16)
    assert (int(kept.head[0]), int(kept.tail[0])) == want


class Pieces:
    """One prompt of 20 tokens 0..19 and a target of 4, 90..93."""

    heads, lengths, ends = np.array([20], np.int32), np.array([24]), np.array([24])

    def read(self, starts, lengths):
        tokens = np.concatenate([np.arange(20), np.arange(90, 94)])
        at = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)])
        return tokens[at], (at >= 20).astype(np.uint8)


@pytest.mark.parametrize(
    ("cut", "prompt"),
    [
        ("start", [12, 13, 14, 15, 16, 17, 18, 19]),
        ("end", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("middle", [0, 1, 2, 3, 16, 17, 18, 19]),
    ],
)
def test_what_a_prompt_loses(cut, prompt):
    made = rows_of(
        Pieces(), np.array([0]), np.array([1]), length=14, room=12,
        examples=ExamplesConfig(cut=cut),
    )  # fmt: skip
    assert made["tokens"].tolist() == [[*prompt, 90, 91, 92, 93, 0, 0]]
    assert made["lm_weight"].tolist() == [[0] * 8 + [1] * 4 + [0] * 2]


def test_weights_of_prompts_and_of_examples():
    examples = ExamplesConfig(weigh="examples", prompt_weight=0.5)
    made = rows_of(Pieces(), np.array([0, 0]), np.array([2]), length=60, room=60, examples=examples)
    one = [0.0] + [0.125] * 19 + [0.25] * 4
    assert made["lm_weight"].tolist() == [[*one, *one, *([0.0] * 12)]]


def test_rows_hold_one_cluster_and_lose_nothing():
    rng = np.random.default_rng(0)
    kept, group = rng.integers(1, 30, 500), rng.integers(0, 3, 500)
    row, of_row = best_fit_grouped(kept + 2, group, length=32)
    assert (of_row[row] == group).all()
    assert np.bincount(row, weights=kept + 2).max() <= 32
    assert np.bincount(row, minlength=len(of_row)).min() >= 1


def test_every_draw_of_a_pass_is_in_a_row_once(store):
    o = order(store)
    o.rows(0, 1)
    _, pieces = o.draws.locate(np.arange(o.pass_examples))
    held = o._pass(0)
    assert sorted(held.pieces) == sorted(pieces)
    assert held.first[-1] == len(pieces)
    made = o.take(np.arange(held.rows))
    kept = fit(store.heads[pieces], store.lengths[pieces], length=LENGTH)
    assert (made["segments"] > 0).sum() == kept.lengths.sum()
    _, targets = store.read(store.ends[pieces] - store.lengths[pieces], store.lengths[pieces])
    assert o.cut["targets"] == 0
    assert (made["lm_weight"] > 0).sum() == targets.sum(), "every target token counts once"


def test_packed_examples_are_the_examples_alone(store):
    o = order(store)
    made = o.rows(0, 60)
    tokenizer = store.tokenizer()
    whole = {}
    for number in range(len(store.ends)):
        first, n = store.ends[number] - store.lengths[number], store.lengths[number]
        if n <= LENGTH:
            ids, targets = store.read(np.array([first]), np.array([n]))
            whole[tuple(ids.tolist())] = targets.tolist()
    alone = 0
    for row in range(60):
        segments = made["segments"][row]
        for segment in range(1, int(segments.max()) + 1):
            here = segments == segment
            ids = made["tokens"][row][here]
            assert made["positions"][row][here].tolist() == list(range(len(ids)))
            if tuple(ids.tolist()) in whole:
                alone += 1
                assert made["lm_weight"][row][here].tolist() == whole[tuple(ids.tolist())]
                assert ids[-1] == tokenizer.eos
    assert alone > 40
    assert not made["lm_weight"][made["segments"] == 0].any()


def test_rows_do_not_depend_on_how_they_are_asked_for(store):
    whole = order(store).rows(0, 300)
    assert order(store)._rows == [0], "constructing an order reads nothing"
    again = order(store)
    parts = [again.rows(start, 50) for start in (250, 100, 0, 50, 200, 150)]
    parts = [parts[i] for i in (2, 3, 1, 5, 4, 0)]
    same(whole, {name: np.concatenate([p[name] for p in parts]) for name in whole})
    mixed = np.array([299, 3, 150, 4])
    same(order(store).take(mixed), {name: leaf[mixed] for name, leaf in whole.items()})
    assert len(again._rows) > 3, "several passes"


def test_rows_are_the_same_without_the_counts_that_were_kept(store):
    whole = order(store).rows(100, 40)
    for file in (store.folder / "plans").glob("instructions-*"):
        file.unlink()
    same(order(store).rows(100, 40), whole)


def test_seeds_and_stores_make_other_rows(store):
    one, other = order(store).rows(0, 8), order(store, seed=1).rows(0, 8)
    assert not np.array_equal(one["tokens"], other["tokens"])


def test_a_restart_continues(store):
    o = order(store)
    state = o.state(123)
    assert order(store).resume(state) == 123
    assert state["consumed"].keys() == {"nli", "arithmetic"}
    assert sum(each["rows"] for each in state["consumed"].values()) == 123
    held = o.rows(0, 123)["component"]
    assert [each["rows"] for each in state["consumed"].values()] == np.bincount(held).tolist()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"examples": ExamplesConfig(cap=10)}, "mixture"),
        ({"examples": ExamplesConfig(weigh="examples")}, "weigh"),
        ({"examples": ExamplesConfig(cut="start")}, "cut"),
        ({"examples": ExamplesConfig(prompt_weight=0.1)}, "prompt_weight"),
        ({"skip": ((3, 9),)}, "skip"),
    ],
)
def test_another_order_is_not_continued(store, settings, field):
    with pytest.raises(StateDiffers, match=f"`{field}`"):
        order(store, **settings).resume(order(store).state(40))


def test_another_store_is_not_continued(store, tmp_path):
    other = build_instructions(config_of(tmp_path, seed=7), tmp_path / "store")
    with pytest.raises(StateDiffers, match="other sources or settings"):
        order(other).resume(order(store).state(40))


def test_skipped_rows_are_jumped_over(store):
    o = order(store, skip=((5, 9), (8, 12)))
    assert o.visit(3, 4).tolist() == [3, 4, 12, 13]
    same(o.rows(3, 4), order(store).take(np.array([3, 4, 12, 13])))


def test_one_cluster_left_out(store):
    o = order(store, examples=ExamplesConfig(without=("nli",)))
    assert o.components == ("arithmetic",)
    assert {store.tasks.names[t] for t in o.draws.tasks} == {"sums"}
    text = store.tokenizer().decode(o.rows(0, 30)["tokens"].reshape(-1))
    assert "claim" not in text and "what is" in text
    # What is left out is still there to be tested on.
    assert len(heldout(store, "nli", length=LENGTH, overlap=1)) > 0
    task = order(store, examples=ExamplesConfig(without=("nli_b",)))
    assert {store.tasks.names[t] for t in task.draws.tasks} == {"nli_a", "sums"}
    with pytest.raises(MixtureError, match="did you mean 'nli_a'"):
        order(store, examples=ExamplesConfig(without=("nli_aa",)))
    with pytest.raises(MixtureError, match="none is left"):
        order(store, examples=ExamplesConfig(without=("nli", "arithmetic")))


def test_held_out_rows_have_every_held_out_example_once(store):
    tokenizer, seen = store.tokenizer(), 0
    train = order(store).rows(0, 60)
    trained = tokenizer.decode(train["tokens"].reshape(-1))
    for component in store.components:
        held = heldout(store, component, length=LENGTH, overlap=1)
        made = held.rows(0, len(held))
        seen += int(made["segments"].max(1).sum())
        assert (made["component"] == store.components.index(component)).all()
        same(held.rows(len(held) - 1, 1), {name: leaf[-1:] for name, leaf in made.items()})
        ids = made["tokens"][made["lm_weight"] > 0]
        assert (ids == tokenizer.eos).sum() == made["segments"].max(1).sum()
        with pytest.raises(IndexError):
            held.rows(0, len(held) + 1)
    assert seen == int(store.tasks.holdout.sum())
    assert "claim" in trained


def test_padding_is_counted(store):
    o = order(store)
    made = o.take(np.arange(o._pass(0).rows))
    assert o.padding() == pytest.approx(float((made["segments"] == 0).mean()))
    by_component = o.padding_by_component()
    for c, name in enumerate(o.components):
        mine = made["segments"][made["component"] == c]
        assert by_component[name] == pytest.approx(float((mine == 0).mean()))


def test_from_several_threads_rows_are_the_same(store):
    o, made = order(store), {}

    def take(k):
        made[k] = o.rows(40 * k, 40)

    threads = [threading.Thread(target=take, args=(k,)) for k in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for k in range(6):
        same(made[k], order(store).rows(40 * k, 40))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"packing": "concat"}, "best_fit"),
        ({"companions": True}, "other documents"),
        ({"examples": ExamplesConfig(cut="left")}, "examples.cut"),
        ({"examples": ExamplesConfig(prompt_weight=-1.0)}, "prompt_weight"),
        ({"skip": ((3, 2),)}, "skipped range"),
    ],
)
def test_settings_without_effect_are_refused(store, settings, message):
    with pytest.raises(ValueError, match=message):
        order(store, **settings)


def test_any_store_has_its_order(store):
    config = OrderConfig(length=LENGTH)
    assert type(order_of(store, config)).__name__ == "InstructionOrder"
    plain = dataclasses.replace(config, examples=ExamplesConfig(cap=3))
    with pytest.raises(ValueError, match="no effect on a token store"):
        order_of(SimpleNamespace(), plain)


def test_an_objective_that_masks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="objective causal"):
        order_of(store_of(tmp_path), OrderConfig(length=64, overlap=0))
