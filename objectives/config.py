"""What is predicted, as settings: plain dataclasses read before JAX is imported, a file per kind.

Every config has `kind`, which a record is told apart by, and `problems()`, what is wrong with its
fields.
"""

from objectives.bilm_config import BiLMConfig
from objectives.causal_config import CausalLMConfig
from objectives.classify_config import ClassifyConfig, RegressConfig
from objectives.denoise_config import DenoiseConfig
from objectives.masked_config import MaskedLMConfig
from objectives.mixed_config import MixedConfig
from objectives.qa_config import QAConfig
from objectives.seq2seq_config import Seq2SeqLMConfig
from objectives.tag_config import TagConfig

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
# Kinds that are trained on labelled examples (data/task_store.py).
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
