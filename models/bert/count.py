"""Parameters and FLOPs of the BERT encoder (models/count.py says by which convention)."""

from gesso.models.bert.config import BERTConfig

# BERT predicts 15 % of a row's tokens, and only they meet the vocabulary.
PREDICTED = 0.15
_TOKEN_HEADS = {"tagger/weight": "tag", "span/weight": "span"}


def parameters(config: BERTConfig) -> dict[str, int]:
    """{"total", "embedding": rows that are looked up, "matmul": weights of products}.

    A tied table is in both of the latter and once in the total.
    """
    c, has = config, config.outputs
    embedding = c.embed * (c.vocab + c.positions + c.token_types)
    tied = c.vocab * c.embed if "mlm" in has and c.head == "tied" else 0
    biases = c.layers * (3 * c.embed + c.embed + c.mlp + c.embed)
    norms = 1 + 2 * c.layers + ("mlm" in has)
    for products, out in _heads(c).values():
        biases += out if products else 0
    biases += c.embed if "mlm" in has else 0
    matmul = _blocks(c) + sum(products for products, _ in _heads(c).values())
    return {
        "total": embedding + matmul - tied + biases + norms * 2 * c.embed,
        "embedding": embedding,
        "matmul": matmul,
    }


def products(config: BERTConfig) -> dict[str, float]:
    """{name of a weight of products: the share of tokens that meet it}; models/trained_count.py
    counts of which a gradient is taken."""
    names = ("attention/q", "attention/k", "attention/v", "attention/out", "mlp/up", "mlp/down")
    met = {f"blocks/{name}": 1.0 for name in names}
    has = config.outputs
    if "mlm" in has:
        table = "embed" if config.head == "tied" else "mlm/table"
        met |= {"mlm/dense/weight": PREDICTED, table: PREDICTED}
    return met | {name: 1.0 for name, output in _TOKEN_HEADS.items() if output in has}


def attention_flops(config: BERTConfig, length: int) -> tuple[float, ...]:
    """Training FLOPs of the products inside attention per token, of each layer."""
    return (12.0 * config.embed * length,) * config.layers


def flops_per_token(config: BERTConfig, length: int) -> float:
    """Training FLOPs (forward and backward) per token of rows of `length` tokens, each of which is
    seen by all. The head of masked tokens counts at `PREDICTED` of them, what reads a text's first
    token not at all."""
    c, heads = config, _heads(config)
    products = _blocks(c) + heads["tag"][0] + heads["span"][0] + PREDICTED * heads["mlm"][0]
    return 6 * products + 12 * c.layers * c.embed * length


def _blocks(c: BERTConfig) -> int:
    return c.layers * (4 * c.embed * c.embed + 2 * c.embed * c.mlp)


def _heads(c: BERTConfig) -> dict[str, tuple[int, int]]:
    """{output: (weights of its products, numbers in its last bias)}; (0, 0) where there is none.
    That of "mlm" has a second bias, as wide as embed."""
    made = {
        "mlm": (c.embed * (c.embed + c.vocab), c.vocab),
        "pooler": (c.embed * c.embed, c.embed),
        "nsp": (2 * c.embed, 2),
        "classify": (c.labels * c.embed, c.labels),
        "tag": (c.labels * c.embed, c.labels),
        "span": (2 * c.embed, 2),
    }
    has = {*c.outputs, "pooler"} if c.pools else set(c.outputs)
    return {name: each if name in has else (0, 0) for name, each in made.items()}
