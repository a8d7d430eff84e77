"""Next-token prediction: every token but a document's first is predicted from those before it."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Objective, Term
from gesso.objectives.config import CausalLMConfig
from gesso.objectives.cross_entropy import cross_entropy
from gesso.objectives.given import ModelSettings, Module


class CausalLM(Objective):
    """Terms: "lm", the negative log-likelihood of each target in nats; "z", log(Z)^2, where asked.

    Both are weighed by the batch's "lm_weight". The loss is their weighted mean over the tokens of
    the whole global batch.
    """

    overlap: Literal[0, 1] = 1
    overhead = 0
    letters: Mapping[str, str] = {}
    companions = False

    def __init__(
        self,
        config: CausalLMConfig,
        *,
        tokenizer: Tokenizer | None = None,
        model: ModelSettings | None = None,
    ):
        self.config = config
        lm = {"lm": Term(weight="lm_weight", targets="targets")}
        z = {"z": Term(weight="lm_weight", coefficient=config.z_loss)} if config.z_loss else {}
        self.terms: Mapping[str, Term] = lm | z

    def row_length(self, length: int) -> int:
        """A row's last token is only predicted, its first only read."""
        return length + 1

    def host_batch(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of L + 1 tokens -> tokens, targets, positions, segments i32[n, L], component i32[n]
        and lm_weight f32[n, L], 1 where token and target belong to one document.

        A row's own "lm_weight" (f32[n, L + 1]: what predicting each token counts for), where the
        data has one, multiplies into it.
        """
        tokens, segments = rows["tokens"], rows["segments"]
        same = (segments[:, :-1] == segments[:, 1:]) & (segments[:, 1:] != 0)
        weight = same.astype(np.float32)
        if "lm_weight" in rows:
            weight *= rows["lm_weight"][:, 1:]
        batch = {
            "tokens": tokens[:, :-1],
            "targets": np.where(same, tokens[:, 1:], 0),
            "positions": rows["positions"][:, :-1],
            "segments": segments[:, :-1],
            "component": rows["component"],
        }
        whole = {name: np.ascontiguousarray(leaf, np.int32) for name, leaf in batch.items()}
        return whole | {"lm_weight": weight}

    def __call__(
        self, module: Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """{"lm": f32[B, L], "z"?: f32[B, L]}. No key, no dropout."""
        x_BLD = module.features(batch, key)
        table_VD, bias_V = module.head()
        scored = cross_entropy(
            x_BLD, batch["targets"], table_VD, bias_V, chunk_tokens=self.config.chunk_tokens
        )
        losses = {"lm": scored.nll_BL}
        if "z" in self.terms:
            losses["z"] = jnp.square(scored.log_z_BL)
        return losses
