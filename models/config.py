"""Model shapes as settings: plain dataclasses read before JAX is imported, a file per family.

Every config has `family`, which a record is told apart by; `problems()`, what is wrong with its
fields; `sizes`, the size of each letter of the alphabet in its parameters; `drops`, whether a
training step draws random numbers; and `longest`, the most tokens a row may have (None: any).
"""

from typing import TYPE_CHECKING, Union

from gesso.models.bert.config import BERTConfig
from gesso.models.elmo.config import ELMoConfig
from gesso.models.encoder_decoder.config import EncoderDecoderConfig
from gesso.models.families import FAMILIES
from gesso.models.gpt.config import GPTConfig
from gesso.models.layers.settings import AttentionKind, Bias, Padding, Remat
from gesso.models.seq2seq.config import Seq2SeqConfig

if TYPE_CHECKING:
    ModelConfig = GPTConfig | BERTConfig | ELMoConfig | Seq2SeqConfig | EncoderDecoderConfig
else:
    # Records and the command line tell the families apart by `family`.
    ModelConfig = Union[tuple(each.config_class() for each in FAMILIES.values())]  # noqa: UP007

__all__ = [
    "AttentionKind",
    "BERTConfig",
    "Bias",
    "ELMoConfig",
    "EncoderDecoderConfig",
    "GPTConfig",
    "ModelConfig",
    "Padding",
    "Remat",
    "Seq2SeqConfig",
]
