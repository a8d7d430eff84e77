"""ELMo's bidirectional language model: words from characters, LSTMs both ways, one softmax."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from gesso.models.elmo.characters import Characters
from gesso.models.elmo.config import ELMoConfig
from gesso.models.elmo.lstm import BiLSTM, Marks, State
from gesso.models.layers.dropout import dropout
from gesso.models.layers.layers import constant, einsum_float32, param, scan, stack
from gesso.models.network import Network
from gesso.partitioning.axes import shard
from gesso.partitioning.lookup import look_up

DIRECTIONS = ("forward", "backward")
Direction = Literal["forward", "backward"]


class ELMo(Network):
    """ELMo (https://arxiv.org/abs/1802.05365) as bilm-tf trained it
    (https://github.com/allenai/bilm-tf): the directions share how a word is read and, unless the
    config says otherwise, the softmax, and nothing else."""

    def __init__(self, config: ELMoConfig, key: jax.Array):
        self.config, sizes = config, config.sizes
        words, layers, head = jax.random.split(key, 3)
        by_characters = config.reads == "characters"
        std = config.embed**-0.5
        self.characters = Characters(config, words) if by_characters else None
        self.embed = None if by_characters else param(words, "VD", sizes=sizes, std=std)
        self.layers = stack(lambda k: BiLSTM(config, k), jax.random.split(layers, config.layers))
        letters = {"shared": "VD", "separate": "UVD"}.get(config.head)
        self.head_table = param(head, letters, sizes=sizes, std=std) if letters else None
        biases = {"shared": "V", "separate": "UV", "tied": "V"}.get(config.head)
        self.head_bias = constant(0.0, biases, sizes=sizes) if biases else None

    @staticmethod
    def inputs(config: ELMoConfig) -> dict[str, int | None]:
        """{batch leaf: rows of the table it indexes}."""
        if config.reads == "characters":
            return {"characters": config.sizes["X"], "segments": None}
        return {"tokens": config.vocab, "segments": None}

    @staticmethod
    def start(config: ELMoConfig, rows: int) -> dict[str, jax.Array]:
        """The state of `rows` rows that have read nothing: zeros, {"cell": f32[B, Z, U, F],
        "hidden": f32[B, Z, U, D]}."""
        shape = (rows, config.layers, 2)
        return {
            "cell": jnp.zeros((*shape, config.cell)),
            "hidden": jnp.zeros((*shape, config.embed)),
        }

    def outputs(
        self, batch: Mapping[str, jax.Array], key: jax.Array | None, *, hidden: bool
    ) -> dict[str, jax.Array]:
        """{"forward_logits", "backward_logits": f32[B, L, V] for the word after, before each place
        (where the model has a softmax), "hidden"?: [Z + 1, B, L, 2 D], forward then backward, the
        words themselves twice and then each layer's output; 0 at padding}. Every row starts from
        the zero state."""
        x_BLD, segments_BL = self.words(batch), batch.get("segments")
        state = self.start(self.config, len(x_BLD))
        layers_ZUBLD, _ = self.read((x_BLD, x_BLD), (segments_BL, segments_BL), state, key)
        made = {}
        if self.head_bias is not None:
            for u, direction in enumerate(DIRECTIONS):
                made[f"{direction}_logits"] = self.logits(layers_ZUBLD[-1, u], direction)
        if hidden:
            made["hidden"] = self.join(x_BLD, layers_ZUBLD, segments_BL)
        return made

    def join(
        self, x_BLD: jax.Array, layers_ZUBLD: jax.Array, segments_BL: jax.Array | None
    ) -> jax.Array:
        """The words and each layer's output, both directions side by side, [Z + 1, B, L, 2 D]."""
        if segments_BL is not None:
            x_BLD = jnp.where((segments_BL > 0)[..., None], x_BLD, 0)
        words_ZUBLD = jnp.stack([x_BLD, x_BLD])[None]
        every_ZUBLD = jnp.concatenate([words_ZUBLD, layers_ZUBLD])
        return jnp.concatenate([every_ZUBLD[:, 0], every_ZUBLD[:, 1]], axis=-1)

    def words(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """What stands for each word before it has neighbours, BLD."""
        if self.characters is None:
            assert self.embed is not None
            return shard(look_up(self.embed[...], "VD", batch["tokens"]), "BLD")
        return self.characters(batch["characters"])

    def read(
        self,
        x: tuple[jax.Array, jax.Array],
        segments: tuple[jax.Array | None, jax.Array | None],
        state: Mapping[str, jax.Array],
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What each layer says in each direction, [Z, 2, B, L, D], and the state after the rows.

        x: the words each direction reads, BLD, both in the order of the text. segments: i32[B, L]
        of each, 0 for padding; a new number is a new document, of which a direction knows nothing
        before it reaches it. state: what was known before the rows (both directions); their first
        documents go on from there. No key, no dropout.
        """
        c = self.config
        forward_LBD, backward_LBD = (jnp.swapaxes(each, 0, 1) for each in x)
        x_ULBD = jnp.stack([forward_LBD, backward_LBD[::-1]])
        marks = None
        if segments[0] is not None and segments[1] is not None:
            marks = _marks(jnp.stack([segments[0].T, segments[1].T[::-1]]))
        keys = None
        if key is not None:
            layers_key, last_key = jax.random.split(key)
            keys = jax.random.split(layers_key, c.layers)
        state_ZUB = State(**{name: jnp.moveaxis(each, 0, 2) for name, each in state.items()})

        def one_layer(carry, layer, kind):
            module, number, before, layer_key = layer
            x_ULBD = dropout(carry[0], c.dropout, layer_key)
            y_ULBD, after = module(x_ULBD, marks, before)
            if c.residuals == "layers":
                y_ULBD = y_ULBD + jnp.where(number > 0, x_ULBD, 0)
            return shard(y_ULBD, "ULBD"), after

        _, (layers_ZULBD, after_ZUB) = scan(
            one_layer,
            (shard(x_ULBD, "ULBD"), jax.tree.map(lambda each: each[0], state_ZUB)),
            (self.layers, jnp.arange(c.layers), state_ZUB, keys),
            kinds=(None,),
            remat="none",
            # Few layers of large weights: a loop over them would copy each layer's several times.
            unroll=c.layers,
            output=lambda carry: carry,
        )
        if key is not None:
            said_ULBD = dropout(layers_ZULBD[-1], c.dropout, last_key)
            layers_ZULBD = layers_ZULBD.at[-1].set(said_ULBD)
        straight = (layers_ZULBD[:, 0], layers_ZULBD[:, 1, ::-1])
        layers_ZUBLD = jnp.stack([jnp.swapaxes(each, 1, 2) for each in straight], axis=1)
        after = {name: jnp.moveaxis(each, 2, 0) for name, each in after_ZUB._asdict().items()}
        return layers_ZUBLD, after

    def head(self, direction: Direction) -> tuple[jax.Array, jax.Array]:
        """The table (VD) and the bias (V) of a direction's softmax."""
        assert self.head_bias is not None, "a model with head none has no softmax"
        table = self.embed if self.head_table is None else self.head_table
        assert table is not None
        if self.config.head != "separate":
            return table[...], self.head_bias[...]
        u = DIRECTIONS.index(direction)
        return table[...][u], self.head_bias[...][u]

    def logits(self, x_BLD: jax.Array, direction: Direction) -> jax.Array:
        """float32 BLV."""
        table_VD, bias_V = self.head(direction)
        return einsum_float32("BLD,VD->BLV", x_BLD, table_VD) + shard(bias_V, "V")


def _marks(segments_ULB: jax.Array) -> Marks:
    """Where a direction meets a new document and where there is one at all; padding between two
    parts of one document ends nothing."""
    real = segments_ULB > 0
    latest = jax.lax.associative_scan(lambda a, b: jnp.where(b > 0, b, a), segments_ULB, axis=1)
    before = jnp.pad(latest[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return Marks(begins=real & (before > 0) & (before != segments_ULB), real=real)
