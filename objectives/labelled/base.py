"""What the objectives of labelled examples share: their frame, and rows of a task store."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gesso.data.config import FrameConfig
from gesso.data.labelled.store import TaskStore
from gesso.data.store.base import Store
from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Objective
from gesso.objectives.given import ModelSettings
from gesso.objectives.labelled.config import LabelledConfig


class Labelled(Objective):
    """A base of objectives over task stores (data/labelled/store.py). Rows of other stores, or a
    store of another kind of task, are refused.

    framing: how examples become rows. store: None where only shapes are asked for (a plan).
    """

    overlap: Literal[0, 1] = 0
    overhead = 0
    companions = False
    letters: Mapping[str, str] = {}
    kind = ""

    def __init__(
        self,
        config: LabelledConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
        store: TaskStore | None = None,
    ):
        self.config, self.store = config, store
        check_store(self.kind, store, model)
        ids = special_ids(config, tokenizer, model)
        chunks, stride, question = config.windows
        self.framing: FrameConfig = FrameConfig(
            first=(ids["cls"],),
            between=(ids["sep"],) * config.separators,
            last=(ids["end"],),
            per_row=config.per_row,
            cut=config.cut,
            head_share=config.head_share,
            chunks=chunks,
            stride=stride,
            question=question,
        )

    @property
    def places(self) -> int:
        """Segments of a row at most."""
        return max(self.framing.per_row, self.framing.chunks)

    def row_length(self, length: int) -> int:
        """Tokens of a row: those of all its chunks."""
        return length * self.framing.chunks

    def frame(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The leaves that a model reads and those of places, of rows of a task store or of padding:
        tokens, segments, positions, token_types i32[n, L], component i32[n], begins and ends
        i32[n, P], 0 where there is no segment."""
        n = len(rows["tokens"])
        empty = np.full((n, self.places), -1, np.int32)
        made = {name: rows[name] for name in ("tokens", "segments", "positions", "component")}
        made["token_types"] = rows.get("token_types", np.zeros_like(rows["tokens"]))
        made |= {name: np.maximum(rows.get(name, empty), 0) for name in ("begins", "ends")}
        return {name: np.ascontiguousarray(leaf, np.int32) for name, leaf in made.items()}

    def presence(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """f32[n, per_row]: 1 where there is an item."""
        empty = np.full((len(rows["tokens"]), self.framing.per_row), -1, np.int32)
        return (rows.get("item", empty) >= 0).astype(np.float32)


def check_store(kind: str, store: Store | None, model: ModelSettings | None) -> None:
    """ValueError for a store of something else, and for a model without the head for it."""
    if store is not None and not (isinstance(store, TaskStore) and store.kind == kind):
        labelled = isinstance(store, TaskStore)
        what = f"a task of kind {store.kind}" if labelled else "plain text"
        raise ValueError(
            f"objective {kind} reads a store of labelled examples (gesso task build --task {kind}),"
            f" and {store.folder} holds {what}; set --data.store, or another objective"
        )
    if model is None:
        return
    head = {"classify": "classify", "regress": "classify", "tag": "tag", "qa": "span"}[kind]
    if head not in model.outputs:
        raise ValueError(
            f"objective {kind} reads the head {head!r}, which this {model.family} model has not:"
            f" name it in --model.outputs {head}"
        )
    labels = 1 if kind == "regress" else len(store.labels) if store is not None else model.labels
    if kind != "qa" and model.labels != labels:
        names = f" ({', '.join(store.labels[:8])})" if store is not None and store.labels else ""
        raise ValueError(
            f"the model has {model.labels} labels and the task {labels}{names}; set"
            f" --model.labels {labels}"
        )


def special_ids(
    config: LabelledConfig, tokenizer: Tokenizer | None, model: ModelSettings | None
) -> dict[str, int]:
    """{"cls", "sep", "end"}: the config's ids, or the tokenizer's own."""
    own: Mapping[str, int] = {} if tokenizer is None else tokenizer.special
    encoder = model is not None and model.architecture == "encoder"
    ids = {}
    for name, special in (("cls", "cls"), ("sep", "sep"), ("end", "sep")):
        asked = getattr(config, name)
        if asked < 0 and special not in own:
            if encoder and tokenizer is not None:
                raise ValueError(
                    f"an encoder's examples are framed by [CLS] and [SEP], and the {tokenizer.kind}"
                    f" tokenizer has no [{special.upper()}]: give an id that the model has beyond"
                    f" the tokenizer's, from {tokenizer.vocab_size} on: --objective.{name} ID"
                )
            asked = 0 if tokenizer is None else tokenizer.eos
        ids[name] = own[special] if asked < 0 else asked
    if model is not None and max(ids.values()) >= model.vocab:
        raise ValueError(
            f"special ids {ids} are outside the model's vocabulary of {model.vocab};"
            f" set --model.vocab {max(ids.values()) + 1} or more"
        )
    return ids


def negative_log(log_p: jax.Array, target: jax.Array) -> jax.Array:
    """-log_p [..., Y] at target [...]."""
    return -jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
