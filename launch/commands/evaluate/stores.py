"""What `gesso evaluate --store` and `--answers` may name: a folder, a corpus that comes with
Python, an experiment's data, another run's."""

from pathlib import Path
from typing import TYPE_CHECKING

from gesso.launch.console import Refused, existing
from gesso.settings.nearest import nearest

if TYPE_CHECKING:
    from gesso.data.store.base import Store
    from gesso.pretrain.open import OpenRun


def named_store(named: str, *, what: str = "token store") -> "Store":
    """The store of a folder, of "embedded...:KIND[:MEGABYTES]" (made where it is not there yet), of
    a run folder or of an experiment by its name, opened. what: it is, in words. Raises Refused with
    the nearest name."""
    from gesso.configs import registry
    from gesso.data.embedded.corpus import ensure_store, parse_store
    from gesso.data.open import open_store
    from gesso.pretrain.folder.claim import read_experiment

    where = named
    if parse_store(named) is None:
        folder = Path(named).expanduser()
        if (folder / "experiment.json").is_file():
            where = read_experiment(folder).data.store
        elif not folder.exists() and named in registry.names():
            where = registry.experiment(named).data.store
        elif (
            not folder.exists() and "/" not in named and (near := nearest(named, registry.names()))
        ):
            raise Refused(f"there is no {what} {named}; did you mean {near[0]}, an experiment?")
    if parse_store(where) is None:
        existing(where, what=what)
    return open_store(ensure_store(where))


def store_for(run: "OpenRun", folder: Path, named: str) -> "Store":
    """`named_store` that a run's model can read; its own store for "". Raises Refused for one of
    another tokenizer."""
    store = named_store(named) if named else run.store()
    refuse_other_tokenizer(
        store, named or str(store.folder), tokenizer=run.tokenizer.fingerprint, folder=folder
    )
    return store


def refuse_other_tokenizer(store: "Store", named: str, *, tokenizer: str, folder: Path) -> None:
    """Raises Refused where a store was not made with the tokenizer (its fingerprint) of the run in
    `folder`."""
    if (of := store.tokenizer().fingerprint) != tokenizer:
        raise Refused(
            f"{named} was made with another tokenizer ({of[:12]}) than {folder} ({tokenizer[:12]}):"
            f" the model cannot read it; build it with --tokenizer {folder / 'tokenizer'}"
        )
