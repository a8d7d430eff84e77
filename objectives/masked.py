"""Masked-token prediction, alone or with pairs of texts: BERT's objective and its relatives."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Objective, Term
from gesso.objectives.config import MaskedLMConfig
from gesso.objectives.cross_entropy import cross_entropy
from gesso.objectives.given import ModelSettings, Module
from gesso.objectives.masked_pairs import Frame, frame_rows
from gesso.objectives.masking import Masking, mask_rows
from gesso.partitioning.axes import shard


class MaskedLM(Objective):
    """Terms: "mlm", the negative log-likelihood of each predicted token in nats; with pairs "nsp",
    that of each pair's label. "mlm_accuracy" and "nsp_accuracy" (1 or 0) are only reported.

    The loss is the mean of "mlm" over the predicted places of the whole global batch plus the mean
    of "nsp" over its pairs, as BERT's. Sentence order prediction has the same terms as next
    sentence prediction. Raises ValueError where the tokenizer and the config lack a special token,
    or the model has no such id or no head for pairs.
    """

    overlap: Literal[0, 1] = 0
    letters: Mapping[str, str] = {
        "masked_places": "BM",
        "targets": "BM",
        "mlm_weight": "BM",
        "pair_places": "BP",
        "pair_labels": "BP",
        "nsp_weight": "BP",
    }

    def __init__(
        self,
        config: MaskedLMConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
    ):
        self.config = config
        _check_heads(config, model)
        ids = _special_ids(config, tokenizer, model)
        self.frame = Frame(
            cls=ids["cls"],
            sep=ids["sep"],
            eos=-1 if tokenizer is None else tokenizer.eos,
            pairs=config.pairs,
            side=config.pair_tokens,
            seed=config.seed,
        )
        self.masking = _masking(config, ids, tokenizer, model)
        self.overhead = self.frame.overhead
        self.companions = config.pairs == "nsp"
        terms = {
            "mlm": Term(weight="mlm_weight", targets="targets"),
            "mlm_accuracy": Term(weight="mlm_weight", coefficient=0.0),
        }
        if config.pairs != "none":
            terms["nsp"] = Term(weight="nsp_weight")
            terms["nsp_accuracy"] = Term(weight="nsp_weight", coefficient=0.0)
        self.terms: Mapping[str, Term] = terms

    def row_length(self, length: int) -> int:
        """As long as the model's; the packing keeps places free for [CLS] and [SEP]."""
        return length

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of L tokens, packed with this objective's overhead -> tokens, segments, positions,
        token_types i32[n, L]; masked_places, targets i32[n, M] and mlm_weight f32[n, M]; component
        i32[n]; with pairs pair_places, pair_labels i32[n, P] and nsp_weight f32[n, P].

        See objectives/masked_pairs.py and objectives/masking.py. Half of the pairs of next sentence
        prediction give their own second part up for another document's: what that part says is
        read in other epochs.
        """
        framed = frame_rows(rows, self.frame)
        masked = mask_rows(framed["tokens"], framed["segments"], rows["row"], self.masking)
        component = np.ascontiguousarray(rows["component"], np.int32)
        return framed | masked | {"component": component}

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{"mlm", "mlm_accuracy": f32[B, M], "nsp"?, "nsp_accuracy"?: f32[B, P]}. No key, no
        dropout. Only the features of the predicted places reach the vocabulary."""
        x_BLD = module.features(batch, key)
        h_BMD, table_VD, bias_V = module.predict(_gather(x_BLD, batch["masked_places"], "BMD"))
        scored = cross_entropy(
            h_BMD, batch["targets"], table_VD, bias_V, chunk_tokens=self.config.chunk_tokens
        )
        losses = {"mlm": scored.nll_BL, "mlm_accuracy": scored.correct_BL}
        if "nsp" in self.terms:
            logits = module.next_sentence(_gather(x_BLD, batch["pair_places"], "BPD"))
            log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
            label = batch["pair_labels"][..., None]
            losses["nsp"] = -jnp.take_along_axis(log_p, label, axis=-1)[..., 0]
            losses["nsp_accuracy"] = (logits.argmax(-1) == label[..., 0]).astype(jnp.float32)
        return losses


