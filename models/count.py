"""Parameters and FLOPs of a model from its config alone; no JAX.

FLOPs per token follow one formula: 6 per parameter in a product (forward 2, backward 4; the head
counts, the embedding look-up does not) and, for q.k and its product with v, 12 * heads * head dim
for each key a query sees, averaged over the row: half the row in a causal layer, so 6 * layers *
heads * head dim * length. That is PaLM's convention (https://arxiv.org/abs/2204.02311, appendix B)
but for the halving, which counts what causal attention needs, and for local layers, which count
their window. Norms, softmax and activations are not counted. What a mask throws away and what
rematerialisation computes again is not either.
"""

from gesso.models.config import ModelConfig
from gesso.models.families import family


def parameters(config: ModelConfig) -> dict[str, int]:
    """{"total", "embedding": rows that are looked up, "matmul": weights of products}.

    A tied table is in both of the latter and once in the total.
    """
    return family(config.family).counts().parameters(config)


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Training FLOPs (forward and backward) per token of rows of `length` tokens; of an
    encoder-decoder, per token of source and target together."""
    return family(config.family).counts().flops_per_token(config, length)
