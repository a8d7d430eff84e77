"""Checkpoints of a run: when to save, what is complete, which one to continue from."""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from gesso.models.model import Params
from gesso.partitioning.hosts.processes import SINGLE, Hosts
from gesso.pretrain.checkpoints import manifest, step_folders
from gesso.pretrain.checkpoints import orbax as array_files
from gesso.pretrain.checkpoints.fingerprint import (
    fingerprints,
    leaf_name,
    read_fingerprints,
    start_fingerprints,
)
from gesso.pretrain.checkpoints.manifest import Info, Leaf, Manifest, ManifestDamaged
from gesso.pretrain.checkpoints.room import check_folder
from gesso.pretrain.checkpoints.save_clock import SaveClock
from gesso.pretrain.config import CheckpointConfig
from gesso.pretrain.folder.lock import RunLock
from gesso.pretrain.optimizer.trained import join_trees

Given = TypeVar("Given")


class CheckpointsCorrupt(ValueError):
    """There are checkpoints, and the bytes of none are what was written. Nothing was deleted."""


class CheckpointFailed(RuntimeError):
    """A checkpoint could not be written."""


class CheckpointDiffers(RuntimeError):
    """The files are whole, but what was loaded is not what was saved: a fault of the software or
    of the memory, not of the disk. Nothing was moved."""


