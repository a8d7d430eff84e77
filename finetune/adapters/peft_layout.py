"""How an adapter's arrays lie in peft's tensors: the export table of the base, read for LoRA.

Where the base's tensor holds one product, ours are peft's A and B. Where it holds several (GPT-2's
c_attn), peft has one A for all: ours go there side by side, each with rows of B of its own, so that
its rank is the sum and what it computes is the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gesso.export.files.tensors import FolderError
from gesso.export.formats import format_for
from gesso.export.tables.tables import FUSED, Place, places, slots
from gesso.models.adapters.config import AdapterConfig
from gesso.models.layers.operators import inner_outer

TABLE = "VD"


@dataclass(frozen=True, kw_only=True)
class Module:
    """One of peft's modules: name; layer, the index of Z ("" for a table); place: the row of the
    base's table it is of; adapted: which of the row's parameters have a LoRA."""

    name: str
    layer: int | None
    place: Place
    adapted: tuple[str, ...]

    @property
    def is_table(self) -> bool:
        return self.place.slots[0].letters == TABLE

    @property
    def groups(self) -> tuple[str, str]:
        """The letters of the tensor's inputs and of its outputs, in its order."""
        inner, _ = inner_outer(self.place.slots[0].letters)
        first, second = self.place.groups
        return (first, second) if set(inner) <= set(first) else (second, first)

    @property
    def takes_inputs_first(self) -> bool:
        """Whether the tensor is input x output, as OpenAI's Conv1D has it."""
        return self.groups[0] == self.place.groups[0] and not self.is_table


def modules_of(model: Any, adapted: Mapping[str, Any]) -> list[Module]:
    """peft's modules for the parameters named by `adapted`, in the table's order. Raises
    FolderError for a model that no published format has, or a parameter that lies in no matrix."""
    found, left = [], dict.fromkeys(adapted)
    form = format_for(model.config)
    bare = form.bare(model.config)  # transformers finds a tensor with it too, peft does not
    for place in places(form.table(model.config), slots(model)):
        chosen = tuple(name for name in place.ours if name in adapted)
        if not chosen:
            continue
        if len(place.groups) != 2 or place.row.transform != "same":
            raise FolderError(f"{chosen[0]} is not a matrix in {place.row.theirs}")
        for at, tensor in place.tensors.items():
            layer = at[0] if at else None
            name = tensor.removeprefix(bare).removesuffix(".weight")
            found.append(Module(name=name, layer=layer, place=place, adapted=chosen))
            left = {each: None for each in left if each not in chosen}
    if left:
        raise FolderError(f"the published format of this model has no {', '.join(left)}")
    return found


def theirs(
    module: Module, arrays: Mapping[str, np.ndarray], config: AdapterConfig
) -> tuple[np.ndarray, np.ndarray]:
    """(A [r, in], B [out, r]) of a module, as peft's Linear and Embedding have them."""
    inputs, outputs = module.groups
    inner, outer = inner_outer(module.place.slots[0].letters)
    count, rank = len(module.adapted), config.rank
    sizes = module.place.sizes
    out = [sizes[each] for each in outputs]
    a_parts, b = [], np.zeros([*out, count * rank], np.float32)
    for number, name in enumerate(module.adapted):
        a, b_part = (_layer(arrays[f"{name}/{leaf}"], module.layer) for leaf in ("a", "b"))
        # ours: inner letters, I; and I, outer letters
        a = a.transpose([*(inner.index(each) for each in inputs), len(inner)])
        a_parts.append(a.reshape(-1, rank).T)
        order = [1 + outer.index(each) for each in outputs if each != FUSED]
        where: list[Any] = [slice(None)] * len(out)
        if FUSED in outputs:
            where[outputs.index(FUSED)] = module.place.ours.index(name)
        b[(*where, slice(number * rank, (number + 1) * rank))] = b_part.transpose([*order, 0])
    return np.concatenate(a_parts), b.reshape(-1, count * rank)


def ours(
    module: Module, a: np.ndarray, b: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(parameter, a with its rank last, b with its rank first) of a module's A and B: one for each
    parameter the tensor holds, or those that B says anything about."""
    inputs, outputs = module.groups
    inner, outer = inner_outer(module.place.slots[0].letters)
    sizes, rank = module.place.sizes, len(a)
    whole = b.reshape([*(sizes[each] for each in outputs), rank])
    order = [outputs.replace(FUSED, "").index(each) for each in outer]
    for number, name in enumerate(module.place.ours):
        part = np.take(whole, number, outputs.index(FUSED)) if FUSED in outputs else whole
        used = np.arange(rank)
        if FUSED in outputs:
            used = np.flatnonzero(part.reshape(-1, rank).any(0))
            if not used.size:
                continue
        b_part = np.take(part, used, axis=-1).transpose([len(order), *order])
        a_part = np.take(a, used, axis=0).T.reshape([*(sizes[each] for each in inputs), used.size])
        back = [inputs.index(each) for each in inner]
        yield name, a_part.transpose([*back, len(inner)]), b_part


def _layer(x: np.ndarray, layer: int | None) -> np.ndarray:
    return np.asarray(x, np.float32) if layer is None else np.asarray(x[layer], np.float32)
