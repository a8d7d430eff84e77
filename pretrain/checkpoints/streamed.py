"""A checkpoint of parameters alone, written and read one array at a time.

Memory is one array's, whatever the model's size: for importing and exporting what no host holds.
"""

import contextlib
import gc
import os
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gesso.models.model import Params
from gesso.models.trees import flat, nest
from gesso.pretrain.checkpoints import manifest, step_folders
from gesso.pretrain.checkpoints import orbax as array_files
from gesso.pretrain.checkpoints.checkpoints import Leaf, newest_whole
from gesso.pretrain.checkpoints.fingerprint import host_fingerprint
from gesso.pretrain.checkpoints.manifest import Info, Manifest
from gesso.pretrain.checkpoints.room import check_folder
from gesso.storage.files import sync_tree

_PARAMS = "params/"
_WAITED_FOR = 1 << 26  # bytes of an array that must not lie beside the next
_LARGE = 1 << 28  # bytes that a disk may begin with; smaller ones wait for the last fsync


def save_params(
    folder: str | os.PathLike[str],
    step: int,
    params: Iterable[tuple[str, np.ndarray]],
    info: Info,
    *,
    size: int,
) -> None:
    """Write a checkpoint of parameters in `folder`, as `Checkpoints.save` would of {"params": ...}.

    params: (path, array) of each, taken one after the other. size: their bytes together. info: a
    JSON dict. Raises FolderUnusable where there is no room; what `params` raises leaves nothing.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder, state_bytes=size, complete=1)  # room for this one is enough
    step_folders.make_way(folder, step)
    path = step_folders.writing(folder, step)
    leaves: dict[str, Leaf] = {}
    with ThreadPoolExecutor(2) as pool:

        def trees() -> Iterator[Params]:
            lent = True
            for name, x in params:
                summed = pool.submit(host_fingerprint, x)  # while it is written
                yield _tree(_PARAMS + name, x)
                kind = {"dtype": str(x.dtype), "shape": tuple(x.shape)}
                leaves[_PARAMS + name] = Leaf(**kind, fingerprint=summed.result())
                nbytes, left = x.nbytes, weakref.ref(x)
                del x, summed
                if lent and nbytes >= _WAITED_FOR:
                    lent = _is_gone(left)  # before the next is made, unless the caller keeps them
                if nbytes >= _LARGE:
                    pool.submit(_flush, folder)  # while that is made

        array_files.save_each(path, trees())
    manifest.seal(path, Manifest(step=step, leaves=leaves, info=info))
    step_folders.commit(folder, step)


class StoredParams:
    """The parameters of a checkpoint, each read when it is asked for.

    names: their paths, of the trained ones where a run has frozen others. Raises as load_params
    does.
    """

    def __init__(self, folder: str | os.PathLike[str], step: int | None = None) -> None:
        self._place, sealed = newest_whole(folder, step)
        self.info = sealed.info | {"step": sealed.step}
        self._leaves = {n: leaf for n, leaf in sealed.leaves.items() if n.startswith(_PARAMS)}
        self.names = tuple(name.removeprefix(_PARAMS) for name in self._leaves)

    def read(self, name: str) -> np.ndarray:
        leaf = self._leaves[_PARAMS + name]
        empty = np.empty(leaf.shape, jnp.dtype(leaf.dtype))
        found = array_files.load(self._place, _tree(_PARAMS + name, empty))
        return flat(found)[_PARAMS + name]


def _is_gone(array: weakref.ref[np.ndarray]) -> bool:
    """Give the threads that are done with an array half a second to let go of it; what they leave
    is a cycle of references, an old one if Python searched for cycles before they were done."""
    for wait in (0.005, 0.02, 0.08, 0.4):
        if array() is None:
            return True
        time.sleep(wait)
        gc.collect()
    return array() is None


def _flush(folder: Path) -> None:
    """Let the disk begin with what was written; `manifest.seal` makes sure of it."""
    with contextlib.suppress(OSError):  # files may be renamed meanwhile
        sync_tree(folder)


def _tree(name: str, x: np.ndarray) -> Params:
    return nest({name: x})