class StateMismatch(ValueError):
    """A checkpoint of other arrays than the experiment's."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """state: laid out as asked. info: what `save` was given."""

    step: int
    state: Params
    info: Info


@dataclass(kw_only=True)
class _Pending:
    step: int
    thread: threading.Thread | None = None
    error: BaseException | None = None
    began: float = field(default_factory=time.monotonic)


class Checkpoints:
    """The checkpoints in `folder`, a POSIX folder that all hosts share: FOLDER/STEP/...

    A step's folder gets its name when everything in it, the manifest last, is on disk; what has
    no such name does not exist. Called by all processes of a run, in the same order. `lock`: the
    run's, held by process 0; it is looked at before anything is written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: CheckpointConfig,
        *,
        hosts: Hosts | None = None,
        lock: RunLock | None = None,
        log: Callable[[str], object] = print,
    ) -> None:
        self._folder = Path(folder).absolute()
        self._config, self._hosts, self._lock, self._log = config, hosts or SINGLE, lock, log
        self._first = self._hosts.process == 0
        self._pending: _Pending | None = None
        self._saves = 0
        self._clock = SaveClock(config, self._hosts)

    def due(self, step: int) -> bool:
        """Whether to save after `step` updates; the same in all processes. Ask every step."""
        return self._clock.due(step)

    def steps(self) -> list[int]:
        """The complete checkpoints, oldest first. Their bytes are not looked at."""
        return step_folders.complete_steps(self._folder)

    def save(self, step: int, state: Params, info: Info) -> None:
        """Start to save; `state` may be donated as soon as this returns.

        Waits for the save before, if that is not done. A step that is there is not saved again.
        `info`: a JSON dict. Raises CheckpointFailed, for this save or the one before, and LockLost.
        """
        json.dumps(info)
        self.wait()
        if self._hosts.share("saved already", step in self.steps(), timeout_seconds=self._timeout):
            return
        path = step_folders.writing(self._folder, step)
        try:
            if self._first:
                self._clear_for(step)
            self._hosts.barrier("save", timeout_seconds=self._timeout)
            arrays = {leaf_name(key): x for key, x in jax.tree.leaves_with_path(state)}
            prints = start_fingerprints(state)
            written = array_files.start_saving(path, state, timeout_seconds=self._timeout)
        except OSError as error:
            raise self._failure(step, error) from error
        pending = _Pending(step=step)
        shapes = {name: (str(x.dtype), tuple(x.shape)) for name, x in arrays.items()}
        number, self._saves = self._saves, self._saves + 1

        def finish() -> None:
            try:
                written()
                leaves = {
                    name: Leaf(dtype=shapes[name][0], shape=shapes[name][1], fingerprint=each)
                    for name, each in read_fingerprints(prints).items()
                }
                self._commit(number, path, Manifest(step=step, leaves=leaves, info=info))
            except BaseException as error:  # whatever it is, the main thread raises it in poll()
                pending.error = error
            finally:
                self._hosts.disconnect()

        pending.thread = threading.Thread(target=finish, name=f"checkpoint {step}", daemon=True)
        self._pending = pending
        self._clock.restart()
        pending.thread.start()

    def poll(self) -> None:
        """Raise CheckpointFailed as soon as a save has failed, LockLost when another run took this
        one's folder; never waits. Call it every step."""
        if self._lock:
            self._lock.raise_if_lost()
        if self._pending and self._pending.thread and not self._pending.thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Until the save under way, if any, is complete. Raises CheckpointFailed."""
        pending, self._pending = self._pending, None
        if pending and pending.thread:
            pending.thread.join()
            if pending.error:
                raise self._failure(pending.step, pending.error) from pending.error
            seconds = time.monotonic() - pending.began
            self._log(f"checkpoint {pending.step} is complete ({seconds:.1f} s)")

    def close(self) -> None:
        """Wait for the save under way; a failure is raised, or logged while another error is."""
        unwinding = sys.exception() is not None
        try:
            self.wait()
        except CheckpointFailed as error:
            if not unwinding:
                raise
            self._log(str(error))

    def restore(
        self, abstract_state: Params | Callable[[int], Params], step: int | None = None
    ) -> Restored | None:
        """The newest checkpoint whose bytes are what was written (or just `step`), or None where
        nothing was ever saved.

        Damaged ones are renamed to rejected-STEP-... with a message; nothing is deleted but what
        an interrupted save left. `abstract_state`: jax.ShapeDtypeStructs with the shardings to load
        to, of any mesh and process count, or a function of the step that gives them. Raises
        CheckpointsCorrupt, StateMismatch, CheckpointDiffers, room.FolderUnusable.
        """
        of_step = abstract_state if callable(abstract_state) else lambda step: abstract_state
        largest = array_files.tree_bytes(of_step(sys.maxsize))
        self._on_first("prepare", lambda: self._prepare(largest))
        found = self._on_first("steps", lambda: step_folders.candidates(self._folder, step))
        for candidate in found:
            problems = self._problems(candidate)
            if not problems:
                return self._load(candidate, of_step(candidate))
            message = f"checkpoint {candidate} in {self._folder} is damaged: {_some(problems)}"
            if step is not None:
                raise CheckpointsCorrupt(
                    f"{message}; leave out the step to use the newest whole one"
                )
            self._log(f"{message}; it is set aside and the one before is used")
            if self._first:
                step_folders.set_aside(self._folder, candidate)
        aside = self._on_first("aside", lambda: step_folders.list_rejected(self._folder))
        if found or aside:
            raise CheckpointsCorrupt(
                f"{self._folder} holds {len(aside)} damaged checkpoint(s) and no whole one:"
                f" {_some(aside)}; put a copy back, or move them away to start from the beginning"
            )
        return None

    @property
    def _timeout(self) -> int:
        return self._config.timeout_seconds

    def _prepare(self, state_bytes: int) -> None:
        self._check_lock()
        self._folder.mkdir(parents=True, exist_ok=True)
        step_folders.clear(self._folder)
        check_folder(self._folder, state_bytes=state_bytes, complete=len(self.steps()))

    def _clear_for(self, step: int) -> None:
        self._check_lock()
        self._folder.mkdir(parents=True, exist_ok=True)
        step_folders.make_way(self._folder, step)

    def _check_lock(self) -> None:
        if self._lock:
            self._lock.check()

    def _commit(self, number: int, path: Path, complete: Manifest) -> None:
        """In process 0: seal, give the folder its name, remove old ones. In others: wait for it."""
        key = f"checkpoint/{number}"
        if not self._first:
            error = self._hosts.wait_for(key, timeout_seconds=self._timeout)
            if error:
                raise CheckpointFailed(f"process 0: {error}")
            return
        error = ""
        try:
            self._check_lock()
            manifest.seal(path, complete)
            step_folders.commit(self._folder, complete.step)
            step_folders.prune(
                self._folder,
                keep_last=self._config.keep_last,
                keep_every_steps=self._config.keep_every_steps,
            )
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
            raise
        finally:
            self._hosts.announce(key, error)

    def _on_first(self, name: str, function: Callable[[], Given]) -> Given:
        """What `function` gives in process 0, in all processes; its ValueError or OSError too."""
        return self._hosts.on_first(name, function, timeout_seconds=self._timeout)

    def _problems(self, step: int) -> list[str]:
        """What is wrong with a step's bytes; every process reads its part of the files."""
        hosts, folder = self._hosts, self._folder / str(step)
        try:
            sealed = manifest.read(folder)
            found = manifest.damage(folder, sealed, part=hosts.process, parts=hosts.count)
        except ManifestDamaged as error:
            found = [str(error)]
        everywhere = hosts.gather("damage", found, timeout_seconds=self._timeout)
        return sorted({each for some in everywhere for each in some})

    def _load(self, step: int, abstract_state: Params) -> Restored:
        folder = self._folder / str(step)
        sealed = manifest.read(folder)
        _compare(folder, sealed.leaves, abstract_state)
        state = array_files.load(folder, abstract_state)
        loaded = fingerprints(state)
        if wrong := [n for n, leaf in sealed.leaves.items() if loaded[n] != leaf.fingerprint]:
            raise CheckpointDiffers(
                f"checkpoint {step} in {self._folder}: the files are whole, but {len(wrong)} loaded"
                f" array(s) differ from what was saved: {_some(wrong)}; suspect the memory of a"
                " host or device, or a changed version of jax or orbax-checkpoint"
            )
        return Restored(step=step, state=state, info=sealed.info)

    def _failure(self, step: int, error: BaseException) -> CheckpointFailed:
        try:
            free = f"{shutil.disk_usage(self._folder).free / 1e9:.2f} GB free"
        except OSError as unreadable:
            free = f"folder not readable: {unreadable}"
        return CheckpointFailed(
            f"checkpoint {step} could not be written to {self._folder} ({free}):"
            f" {type(error).__name__}: {str(error)[:500]}; older checkpoints are as they were"
        )


