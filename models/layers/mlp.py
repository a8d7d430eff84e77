"""The mlp of every family: two products with an activation between them, or a gated three."""

from collections.abc import Callable, Mapping

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gesso.models.layers.dropout import dropout
from gesso.models.layers.layers import add_bias, constant, param
from gesso.models.layers.settings import Activation, Gating
from gesso.partitioning.axes import einsum

ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class MLP(nnx.Module):
    """down(activation(up x)), or gated, down(activation(gate x) * up x)
    (https://arxiv.org/abs/2002.05202).

    keys: of up, gate and down, which families draw in different orders. std, out_std: of the
    weights that read the residual stream and of those that write to it. rate: of the dropout of
    what lies between the products.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        keys: tuple[jax.Array, jax.Array, jax.Array],
        *,
        activation: Activation,
        gating: Gating,
        has_bias: bool,
        std: float,
        out_std: float,
        rate: float = 0.0,
        draw: Callable = param,
    ):
        self.activation: Activation = activation
        self.rate = rate
        up, gate, down = keys
        gated = gating == "gated"
        self.up = draw(up, "DF", sizes=sizes, std=std)
        self.gate = draw(gate, "DF", sizes=sizes, std=std) if gated else None
        self.down = draw(down, "FD", sizes=sizes, std=out_std)
        self.up_bias = constant(0.0, "F", sizes=sizes) if has_bias else None
        self.gate_bias = constant(0.0, "F", sizes=sizes) if has_bias and gated else None
        self.down_bias = constant(0.0, "D", sizes=sizes) if has_bias else None

    def __call__(self, x_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """BLD. No key, no dropout."""
        activate = ACTIVATIONS[self.activation]
        # Remat policies keep what is named "mlp": products before an activation, which is cheap.
        h_BLF = add_bias(einsum("BLD,DF->BLF", x_BLD, self.up), self.up_bias, "F")
        h_BLF = checkpoint_name(h_BLF, "mlp")
        if self.gate is None:
            h_BLF = activate(h_BLF)
        else:
            gate_BLF = add_bias(einsum("BLD,DF->BLF", x_BLD, self.gate), self.gate_bias, "F")
            h_BLF = activate(checkpoint_name(gate_BLF, "mlp")) * h_BLF
        h_BLF = dropout(h_BLF, self.rate, key)
        return add_bias(einsum("BLF,FD->BLD", h_BLF, self.down), self.down_bias, "D")
