"""Model shapes as settings: plain dataclasses read before JAX is imported, a file per family.

Every config has `family`, which a record is told apart by; `problems()`, what is wrong with its
fields; `sizes`, the size of each letter of the alphabet in its parameters; `drops`, whether a
training step draws random numbers; and `longest`, the most tokens a row may have (None: any).
"""

from models.bert_config import BERTConfig
from models.elmo_config import ELMoConfig
from models.encoder_decoder_config import EncoderDecoderConfig
from models.gpt_config import AttentionKind, Bias, GPTConfig, Padding, Remat
from models.seq2seq_config import Seq2SeqConfig

ModelConfig = GPTConfig | BERTConfig | ELMoConfig | Seq2SeqConfig | EncoderDecoderConfig

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
