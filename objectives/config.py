"""What is predicted, as settings: plain dataclasses read before JAX is imported, a file per kind.

Every config has `kind`, which a record is told apart by, and `problems()`, what is wrong with its
fields.
"""

from objectives.bilm_config import BiLMConfig
from objectives.causal_config import CausalLMConfig
from objectives.denoise_config import DenoiseConfig
from objectives.masked_config import MaskedLMConfig
from objectives.mixed_config import MixedConfig
from objectives.seq2seq_config import Seq2SeqLMConfig

ObjectiveConfig = (
    CausalLMConfig | MaskedLMConfig | BiLMConfig | DenoiseConfig | Seq2SeqLMConfig | MixedConfig
)

__all__ = [
    "BiLMConfig",
    "CausalLMConfig",
    "DenoiseConfig",
    "MaskedLMConfig",
    "MixedConfig",
    "ObjectiveConfig",
    "Seq2SeqLMConfig",
]