def _gather(x_BLD: jax.Array, places: jax.Array, letters: str) -> jax.Array:
    """The features at some places of each row: rows stay on their devices."""
    return shard(jnp.take_along_axis(x_BLD, places[..., None], axis=1), letters)


def _check_heads(config: MaskedLMConfig, model: ModelSettings | None) -> None:
    """ValueError for a model that does not have what the objective reads."""
    if model is None:
        return
    has = model.outputs
    needed = ["mlm"] if config.pairs == "none" else ["mlm", "nsp"]
    if lacking := [name for name in needed if name not in has]:
        raise ValueError(
            f"objective {config.kind} with pairs {config.pairs} reads {' and '.join(needed)}, and"
            f" this model has no {' and no '.join(lacking)}: name it in --model.outputs, or set"
            " --objective.pairs none"
        )
    if config.pairs != "none" and model.token_types == 1:
        raise ValueError(
            "pairs have two token types and this model's table has one row: set --model.token-types"
            " 2, 0 for none, or --objective.pairs none"
        )


def _special_ids(
    config: MaskedLMConfig, tokenizer: Tokenizer | None, model: ModelSettings | None
) -> dict[str, int]:
    own: Mapping[str, int] = {} if tokenizer is None else tokenizer.special
    ids = {}
    for name in ("mask", "cls", "sep"):
        asked = getattr(config, name)
        if asked < 0 and name not in own:
            kind = "no tokenizer" if tokenizer is None else f"the {tokenizer.kind} tokenizer"
            free = (
                "" if tokenizer is None else f" (from {tokenizer.vocab_size} on, the model's own)"
            )
            raise ValueError(
                f"masked-token prediction needs [{name.upper()}], and {kind} has none; use a"
                f" tokenizer with one (gesso tokenizer train --kind wordpiece), or give its id"
                f"{free}: --objective.{name} ID"
            )
        ids[name] = own[name] if asked < 0 else asked
    if ids["mask"] in (ids["cls"], ids["sep"]):
        raise ValueError(f"[MASK] must be an id of its own: {ids}")
    if model is not None and max(ids.values()) >= model.vocab:
        raise ValueError(
            f"special ids {ids} are outside the model's vocabulary of {model.vocab};"
            f" set --model.vocab {max(ids.values()) + 1} or more"
        )
    return ids


def _masking(
    config: MaskedLMConfig,
    ids: dict[str, int],
    tokenizer: Tokenizer | None,
    model: ModelSettings | None,
) -> Masking:
    known = 0 if model is None else model.vocab
    if tokenizer is not None:
        known = tokenizer.vocab_size
    size = max(known, *(each + 1 for each in ids.values()))
    special = np.zeros(size, bool)
    special[list(ids.values())] = True
    continues = np.zeros(size, bool)
    if tokenizer is not None:
        # Ids that stand for no text: control tokens, the unknown word, the end of a document.
        special[:known] |= np.asarray(tokenizer.byte_lengths) == 0
        special[[*tokenizer.special.values(), tokenizer.eos]] = True
        continues[:known] = tokenizer.continues
    others = np.flatnonzero(~special[:known]).astype(np.int32)
    if not len(others):
        raise ValueError("masked-token prediction needs a vocabulary: a tokenizer's or a model's")
    return Masking(
        rate=config.mask_rate,
        mask_share=config.mask_share,
        random_share=config.random_share,
        unit=config.unit,
        span_end=config.span_end,
        span_longest=config.span_longest,
        seed=config.seed,
        mask=ids["mask"],
        special=special,
        continues=continues,
        others=others,
    )
