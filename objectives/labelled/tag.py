"""A tag for every word, said at its first token."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gesso.data.labelled.store import TaskStore
from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Term
from gesso.objectives.given import ModelSettings, Module
from gesso.objectives.labelled.base import Labelled, negative_log
from gesso.objectives.labelled.config import TagConfig


class Tag(Labelled):
    """Terms: "tag", the negative log-likelihood of each word's tag in nats, and "accuracy" (1 or
    0), which is only reported."""

    kind = "tag"
    letters: Mapping[str, str] = {"begins": "BP", "ends": "BP"}

    def __init__(
        self,
        config: TagConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
        store: TaskStore | None = None,
    ):
        super().__init__(config, tokenizer=tokenizer, model=model, store=store)
        self.terms: Mapping[str, Term] = {
            "tag": Term(weight="tag_weight"),
            "accuracy": Term(weight="tag_weight", coefficient=0.0),
        }

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of a task store -> tokens, segments, positions, token_types, tags i32[n, L];
        tag_weight f32[n, L], 1 at the first token of every word; begins, ends i32[n, P]; component
        i32[n]."""
        tags = rows.get("tags", np.full(rows["tokens"].shape, -1, np.int32))
        weight = (tags >= 0).astype(np.float32)
        return self.frame(rows) | {"tags": np.maximum(tags, 0), "tag_weight": weight}

    def score(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """(what `__call__` gives, {"logits": f32[B, L, Y]})."""
        own, head = (None, None) if key is None else jax.random.split(key)
        logits = module.tag(module.features(batch, own), head)
        nll = negative_log(jax.nn.log_softmax(logits, axis=-1), batch["tags"])
        right = (logits.argmax(-1) == batch["tags"]).astype(jnp.float32)
        return {"tag": nll, "accuracy": right}, {"logits": logits}

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{"tag", "accuracy": f32[B, L]}. No key, no dropout."""
        return self.score(module, batch, key)[0]
