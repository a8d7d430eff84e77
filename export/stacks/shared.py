"""What the writers for other stacks share: our own spelling of the weights, and the last steps."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from gesso.export.agreement import Agreement, Written
from gesso.export.files.folder import new_folder
from gesso.export.files.tensors import FolderError, Record
from gesso.export.files.weights import RECORD, export_record
from gesso.export.tables.tables import Place, Row, Tree, places, slots
from gesso.export.tokenizers.files import GivenTokenizer, files_of
from gesso.export.writing_weights import write_weights
from gesso.models.config import ModelConfig
from gesso.models.model import Model
from gesso.models.trees import flat

# A loader of one file is two lines; nothing that reads these folders needs shards.
WHOLE = 1 << 62


@contextlib.contextmanager
def new_export(folder: str | Path) -> Iterator[Path]:
    """A folder that takes its name when all of it is written; an earlier export gives way."""
    with new_folder(Path(folder), mine=lambda path: bool(export_record(path))) as part:
        yield part


def finish(
    part: Path,
    folder: str | Path,
    *,
    model_type: str,
    dtype: str,
    agreement: Agreement,
    tensors: Mapping[str, int] | None = None,
) -> Written:
    """Leave the record that makes the folder an export of ours; what was written. tensors: their
    checksums, where we read the folder again."""
    about: Record = {"format": 1, "model_type": model_type, "dtype": dtype}
    about |= {"tensors": dict(tensors)} if tensors else {}
    (part / RECORD).write_text(json.dumps(about, indent=1) + "\n")
    files = {
        path.relative_to(part).as_posix(): path.stat().st_size
        for path in sorted(part.rglob("*"))
        if path.is_file()
    }
    return Written(
        folder=Path(folder), model_type=model_type, dtype=dtype, files=files, agreement=agreement
    )


def check_agreement(apart: Mapping[str, float], *, bound: float, where: str) -> Agreement:
    """The agreement of outputs that are `apart` by a share of their largest value.

    Raises FolderError where one of them is further apart than `bound`, or not a number.
    """
    worst = max(
        apart,
        key=lambda name: float("inf") if apart[name] != apart[name] else apart[name],
    )
    if not apart[worst] <= bound:
        raise FolderError(
            f"what was written does not give the model's outputs in {where}: {worst} differ by"
            f" {apart[worst]:.1e} of their largest value (allowed {bound:.0e}); nothing was kept"
        )
    return Agreement(apart=apart[worst], bound=bound, outputs=tuple(sorted(apart)))


def distances(theirs: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far each of their outputs is from ours, as a share of ours' largest value."""
    return {
        name: float(np.abs(x - ours[name]).max() / np.abs(ours[name]).max())
        for name, x in theirs.items()
    }


def own_places(model: Model) -> list[Place]:
    """Every parameter as one tensor of our shape, called by its path with dots."""
    shapes = slots(model)
    table = [Row(path, path.replace("/", "."), slot.letters) for path, slot in shapes.items()]
    return places(table, shapes)


def write_own_weights(part: Path, model: Model, params: Tree, *, dtype: str) -> dict[str, int]:
    """model.safetensors with our own names and shapes; {name: crc32}.

    Raises FolderError for params that are not the model's, or not finite in `dtype`.
    """
    found = own_places(model)
    fits(found, params)
    return write_weights(part, found, flat(params), dtype=dtype, max_shard_bytes=WHOLE, copies={})


def fits(found: list[Place], params: Tree) -> None:
    """Raise FolderError unless `params` are those that a table names, in these shapes."""
    given = flat(params)
    wanted = {
        path: slot for place in found for path, slot in zip(place.ours, place.slots, strict=True)
    }
    if given.keys() != wanted.keys():
        differ = ", ".join(sorted(given.keys() ^ wanted.keys())[:5])
        raise FolderError(f"these parameters are not those of the config: {differ}")
    for path, slot in wanted.items():
        if tuple(given[path].shape) != slot.shape:
            raise FolderError(f"{path} has shape {list(given[path].shape)}, and not {slot}")


def write_tokenizer(
    part: Path, tokenizer: GivenTokenizer, config: ModelConfig, *, model_type: str
) -> dict[str, int]:
    """The tokenizer's published files, where there is one; the special ids it has."""
    made = files_of(tokenizer, model_type=model_type, vocab=config.vocab, longest=config.longest)
    for name, content in made.files.items():
        (part / name).write_bytes(content)
    return made.ids


def record_of(config: ModelConfig) -> Record:
    """A config's fields as JSON has them, the family first."""
    return dataclasses.asdict(config)
