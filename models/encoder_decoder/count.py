"""Parameters and FLOPs of joined encoders and decoders (models/count.py has the convention)."""

import dataclasses

from gesso.models.bert import count as bert_count
from gesso.models.bert.config import BERTConfig
from gesso.models.encoder_decoder.config import EncoderDecoderConfig
from gesso.models.gpt import count as gpt_count


def parameters(config: EncoderDecoderConfig) -> dict[str, int]:
    """{"total", "embedding": rows that are looked up, "matmul": weights of products}.

    Shared blocks count once; a tied table is in both of the latter and once in the total.
    """
    encoder = bert_count.parameters(config.encoder)
    both = {name: encoder[name] for name in encoder}
    if config.tie == "none":
        both = {name: both[name] + each for name, each in _decoder(config).items()}
    cross, projection = _cross(config), _projection(config)
    c = config.blocks
    biases = ("qkv" in c.biases) * 3 * c.embed + ("attention_out" in c.biases) * c.embed
    beside = c.layers * (biases + 2 * c.embed) + (c.embed if projection else 0)
    return {
        "total": both["total"] + cross + projection + beside,
        "embedding": both["embedding"],
        "matmul": both["matmul"] + cross + projection,
    }


def flops_per_token(config: EncoderDecoderConfig, length: int) -> float:
    """Training FLOPs (forward and backward) per token of source and target together, of rows with
    `length` tokens on each side. Every target token meets the vocabulary."""
    c = config.blocks
    reader = dataclasses.replace(config.encoder, outputs=(), labels=0, head="tied")
    encoder = bert_count.flops_per_token(reader, length)
    seen = 12 * c.layers * c.embed * length  # of the source, by every target token
    if isinstance(config.decoder, BERTConfig):
        # Half the row is seen where no token sees later ones.
        decoder = 6 * _decoder(config)["matmul"] + 6 * c.layers * c.embed * length
    else:
        decoder = gpt_count.flops_per_token(config.decoder, length)
    return (encoder + decoder + seen + 6 * (_cross(config) + _projection(config))) / 2


def _decoder(config: EncoderDecoderConfig) -> dict[str, int]:
    side = config.decoder
    if isinstance(side, BERTConfig):
        return bert_count.parameters(side)
    return gpt_count.parameters(side)


def _cross(config: EncoderDecoderConfig) -> int:
    """Half of these products are the source's, half the target's."""
    return 4 * config.blocks.layers * config.blocks.embed**2


def _projection(config: EncoderDecoderConfig) -> int:
    encoder, decoder = config.encoder.embed, config.decoder.embed
    return encoder * decoder if encoder != decoder else 0