def load_params(
    folder: str | os.PathLike[str], abstract_params: Params | None = None, step: int | None = None
) -> tuple[Params, Info]:
    """(params, info) of the newest whole checkpoint in `folder`, or of `step`; info has "step".

    With `abstract_params` (jax.ShapeDtypeStructs with shardings) arrays on devices; without, numpy
    arrays in host memory, trained and frozen ones together, for tools that need no mesh. Changes
    nothing in the folder: safe beside a training run. Raises ValueError when there is no
    checkpoint, CheckpointsCorrupt when none is whole, StateMismatch.
    """
    place, sealed = newest_whole(folder, step)
    kept = ("params/",) if abstract_params else ("params/", "frozen/")
    leaves = {n: leaf for n, leaf in sealed.leaves.items() if n.startswith(kept)}
    abstract = {"params": abstract_params} if abstract_params else _empty_arrays(leaves)
    _compare(place, leaves, abstract)
    loaded = array_files.load(place, abstract)
    whole = join_trees(loaded["params"], loaded.get("frozen", {}))
    return whole, sealed.info | {"step": sealed.step}


def newest_whole(
    folder: str | os.PathLike[str], step: int | None = None
) -> tuple[Path, manifest.Manifest]:
    """Where the newest whole checkpoint in `folder`, or `step`, lies, and its manifest. Raises as
    load_params does."""
    folder = Path(folder).absolute()
    problems = []
    for candidate in step_folders.candidates(folder, step):
        place = folder / str(candidate)
        try:
            sealed = manifest.read(place)
            if not (found := manifest.damage(place, sealed)):
                return place, sealed
        except ManifestDamaged as error:
            found = [str(error)]
        problems.append(f"{candidate}: {_some(found)}")
    if problems:
        raise CheckpointsCorrupt(f"no checkpoint in {folder} is whole: {_some(problems)}")
    raise ValueError(f"there is no checkpoint in {folder} (yet)")


def _empty_arrays(leaves: dict[str, Leaf]) -> Params:
    """A nested dict of numpy arrays with these names; their pages are not touched."""
    tree: Params = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = np.empty(leaf.shape, jax.numpy.dtype(leaf.dtype))
    return tree


def _compare(folder: Path, leaves: dict[str, Leaf], abstract: Params) -> None:
    """Raise StateMismatch unless names, shapes and dtypes agree; Orbax would cast silently."""
    asked = {
        leaf_name(path): Leaf(dtype=str(x.dtype), shape=tuple(x.shape), fingerprint="")
        for path, x in jax.tree.leaves_with_path(abstract)
    }
    wrong = [f"{name} is not in it" for name in asked.keys() - leaves.keys()]
    wrong += [f"{name} is not asked for" for name in leaves.keys() - asked.keys()]
    wrong += [
        f"{name} is {leaves[name]}, asked is {asked[name]}"
        for name in asked.keys() & leaves.keys()
        if str(leaves[name]) != str(asked[name])
    ]
    if wrong:
        raise StateMismatch(
            f"checkpoint {folder} holds another state than the experiment's: {_some(sorted(wrong))}"
            "; run the experiment it was saved by, or use another folder"
        )


def _some(lines: list[str], most: int = 5) -> str:
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
