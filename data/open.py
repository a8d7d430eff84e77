"""From a folder to a store, and from a store to its rows: which class reads which kind of store."""

import time
from pathlib import Path
from typing import cast

from gesso.data.config import OrderConfig
from gesso.data.instructions.heldout import InstructionHeldout
from gesso.data.instructions.order import InstructionOrder
from gesso.data.instructions.store import InstructionStore, is_instruction_store
from gesso.data.labelled.order import TaskOrder
from gesso.data.labelled.store import TaskStore, is_task_store
from gesso.data.order.base import HeldoutRows, RowOrder, Rows
from gesso.data.order.heldout import Heldout
from gesso.data.order.order import Order
from gesso.data.order.pack import Shape
from gesso.data.store.base import Store, TextStore
from gesso.data.store.tokens import TokenStore
from gesso.settings.nearest import did_you_mean

_POLL_SECONDS = 0.2


def open_store(folder: str | Path, *, wait_seconds: float = 0.0) -> Store:
    """Open a store: a TokenStore, finished or not, or one of examples (InstructionStore,
    TaskStore), which finetune makes.

    wait_seconds: how long to wait for a builder that is only starting.
    Raises ValueError, with the nearest name there is, where no token store is.
    """
    folder = Path(folder).expanduser()
    if is_instruction_store(folder):
        return InstructionStore(folder)
    if is_task_store(folder):
        return TaskStore(folder)
    deadline = time.monotonic() + wait_seconds
    while not (folder / "meta.json").exists():
        if time.monotonic() >= deadline:
            raise ValueError(_not_a_store(folder))
        time.sleep(_POLL_SECONDS)
    return TokenStore(folder)


def order_of(store: Store, config: OrderConfig) -> RowOrder:
    """The training rows of a store: an InstructionOrder, a TaskOrder or an Order, by its kind.

    Raises ValueError for settings that do not fit the store.
    """
    if isinstance(store, TaskStore):
        return TaskOrder(store, config)
    if isinstance(store, InstructionStore):
        return InstructionOrder(store, config)
    return Order(cast(TextStore, store), config)


def rows(store: Store, order: OrderConfig, i: int, n: int) -> Rows:
    """n training rows from row i on, as Order.rows gives them."""
    return order_of(store, order).rows(i, n)


def heldout(
    store: Store,
    component: str,
    *,
    length: int,
    overlap: int,
    eras: int = 0,
    overhead: int = 0,
    companions: bool = False,
) -> HeldoutRows:
    """All held-out rows of a component, best-fit packed, `length` tokens each.

    eras: only the first so many eras, for a store that is still being built (era e never changes
    once it is there); 0 takes all and needs a finished store. overhead, companions: as in
    OrderConfig, the text beside a row being held out too; where a component has but one held-out
    document, its rows have no text beside them (all zeros). A store of instruction examples has
    rows of its own, with "lm_weight"; those of a task store also need its frame: a TaskHeldout.
    Raises ValueError for an unknown component, a store that is not ready for what is asked, or a
    length below 2.
    """
    if isinstance(store, InstructionStore):
        return InstructionHeldout(store, component, length=length, overhead=overhead)
    if length - overhead < 2:
        raise ValueError(f"a row needs at least 2 tokens, not length {length - overhead}")
    if not eras and not store.complete:
        raise ValueError(
            f"the store {store.folder} is still being built, so its held-out rows are not yet all"
            " there; wait for it, or take those of the first eras (eras=1)"
        )
    if store.complete and component not in store.components:
        raise ValueError(f"component {component!r} is not in the store: {list(store.components)}")
    shape = Shape(length=length, overlap=overlap, packing="best_fit", overhead=overhead)
    return Heldout(cast(TextStore, store), component, shape=shape, eras=eras, companions=companions)


def _not_a_store(folder: Path) -> str:
    if folder.is_dir():
        held = sorted(path.name for path in folder.iterdir())
        below = [name for name in held if (folder / name / "meta.json").exists()]
        hint = f"did you mean {folder / below[0]}?" if below else "build it: gesso corpus build"
        return f"{folder} is not a token store: it has no meta.json; {hint}"
    if not folder.parent.is_dir():
        return f"no token store at {folder}; its folder {folder.parent} does not exist either"
    held = sorted(path.name for path in folder.parent.iterdir())
    beside = f"{folder.parent} holds {', '.join(held[:8]) or 'nothing'}"
    hint = did_you_mean(
        folder.name,
        held,
        show=lambda name: str(folder.parent / name),
        otherwise=f"{beside}; build one: gesso corpus build",
    )
    return f"no token store at {folder}{hint}"
