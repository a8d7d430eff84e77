"""The bidirectional language model: each word from those before it, and from those after it."""

from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Objective, Term
from gesso.objectives.config import BiLMConfig
from gesso.objectives.cross_entropy import cross_entropy
from gesso.objectives.given import ModelSettings, Module
from gesso.objectives.sampled_softmax import sampled_cross_entropy

DIRECTIONS: tuple[Literal["forward", "backward"], ...] = ("forward", "backward")
_PAD = 260  # the character after a word's end (data/tokenizers/words.py)


class BiLM(Objective):
    """Terms "forward" and "backward": the negative log-likelihood of the next and of the previous
    word in nats, each half of the loss (https://arxiv.org/abs/1802.05365, section 3.1).

    Words that are no classes of the softmax are <UNK> as targets; they are read by their letters.
    Raises ValueError for a model or a tokenizer that has no words.
    """

    overlap: Literal[0, 1] = 1
    overhead = 0
    whole_texts = False  # what is no class of the softmax is not told apart
    companions = False
    letters: Mapping[str, str] = {"characters": "BLC"}
    terms: Mapping[str, Term] = {
        direction: Term(
            weight=f"{direction}_weight", coefficient=0.5, targets=f"{direction}_targets"
        )
        for direction in DIRECTIONS
    }

    def __init__(
        self,
        config: BiLMConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
    ):
        self.config = config
        if model is None or model.architecture != "two_directions":
            raise ValueError(
                "objective bilm needs a model that reads both ways, family elmo, not"
                f" {'none' if model is None else model.family}"
            )
        self.model = model
        if model.head == "none":
            raise ValueError("objective bilm needs a softmax; use model.head shared or separate")
        spelling = None if tokenizer is None else tokenizer.spelling
        if model.reads == "characters" and tokenizer is not None and spelling is None:
            raise ValueError(
                f"this store's tokenizer, of kind {tokenizer.kind}, has no words to spell by their"
                " characters; build the store with one of kind words (gesso tokenizer train --kind"
                " words), or set --model.reads words"
            )
        self.classes = model.vocab if tokenizer is None else tokenizer.classes
        self.unknown = 0 if tokenizer is None else tokenizer.special.get("unk", 0)
        if self.classes > model.vocab:
            raise ValueError(
                f"the store's tokenizer has {self.classes} classes but the model's softmax"
                f" has {model.vocab}; set --model.vocab {self.classes} or more"
            )
        if config.samples > self.classes:
            raise ValueError(
                f"objective.samples {config.samples} are more than the {self.classes} classes"
                " there are; lower it, or use --objective.softmax full"
            )
        self._spelling = None
        if model.reads == "characters":
            from gesso.data.tokenizers.words import shorten

            # Without a tokenizer there are rows of padding only (a plan).
            spelled = np.zeros((1, model.characters), np.uint16) if spelling is None else spelling
            self._spelling = shorten(spelled, characters=model.characters)
        carried = config.state == "carried"
        # What a batch leaves to the next, by letters; its rows are those of the batch.
        self.carry: Mapping[str, str] = {"cell": "BZUF", "hidden": "BZUD"} if carried else {}

    def row_length(self, length: int) -> int:
        """A row's last token is only read backwards, its first only forwards."""
        return length + 1

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of L + 1 tokens -> tokens, pieces (the row's segments) i32[n, L + 1], characters
        i16[n, L + 1, C] where the model reads them, segments i32[n, L] (of the first L),
        component i32[n] and, of the L places between two tokens, forward_targets (the later one),
        backward_targets (the earlier one) i32[n, L] and their weights f32[n, L], 1 within a
        document.

        With a carried state the first place has no backward target: its word was read by the same
        direction at the end of the row before.
        """
        tokens, pieces = rows["tokens"], rows["segments"]
        classes = np.where(tokens < self.classes, tokens, self.unknown)
        same = (pieces[:, :-1] == pieces[:, 1:]) & (pieces[:, 1:] != 0)
        backward = same.copy()
        if self.carry:
            backward[:, 0] = False
        batch = {
            "tokens": classes if self._spelling is None else tokens,
            "pieces": pieces,
            "segments": pieces[:, :-1],
            "component": rows["component"],
            "forward_targets": np.where(same, classes[:, 1:], 0),
            "backward_targets": np.where(backward, classes[:, :-1], 0),
        }
        made: dict[str, np.ndarray] = {
            name: np.ascontiguousarray(leaf, np.int32) for name, leaf in batch.items()
        }
        made |= {
            "forward_weight": same.astype(np.float32),
            "backward_weight": backward.astype(np.float32),
        }
        if self._spelling is not None:
            spelled = self._spelling[tokens].astype(np.int16)
            spelled[pieces == 0] = _PAD
            made["characters"] = spelled
        return made

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{"forward", "backward": f32[B, L]} of rows that start from nothing. No key: no dropout,
        and the softmax is full."""
        start = module.start(self.model, len(batch["tokens"]))
        return self.call_with_carry(module, batch, key, start)[0]

    def call_with_carry(
        self,
        module: Module,
        batch: Mapping[str, jax.Array],
        key: jax.Array | None,
        carry: Mapping[str, jax.Array],
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """The same of rows that go on from `carry`, and what they leave to the next batch. No
        gradient goes back from one batch to another (truncated, as published)."""
        x_BLD, pieces = module.words(batch), batch["pieces"]
        read_key, *keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        layers_ZUBLD, after = module.read(
            (x_BLD[:, :-1], x_BLD[:, 1:]), (pieces[:, :-1], pieces[:, 1:]), carry, read_key
        )
        losses = {
            direction: self._score(
                layers_ZUBLD[-1, u], batch[f"{direction}_targets"], module.head(direction), keys[u]
            )
            for u, direction in enumerate(DIRECTIONS)
        }
        return losses, jax.lax.stop_gradient(after)

    def _score(
        self,
        x_BLD: jax.Array,
        targets_BL: jax.Array,
        head: tuple[jax.Array, jax.Array | None],
        key: jax.Array | None,
    ) -> jax.Array:
        if self.config.softmax == "full" or key is None:
            chunk = self.config.chunk_tokens
            return cross_entropy(x_BLD, targets_BL, *head, chunk_tokens=chunk).nll_BL
        table_VD, bias_V = head
        assert bias_V is not None  # ELMo's softmax has one
        return sampled_cross_entropy(
            x_BLD,
            targets_BL,
            table_VD,
            bias_V,
            classes=self.classes,
            samples=self.config.samples,
            key=key,
        )
