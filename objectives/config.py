"""What is predicted, as settings: plain dataclasses read before JAX is imported, a file per kind.

Every config has `kind`, which a record is told apart by, and `problems()`, what is wrong with its
fields.
"""

from gesso.objectives.bilm_config import BiLMConfig
from gesso.objectives.causal_config import CausalLMConfig
from gesso.objectives.classify_config import ClassifyConfig, RegressConfig
from gesso.objectives.denoise_config import DenoiseConfig
from gesso.objectives.masked_config import MaskedLMConfig
from gesso.objectives.mixed_config import MixedConfig
from gesso.objectives.qa_config import QAConfig
from gesso.objectives.seq2seq_config import Seq2SeqLMConfig
from gesso.objectives.tag_config import TagConfig

ObjectiveConfig = (
    CausalLMConfig
    | MaskedLMConfig
    | BiLMConfig
    | DenoiseConfig
    | Seq2SeqLMConfig
    | MixedConfig
    | ClassifyConfig
    | RegressConfig
    | TagConfig
    | QAConfig
)
# Kinds that are trained on labelled examples (data/labelled/store.py).
TASKS = ("classify", "regress", "tag", "qa")

__all__ = [
    "TASKS",
    "BiLMConfig",
    "CausalLMConfig",
    "ClassifyConfig",
    "DenoiseConfig",
    "MaskedLMConfig",
    "MixedConfig",
    "ObjectiveConfig",
    "QAConfig",
    "RegressConfig",
    "Seq2SeqLMConfig",
    "TagConfig",
]
