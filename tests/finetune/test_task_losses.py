"""What labelled examples cost: packed as alone, weighted globally, as the formulas say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from task_stores import IDS, model_of, objective_of, order_of, store_of

from gesso.data.labelled.order import TaskHeldout
from gesso.models import BERTConfig, GPTConfig, build
from gesso.objectives.config import ClassifyConfig
from gesso.objectives.kinds import build as build_objective
from gesso.objectives.labelled.qa import best_spans
from gesso.pretrain.step import StepSettings, make_train_step

ROOM = 100


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return {kind: store_of(folder, kind) for kind in ("classify", "regress", "tag", "qa")}


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


def decoder(**settings):
    small = {"positions": ROOM, "layers": 1, "embed": 8, "heads": 2, "mlp": 16, "init_std": 0.4}
    return build(GPTConfig(vocab=260, outputs=("classify",), labels=3, **small | settings))


def total_of(model, objective, batch):
    """params -> (sum of the weighted losses and of the weights of every term that counts)."""

    def total(params):
        losses = objective(model.merge(params), batch, None)
        return sum(
            term.coefficient * (losses[name] * batch[term.weight]).sum()
            for name, term in objective.terms.items()
        )

    return total


def score(model, objective, params, batch):
    return jax.jit(lambda p, b: objective.score(model.merge(p), b, None))(params, batch)


def batch_of(store, objective, *, length):
    held = TaskHeldout(store, length=objective.row_length(length), frame=objective.framing)
    return objective.host_batch(held.rows(0, len(held)))


@pytest.mark.parametrize(
    "kind",
    [
        "classify",
        pytest.param("regress", marks=pytest.mark.slow),
        pytest.param("tag", marks=pytest.mark.slow),
        "qa",
        pytest.param("decoder", marks=pytest.mark.slow),
        "concat",
    ],
)
def test_packed_is_unpacked(stores, kind):
    task = kind if kind in stores else "classify"
    store, settings = stores[task], {}
    if task == "qa":
        settings = {"stride": 10, "question": 8}
    if kind in stores:
        model = model_of(task, positions=ROOM)
    else:
        model = decoder(pooling="last" if kind == "decoder" else "concat")
        settings = {"lm": 0.5}
    params = model.init(jax.random.key(0))
    found = []
    for per_row in (1, 5):
        objective = objective_of(task, store, model, per_row=per_row, **settings)
        batch = batch_of(store, objective, length=ROOM if per_row > 1 or task == "qa" else 60)
        found.append(jax.jit(jax.value_and_grad(total_of(model, objective, batch)))(params))
        found[-1] += (len(batch["tokens"]),)
    (one, one_gradient, rows), (packed, packed_gradient, fewer) = found
    assert fewer < rows
    np.testing.assert_allclose(packed, one, rtol=2e-6)
    # float32 sums in another order
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(one_gradient))
    for a, b in zip(jax.tree.leaves(packed_gradient), jax.tree.leaves(one_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * scale)


def test_losses_are_the_formulas(stores):
    store, model = stores["classify"], model_of("classify")
    params = model.init(jax.random.key(1))
    counts = np.array(store.record["statistics"]["labels"], np.float64)
    settings = {
        "plain": {},
        "balanced": {"weights": "balanced"},
        "focal": {"focal": 2.0, "class_weights": (1.0, 2.0, 0.5)},
        "adjust": {"adjust": 1.5},
    }
    logits = None
    for name, setting in settings.items():
        objective = objective_of("classify", store, model, **setting)
        batch = batch_of(store, objective, length=60)
        losses, said = score(model, objective, params, batch)
        labels = batch["labels"][:, 0]
        if logits is None:
            inputs = {k: batch[k] for k in ("tokens", "segments", "positions", "token_types")}
            logits = np.asarray(jax.jit(model.apply)(params, inputs)["labels"], np.float64)
        np.testing.assert_allclose(said["logits"][:, 0], logits, atol=1e-5)
        compared = logits + (1.5 * np.log(counts / counts.sum()) if name == "adjust" else 0)
        log_p = compared - np.log(np.exp(compared).sum(1, keepdims=True))
        nll = -log_p[np.arange(len(labels)), labels]
        want = (1 - np.exp(-nll)) ** 2 * nll if name == "focal" else nll
        np.testing.assert_allclose(losses["classify"][:, 0], want, rtol=2e-4, atol=1e-6)
        weights = {"balanced": counts.sum() / (3 * counts), "focal": np.array([1, 2, 0.5])}
        each = weights.get(name, np.ones(3))[labels]
        np.testing.assert_allclose(batch["label_weight"][:, 0], each, rtol=1e-6)
        right = logits.argmax(1) == labels
        assert np.asarray(losses["accuracy"][:, 0]).tolist() == right.astype(float).tolist()


@pytest.mark.parametrize(
    "microbatches_of", [(1,), pytest.param((1, 4), marks=pytest.mark.slow)], ids=["whole", "parts"]
)
def test_the_step_divides_by_the_weights_of_the_whole_batch(stores, microbatches_of):
    # torch's cross-entropy with class weights: sum(w * loss) / sum(w), also over microbatches.
    import optax

    store, model = stores["classify"], model_of("classify")
    objective = objective_of("classify", store, model, weights="balanced", per_row=3)
    order = order_of(store, objective, length=60)
    batch = objective.host_batch(order.rows(0, 8)) | {"row_crc": np.zeros(8, np.uint32)}
    params = model.init(jax.random.key(2))
    state = {"params": params, "opt_state": optax.sgd(0.1).init(params), "step": jnp.int32(0)}
    losses = score(model, objective, params, batch)[0]["classify"]
    want = (losses * batch["label_weight"]).sum() / batch["label_weight"].sum()
    norms = []
    for microbatches in microbatches_of:
        settings = StepSettings(microbatches=microbatches, components=1)
        step = jax.jit(make_train_step(model, objective, optax.sgd(0.1), settings))
        _, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], want, rtol=1e-6)
        np.testing.assert_allclose(metrics["component_loss"][0], want * batch["label_weight"].sum(),
                                   rtol=1e-5)  # fmt: skip
        norms.append(float(metrics["grad_norm"]))
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)


def test_the_auxiliary_loss_counts_every_example_once(stores):
    store, model = stores["classify"], decoder()
    params = model.init(jax.random.key(3))
    objective = objective_of("classify", store, model, lm=0.5, per_row=2)
    batch = batch_of(store, objective, length=ROOM)
    assert objective.terms["lm"].coefficient == 0.5
    losses, _ = score(model, objective, params, batch)
    inputs = {k: batch[k] for k in ("tokens", "segments", "positions")}
    reference = jax.jit(model.apply)(params, inputs)
    log_p = np.asarray(jax.nn.log_softmax(reference["logits"], axis=-1))
    means = []
    for row, segments in enumerate(batch["segments"]):
        for segment in range(1, segments.max() + 1):
            at = np.flatnonzero(segments == segment)
            said = [-log_p[row, k, batch["tokens"][row, k + 1]] for k in at[:-1]]
            means.append(np.mean(said))
    got = (losses["lm"] * batch["lm_weight"]).sum() / batch["lm_weight"].sum()
    np.testing.assert_allclose(got, np.mean(means), rtol=1e-5)
    assert np.isclose(batch["lm_weight"].sum(), len(means)) and len(means) == 9


def test_concat_pooling_is_of_real_tokens(stores):
    store, model = stores["classify"], decoder(pooling="concat")
    params = model.init(jax.random.key(4))
    objective = objective_of("classify", store, model, per_row=3)
    batch = batch_of(store, objective, length=ROOM)

    def features(params, batch):
        module = model.merge(params)
        x_BLD = module.features(batch)
        return x_BLD, module.of_texts(x_BLD, batch)

    x_BLD, read = map(np.asarray, jax.jit(features)(params, batch))
    for row, segments in enumerate(batch["segments"]):
        for p in range(segments.max()):
            own = x_BLD[row, segments == p + 1]
            want = np.concatenate([own[-1], own.max(0), own.mean(0)])
            np.testing.assert_allclose(read[row, p], want, atol=1e-6)
    # The whole row as one text, padding after it: what `apply` says.
    one = TaskHeldout(store, length=60, frame=dataclasses.replace(objective.framing, per_row=1))
    rows = one.rows(0, 4)
    inputs = {k: rows[k] for k in ("tokens", "segments", "positions")}
    apply = jax.jit(model.apply)
    logits = apply(params, inputs)["labels"]
    size = int((rows["segments"][0] > 0).sum())
    cut = {k: leaf[:1, :size] for k, leaf in inputs.items()}
    np.testing.assert_allclose(apply(params, cut)["labels"][0], logits[0], atol=1e-5)


@pytest.mark.parametrize("pool", [pytest.param("mean", marks=pytest.mark.slow), "max"])
def test_chunks_are_pooled_before_the_head(stores, pool):
    store, model = stores["regress"], model_of("regress", positions=16)
    params = model.init(jax.random.key(5))
    objective = objective_of("regress", store, model, chunks=3, pool=pool)
    batch = batch_of(store, objective, length=12)
    logits = score(model, objective, params, batch)[1]["logits"]
    module = model.merge(params)
    features = jax.jit(lambda params, part: model.merge(params).features(part))
    for row in range(len(batch["tokens"])):
        first = []
        for chunk in range(3):
            at = slice(12 * chunk, 12 * chunk + 12)
            if batch["segments"][row, at].any():
                part = {k: batch[k][row : row + 1, at] for k in ("tokens", "segments", "positions")}
                first.append(features(params, part)[0, 0])
        assert len(first) == batch["used"][row].sum()
        pooled = np.mean(first, 0) if pool == "mean" else np.max(first, 0)
        want = module.classify(jnp.asarray(pooled)[None, None])
        np.testing.assert_allclose(logits[row], want[0], atol=1e-5)
    assert (batch["used"].sum(1) > 1).any() and (batch["used"].sum(1) < 3).any()


def test_best_spans_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 3, 24)).astype(np.float32)
    segments = np.zeros((3, 24), np.int32)
    segments[:, :10], segments[:, 10:20] = 1, 2
    context = np.where(rng.random((3, 24)) < 0.7, 2, 1) * (segments > 0)
    context[:, [0, 1, 10, 11]] = 0
    context[2, 10:] = 0  # nothing to answer with
    batch = {"segments": segments, "context": context, "begins": np.array([[0, 10]] * 3)}
    made = best_spans(jnp.asarray(start), jnp.asarray(end), batch, longest=4)
    for row in range(3):
        for p, begin in enumerate((0, 10)):
            pairs = {
                (i - begin, j - i + 1): start[row, i] + end[row, j]
                for i in range(begin, begin + 10)
                for j in range(i, min(i + 4, begin + 10))
                if context[row, i] == 2 and context[row, j] > 0
            }
            if not pairs:
                assert made["score"][row, p] == -np.inf
                continue
            best = max(pairs, key=lambda pair: pairs[pair])
            assert (int(made["start"][row, p]), int(made["size"][row, p])) == best
            assert made["score"][row, p] == pairs[best]
            assert made["null"][row, p] == start[row, begin] + end[row, begin]


def test_the_loss_of_spans_is_over_the_segment(stores):
    store, model = stores["qa"], model_of("qa", positions=ROOM)
    params = model.init(jax.random.key(6))
    objective = objective_of("qa", store, model, question=8)
    batch = batch_of(store, objective, length=90)
    losses = score(model, objective, params, batch)[0]["qa"]
    inputs = {k: batch[k] for k in ("tokens", "segments", "positions", "token_types")}
    out = {k: np.asarray(v) for k, v in jax.jit(model.apply)(params, inputs).items()}
    for row in range(len(losses)):
        own = batch["segments"][row] > 0
        nll = [
            np.log(np.exp(np.asarray(out[side], np.float64)[row, own]).sum())
            - out[side][row, batch[f"{side}s_at"][row, 0]]
            for side in ("start", "end")
        ]
        np.testing.assert_allclose(losses[row, 0], np.mean(nll), rtol=1e-5)


def test_a_decoders_ids_are_its_own_or_the_end():
    from gesso.data.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer("bytes")
    plain = build_objective(ClassifyConfig(), tokenizer=tokenizer, model=decoder().config)
    assert plain.framing.first == plain.framing.between == plain.framing.last == (256,)
    own = build_objective(ClassifyConfig(**IDS), tokenizer=tokenizer, model=decoder().config)
    assert (own.framing.first, own.framing.between, own.framing.last) == ((257,), (258,), (259,))
    with pytest.raises(ValueError, match=r"no \[CLS\]"):
        build_objective(ClassifyConfig(), tokenizer=tokenizer, model=model_of("classify").config)
    with pytest.raises(ValueError, match="outside the model's vocabulary of 260"):
        build_objective(ClassifyConfig(end=260), tokenizer=tokenizer, model=decoder().config)


def test_only_tasks_frame_labelled_examples():
    # What runs decide by whether held-out text or held-out examples are evaluated.
    from gesso.objectives.config import TASKS, MaskedLMConfig

    model = build(BERTConfig(vocab=260, outputs=("mlm",))).config
    masked = build_objective(MaskedLMConfig(mask=257, cls=258, sep=259), model=model)
    assert masked.framing is None and "masked" not in TASKS
    assert build_objective(ClassifyConfig(**IDS)).framing is not None
