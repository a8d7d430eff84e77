"""Parameters and FLOPs of the encoder-decoder (models/count.py says by which convention)."""

from gesso.models.seq2seq.config import Seq2SeqConfig


def parameters(config: Seq2SeqConfig) -> dict[str, int]:
    """{"total", "embedding": rows that are looked up, "matmul": weights of products}.

    A table that is looked up and is the head's is in both of the latter, and once in the total.
    """
    c = config
    table, inner = c.vocab * c.embed, c.heads * c.head_dim
    attentions = c.encoder_layers + 2 * c.decoder_layers
    layers = c.encoder_layers + c.decoder_layers
    ups = 2 if c.gating == "gated" else 1
    biases = {
        "qkv": attentions * 3 * inner,
        "attention_out": attentions * c.embed,
        "mlp": layers * (ups * c.mlp + c.embed),
        "head": c.vocab,
    }
    norms = attentions + layers + (2 if c.norm == "pre" else 0)
    norm = c.embed if c.norm_kind == "rms" else 2 * c.embed
    embedding = table * (2 if c.embedding == "separate" else 1) + 2 * c.positions * c.embed
    products = _encoder(c) + _decoder(c) + _source(c)
    return {
        "total": embedding
        + (table if c.head == "untied" else 0)
        + products
        + 2 * c.relative_buckets * c.heads
        + norms * norm
        + sum(biases[each] for each in set(c.biases)),
        "embedding": embedding,
        "matmul": products + table,
    }


def flops_per_token(config: Seq2SeqConfig, length: int) -> float:
    """Training FLOPs (forward and backward) per token of source and target together, of rows with
    `length` tokens on each side."""
    c, table = config, config.vocab * config.embed
    # A source token goes through the encoder and makes every decoder layer's keys and values.
    products = (_encoder(c) + _source(c)) + (_decoder(c) + table)
    # Keys seen: the whole source by the source and by the target, half the target by itself.
    seen = length * (c.encoder_layers + c.decoder_layers) + length / 2 * c.decoder_layers
    return (6 * products + 12 * c.heads * c.head_dim * seen) / 2


def _mlp(c: Seq2SeqConfig) -> int:
    return (3 if c.gating == "gated" else 2) * c.embed * c.mlp


def _encoder(c: Seq2SeqConfig) -> int:
    """Weights of products that every source token goes through in the encoder."""
    return c.encoder_layers * (4 * c.embed * c.heads * c.head_dim + _mlp(c))


def _source(c: Seq2SeqConfig) -> int:
    """Those of the decoder that every source token goes through: keys and values."""
    return c.decoder_layers * 2 * c.embed * c.heads * c.head_dim


def _decoder(c: Seq2SeqConfig) -> int:
    """Those that every target token goes through."""
    return c.decoder_layers * (6 * c.embed * c.heads * c.head_dim + _mlp(c))
