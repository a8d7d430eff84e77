"""A label or a number for a text, a pair of texts, or a long text read in windows."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gesso.data.labelled.store import TaskStore
from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Term
from gesso.objectives.cross_entropy import cross_entropy
from gesso.objectives.given import ModelSettings, Module
from gesso.objectives.labelled.base import Labelled, negative_log
from gesso.objectives.labelled.config import ClassifyConfig, RegressConfig

Leaves = dict[str, np.ndarray]


class _OfTexts(Labelled):
    """The forward pass and the rows that labels and numbers share. Terms: the kind's own, [B, P];
    with config.lm "lm", the negative log-likelihood of the texts' tokens, each example counting
    once however long it is (as in openai/finetune-transformer-lm)."""

    letters: Mapping[str, str] = {
        "begins": "BP",
        "ends": "BP",
        "used": "BP",
        "labels": "BP",
        "label_weight": "BP",
        "label_counted": "BP",
    }
    config: ClassifyConfig | RegressConfig

    def __init__(
        self,
        config: Any,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
        store: TaskStore | None = None,
    ):
        super().__init__(config, tokenizer=tokenizer, model=model, store=store)
        if config.lm and model is not None and model.architecture != "decoder":
            raise ValueError(
                f"objective.lm predicts the next token, which a {model.family} model does not: set"
                " --objective.lm 0"
            )
        if config.chunks > 1 and model is not None and model.pooling == "concat":
            raise ValueError(
                "objective.chunks pools the features of one token per window: set --model.pooling"
                " last"
            )
        lm = Term(weight="lm_weight", coefficient=config.lm, targets="targets")
        self._lm = {"lm": lm} if config.lm else {}

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> Leaves:
        """Rows of a task store -> tokens, segments, positions, token_types i32[n, L]; begins, ends
        i32[n, P] and used f32[n, P], the segments; labels i32 or f32[n, per_row], label_counted
        f32, 1 for each example, and label_weight f32, what it counts for; component i32[n]; with
        config.lm targets i32[n, L] and lm_weight f32[n, L]."""
        made, held = self.frame(rows), self.presence(rows)
        labels = rows.get("labels", np.zeros(held.shape)).astype(self.label_dtype)
        made |= {
            "labels": labels,
            "label_counted": held,
            "label_weight": self.weigh(labels, held),
        }
        made["used"] = (rows["begins"] >= 0 if "begins" in rows else made["begins"] > 0).astype(
            np.float32
        )
        return made | self._targets(made) if self._lm else made

    label_dtype: Any = np.int32

    def weigh(self, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
        """What each example counts for."""
        return held

    def _targets(self, made: Leaves) -> Leaves:
        tokens, segments = made["tokens"], made["segments"]
        same = np.zeros(tokens.shape, bool)
        same[:, :-1] = (segments[:, :-1] == segments[:, 1:]) & (segments[:, 1:] > 0)
        targets = np.where(same, np.roll(tokens, -1, axis=1), 0)
        size = np.maximum(made["ends"] - made["begins"], 1)  # tokens that are predicted
        of = np.take_along_axis(size, np.maximum(segments - 1, 0), axis=1)
        return {"targets": targets, "lm_weight": (same / of).astype(np.float32)}

    def logits(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """(float32 logits [B, per_row, Y], features BLD)."""
        own, head = (None, None) if key is None else jax.random.split(key)
        chunks = self.framing.chunks
        # Windows are rows of their own to the model.
        apart = {
            name: leaf.reshape(leaf.shape[0] * chunks, -1) if chunks > 1 else leaf
            for name, leaf in batch.items()
            if name in ("tokens", "segments", "positions", "token_types")
        }
        x_BLD = module.features(apart, own)
        x_BLD = x_BLD.reshape(*batch["tokens"].shape, x_BLD.shape[-1])
        texts_BPD = module.of_texts(x_BLD, batch)
        if chunks > 1:
            texts_BPD = self._pool_windows(texts_BPD, batch["used"][..., None])
        return module.classify(texts_BPD, head), x_BLD

    def _pool_windows(self, texts_BPD: jax.Array, used: jax.Array) -> jax.Array:
        if self.config.pool == "max":
            # A window that is not there is below everything; an empty row stays a number.
            low = jnp.where(used > 0, texts_BPD, jnp.finfo(texts_BPD.dtype).min)
            return jnp.where(used.any(1, keepdims=True), low.max(1, keepdims=True), 0)
        total = (texts_BPD * used).sum(1, keepdims=True)
        return (total / jnp.maximum(used.sum(1, keepdims=True), 1)).astype(texts_BPD.dtype)

    def with_lm(self, losses: dict[str, jax.Array], module: Module, x_BLD: jax.Array, batch: Any):
        """The losses and, where asked, the texts' own."""
        if not self._lm:
            return losses
        scored = cross_entropy(x_BLD, batch["targets"], *module.head(), chunk_tokens=0)
        return losses | {"lm": scored.nll_BL}

    def score(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """(what `__call__` gives, {"logits": f32[B, per_row, Y]})."""
        raise NotImplementedError

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{term: float32 values}: [B, per_row], and BL of "lm". No key, no dropout."""
        return self.score(module, batch, key)[0]


class Classify(_OfTexts):
    """Terms: "classify", the loss of each example (negative log-likelihood in nats, focal or
    adjusted where asked), and "accuracy" (1 or 0), which is only reported."""

    kind = "classify"

    def __init__(
        self,
        config: ClassifyConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
        store: TaskStore | None = None,
    ):
        super().__init__(config, tokenizer=tokenizer, model=model, store=store)
        self.terms: Mapping[str, Term] = {
            "classify": Term(weight="label_weight"),
            "accuracy": Term(weight="label_counted", coefficient=0.0),
        } | self._lm
        self._focal, self._adjust = config.focal, config.adjust
        labels = 1 if model is None else model.labels
        counts = (
            np.ones(labels) if store is None else np.array(store.record["statistics"]["labels"])
        )
        self._weights = _weights(config, counts)
        # A class without examples counts for half a one: its logarithm must be finite.
        self._log_share = np.log(np.maximum(counts, 0.5) / counts.sum()).astype(np.float32)

    def weigh(self, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
        return (held * self._weights[labels]).astype(np.float32)

    def score(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        logits, x_BLD = self.logits(module, batch, key)
        compared = logits
        if self._adjust:
            compared = logits + self._adjust * jnp.asarray(self._log_share)
        nll = negative_log(jax.nn.log_softmax(compared, axis=-1), batch["labels"])
        if self._focal:
            # 1 - exp(-nll) by expm1, whose gradient stays finite where an example is certain.
            nll = jnp.maximum(-jnp.expm1(-nll), 1e-12) ** self._focal * nll
        right = (logits.argmax(-1) == batch["labels"]).astype(jnp.float32)
        losses = {"classify": nll, "accuracy": right}
        return self.with_lm(losses, module, x_BLD, batch), {"logits": logits}


class Regress(_OfTexts):
    """Term: "regress", the squared error of each example's number."""

    kind = "regress"
    label_dtype = np.float32

    def __init__(
        self,
        config: RegressConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
        store: TaskStore | None = None,
    ):
        super().__init__(config, tokenizer=tokenizer, model=model, store=store)
        self.terms: Mapping[str, Term] = {"regress": Term(weight="label_weight")} | self._lm

    def score(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        logits, x_BLD = self.logits(module, batch, key)
        losses = {"regress": jnp.square(logits[..., 0] - batch["labels"])}
        return self.with_lm(losses, module, x_BLD, batch), {"logits": logits}


def _weights(config: ClassifyConfig, counts: np.ndarray) -> np.ndarray:
    """f64[labels]. Raises ValueError for weights of another number of classes."""
    if config.class_weights:
        if len(config.class_weights) != len(counts):
            raise ValueError(
                f"objective.class_weights has {len(config.class_weights)} weights for"
                f" {len(counts)} classes"
            )
        return np.array(config.class_weights)
    if config.weights == "balanced":
        return counts.sum() / (len(counts) * np.maximum(counts, 1))
    return np.ones(len(counts))
