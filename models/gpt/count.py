"""Parameters and FLOPs of the GPT decoder (models/count.py says by which convention)."""

from gesso.models.gpt.config import GPTConfig


def parameters(config: GPTConfig) -> dict[str, int]:
    """{"total", "embedding": rows that are looked up, "matmul": weights of products}.

    A tied table is in both of the latter and once in the total.
    """
    c, s = config, config.sizes
    words = s[c.word_letter]
    table, heads, keys = s["V"] * words, s["N"] * s["H"], s[c.key_letter] * s["H"]
    ups = 2 if c.gating == "gated" else 1
    biases = {
        "qkv": s["Z"] * (heads + 2 * keys),
        "attention_out": s["Z"] * s["D"],
        "mlp": s["Z"] * (ups * s["F"] + s["D"]),
        "head": s["V"],
    }
    norms_per_layer = 1 if c.block == "parallel_shared_norm" else 2
    norms = s["Z"] * norms_per_layer + (1 if c.norm == c.final_norm == "pre" else 0)
    norm = s["D"] if c.norm_kind == "rms" else 2 * s["D"]
    blocks = s["Z"] * (2 * s["D"] * (heads + keys) + (ups + 1) * s["D"] * s["F"])
    around = 2 * words * s["D"] if c.word_embed else 0
    embedding = table + (s["S"] * s["D"] if c.position_encoding == "learned" else 0)
    untied = table if c.head == "untied" else 0
    beside = norm * norms + sum(biases[b] for b in set(c.biases))
    total = embedding + untied + blocks + around + beside
    return {"total": total, "embedding": embedding, "matmul": blocks + around + table}


def products(config: GPTConfig) -> dict[str, float]:
    """{name of a weight of products: how many of a token's places meet it}; models/trained_count.py
    counts of which a gradient is taken."""
    head = "embed" if config.head == "tied" else "head_table"
    layers = ["attention/q", "attention/k", "attention/v", "attention/out", "mlp/up", "mlp/down"]
    layers += ["mlp/gate"] if config.gating == "gated" else []
    around = {"project_in": 1.0, "project_out": 1.0} if config.word_embed else {}
    return {**{f"blocks/{name}": 1.0 for name in layers}, **around, head: 1.0}


def attention_flops(config: GPTConfig, length: int) -> tuple[float, ...]:
    """Training FLOPs of the products inside attention per token, of each layer."""
    each = 12 * config.heads * config.head_dim
    return tuple(each * _keys_seen(config, kind, length) for kind in config.kinds)


def flops_per_token(config: GPTConfig, length: int) -> float:
    """Training FLOPs (forward and backward) per token of rows of `length` tokens."""
    return 6 * parameters(config)["matmul"] + sum(attention_flops(config, length))


def _keys_seen(config: GPTConfig, kind: str, length: int) -> float:
    window = min(config.window, length) if kind == "local" else length
    return window - window * window / (2 * length)
