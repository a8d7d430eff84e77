"""Parameters and FLOPs of ELMo (models/count.py says by which convention)."""

from gesso.models.elmo.config import ELMoConfig


def parameters(config: ELMoConfig) -> dict[str, int]:
    """{"total", "embedding": rows that are looked up, "matmul": weights of products}."""
    c, s = config, config.sizes
    lstm = 2 * s["Z"] * (2 * s["D"] * 4 * s["F"] + s["F"] * s["D"])
    lstm_biases = 2 * s["Z"] * 4 * s["F"]
    words, word_biases, table = _words(c)
    heads = {"shared": 1, "separate": 2, "tied": 1, "none": 0}[c.head]
    head, own = heads * s["V"] * s["D"], heads * s["V"] * s["D"] * (c.head != "tied")
    total = table + words + word_biases + lstm + lstm_biases + own + heads * s["V"]
    return {"total": total, "embedding": table, "matmul": words + lstm + head}


def flops_per_token(config: ELMoConfig, length: int) -> float:
    """Training FLOPs (forward and backward) per token; a row's length changes nothing."""
    s = config.sizes
    lstm = 2 * s["Z"] * (2 * s["D"] * 4 * s["F"] + s["F"] * s["D"])
    softmax = 2 * s["V"] * s["D"] if config.head != "none" else 0
    if config.reads == "words":
        return 6 * (lstm + softmax)
    # A filter's weights are used once at every place of a word that it fits.
    filters = sum(
        (config.characters - width + 1) * width * count * s["E"] for width, count in config.filters
    )
    rest = config.highways * 2 * s["A"] ** 2 + s["A"] * s["D"]
    return 6 * (lstm + softmax + filters + rest)


def _words(config: ELMoConfig) -> tuple[int, int, int]:
    """(weights of products, biases, rows of a table) of what reads a word."""
    s = config.sizes
    if config.reads == "words":
        return 0, 0, s["V"] * s["D"]
    filters = sum(width * count * s["E"] for width, count in config.filters)
    highways = config.highways * 2 * s["A"] ** 2
    biases = s["A"] + config.highways * 2 * s["A"] + s["D"]
    return filters + highways + s["A"] * s["D"], biases, s["X"] * s["E"]
