"""Small trained additions to a frozen model, as settings. Imports no JAX."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from gesso.models.facts import Facts
from gesso.models.layers.settings import FUSED

Kind = Literal["none", "lora", "prompt", "p_tuning", "prefix", "ia3", "focus"]

# Which settings each kind reads; one that is set and not read is refused.
_READ: dict[str, tuple[str, ...]] = {
    "none": (),
    "lora": ("targets", "rank", "alpha", "scaling", "dropout"),
    "prompt": ("tokens", "reparametrize", "hidden"),
    "p_tuning": ("tokens", "reparametrize", "hidden", "placeholder"),
    "prefix": ("tokens", "reparametrize", "hidden"),
    "ia3": ("targets",),
    "focus": ("marks",),
}
# kind -> what to do instead where a family does not have it (Facts.adapters).
_INSTEAD: dict[Kind, str] = {
    "lora": "train it whole, or freeze by name",
    "ia3": "train it whole, or freeze by name",
    "prompt": "use p_tuning, with the placeholders at the front of the text: tokens that see each"
    " other both ways cannot share one prompt",
    "p_tuning": "use lora",
    "prefix": "use lora or p_tuning",
    "focus": "use lora; focus vectors are for what an encoder reads",
}


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """A small trained addition to a frozen model (docs/adapters.md)."""

    kind: Kind = "none"
    """Kind of adapter: "none", "lora", "prompt", "p_tuning", "prefix", "ia3" or "focus". "lora"
    adds a product of two thin matrices to weights (https://arxiv.org/abs/2106.09685); "prompt" puts
    trained virtual tokens in front of every document (https://arxiv.org/abs/2104.08691); "p_tuning"
    puts them where the text has a placeholder (https://arxiv.org/abs/2103.10385); "prefix" puts
    trained keys and values in front of every layer's (https://arxiv.org/abs/2110.07602); "ia3"
    multiplies keys, values and the mlp's activations (https://arxiv.org/abs/2205.05638); "focus"
    scales and shifts each token before each encoder layer by whether it is marked
    (https://arxiv.org/abs/2203.01146)."""
    targets: tuple[str, ...] = ()
    """Adapted weights, as patterns (fnmatch) over parameter names such as "blocks/attention/q"; ()
    = the kind's own. These are q and v of every attention (lora), or k, v and the mlp's down (ia3).
    "embed" is the table of tokens."""
    rank: int = 8
    """Rank of lora's product; more learns more and costs more memory."""
    alpha: float = 16.0
    """Scale of lora's product, which is multiplied by alpha / rank."""
    scaling: Literal["rank", "sqrt_rank"] = "rank"
    """Divisor of alpha: "rank", or its square root "sqrt_rank"
    (https://arxiv.org/abs/2312.03732)."""
    dropout: float = 0.0
    """Dropout rate of what lora's matrices read, and of nothing else; 0 = off."""
    tokens: int = 20
    """Virtual tokens of prompt, p_tuning and prefix."""
    reparametrize: Literal["none", "mlp", "lstm"] = "none"
    """Network that makes the virtual tokens: "none", "mlp", or for prompt and p_tuning "lstm". It
    is trained with them and dropped when they are exported."""
    hidden: int = 0
    """Width of that network; 0 = the model's own."""
    placeholder: int = -1
    """Token id that p_tuning replaces; its n-th place in a document takes the n-th virtual
    token."""
    marks: tuple[int, ...] = ()
    """Token ids that begin and end what is marked, for focus."""

    def problems(self) -> list[str]:
        """What is wrong with these fields, together."""
        found = [
            f"adapter.{each.name} has no effect on kind {self.kind!r}; leave it out"
            + (" or choose a kind (--adapter.kind lora)" if self.kind == "none" else "")
            for each in dataclasses.fields(self)
            if each.name not in ("kind", *_READ[self.kind])
            and getattr(self, each.name) != each.default
        ]
        if self.rank < 1 or self.tokens < 1:
            found.append("adapter.rank and adapter.tokens must be at least 1")
        if not 0 <= self.dropout < 1:
            found.append(f"adapter.dropout must be at least 0 and below 1, not {self.dropout}")
        if self.alpha == 0:
            found.append("adapter.alpha 0 multiplies the adapter away")
        if self.hidden < 0 or (self.hidden and self.reparametrize == "none"):
            found.append("adapter.hidden is the width of what reparametrizes; it needs mlp or lstm")
        if self.kind == "prefix" and self.reparametrize == "lstm":
            found.append("adapter.reparametrize of a prefix is none or mlp, not lstm")
        if self.kind == "p_tuning" and self.placeholder < 0:
            found.append(
                "adapter.placeholder must be the id of the token that stands for a virtual one in"
                " the text, such as an unused id of the tokenizer (gesso tokenizer inspect)"
            )
        if self.kind == "focus" and (len(self.marks) != 2 or len(set(self.marks)) != 2):
            found.append(
                "adapter.marks must be two ids: of the token that begins what is marked, and of the"
                " one that ends it"
            )
        return found

    def misfits(self, model: Facts) -> list[str]:
        """What is wrong with these fields for a model's config."""
        if self.kind == "none":
            return []
        if self.kind not in model.adapters:
            instead = _INSTEAD[self.kind]
            return [f"adapter.kind {self.kind} is not for a model of {model.family}: {instead}"]
        found = []
        if self.front and model.attention in FUSED:
            found.append(f"adapter.kind {self.kind} needs model.attention blocks or dense")
        room = model.longest is None or model.longest > self.tokens
        if self.kind == "prefix" and model.architecture == "encoder" and not room:
            found.append(f"adapter.tokens {self.tokens} leave no room in {model.longest} positions")
        if model.word_embed and self.kind in ("prompt", "p_tuning"):
            found.append(f"adapter.kind {self.kind} has no virtual tokens of model.word_embed")
        ids = [each for each in (self.placeholder, *self.marks) if each >= 0]
        if ids and max(ids) >= model.read_vocab:
            found.append(f"adapter: token id {max(ids)} is over the model's {model.read_vocab}")
        return found

    @property
    def front(self) -> int:
        """How many positions the virtual tokens in front of a document take."""
        return self.tokens if self.kind in ("prompt", "prefix") else 0

    @property
    def scale(self) -> float:
        """What the product of a LoRA's two matrices is multiplied by."""
        return self.alpha / (self.rank if self.scaling == "rank" else self.rank**0.5)
