"""A small config of each family, every published difference in place."""

from gesso.models import GPTConfig

SHAPE = {"vocab": 64, "positions": 48, "layers": 4, "embed": 32, "heads": 4, "mlp": 64}
FAMILIES = {
    "gpt1": GPTConfig(**SHAPE, norm="post"),
    "gpt2": GPTConfig(**SHAPE, residual_init="depth", attention_scale="head_dim_and_layer"),
    "gpt_neo": GPTConfig(
        **SHAPE,
        pattern=("global", "local"),
        window=5,
        attention_scale="none",
        biases=("attention_out", "mlp"),
    ),
    "gpt_j": GPTConfig(
        **SHAPE,
        position_encoding="rotary",
        rotary_dims=4,
        block="parallel_shared_norm",
        biases=("mlp", "head"),
        head="untied",
    ),
    "gpt_neox": GPTConfig(
        **SHAPE,
        position_encoding="rotary",
        rotary_dims=2,
        rotation="half",
        block="parallel",
        head="untied",
        activation="gelu",
    ),
    "opt": GPTConfig(**SHAPE, activation="relu", first_position=2),
    "opt_350m": GPTConfig(**SHAPE, activation="relu", first_position=2, norm="post", word_embed=16),
    "llama": GPTConfig(
        **SHAPE,
        key_heads=2,
        position_encoding="rotary",
        rotary_dims=8,
        rotation="half",
        norm_kind="rms",
        gating="gated",
        activation="silu",
        biases=(),
        head="untied",
    ),
}
