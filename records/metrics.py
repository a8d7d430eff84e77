"""The metrics of a run as they are made: metrics.jsonl, TensorBoard, Weights & Biases."""

import json
import math
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from gesso.records.config import LoggingConfig

Kind = Literal["train", "evaluation", "harness", "sample", "event"]
Record = dict[str, Any]

# JSON has no word for these; a NaN or infinite loss must still be on record.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@runtime_checkable
class SupportsArray(Protocol):
    """What numpy makes an array of: numpy's own numbers and arrays, and JAX's."""

    def __array__(self) -> np.ndarray: ...


class Metrics:
    """Writes one run's records (docs/metrics.md has every key) to FOLDER/metrics.jsonl, to
    TensorBoard in FOLDER/events and, where asked, to Weights & Biases.

    A record is on disk as one whole line before `write` returns, or it raises OSError and the
    file is as before. process: this one's number; only process 0 writes, in others every method
    does nothing.

    resume_step: updates already made. Records past it are of a run that was killed after its last
    checkpoint: they are dropped, for the run writes them again. Events are history and stay.
    Raises ValueError when `config.wandb` names a project and wandb is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: LoggingConfig,
        *,
        resume_step: int,
        process: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self._file = -1
        self._tensorboard: Any = None
        self._wandb: Any = None
        if process != 0:
            return
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        if config.wandb:
            self._wandb = _start_wandb(folder, config.wandb)
        dropped = _truncate(folder / "metrics.jsonl", resume_step)
        self._file = os.open(
            folder / "metrics.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644
        )
        if config.tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(
                str(folder / "events"), purge_step=resume_step + 1 if resume_step else None
            )
        if dropped:
            self.write(
                {"kind": "event", "step": resume_step, "event": "truncated", "records": dropped}
            )

    def write(self, record: Mapping[str, Any]) -> None:
        """Put one record on disk. It needs "kind" and "step"; "time" (seconds since 1970, UTC) is
        added. Numbers may be numpy's. Raises ValueError for another kind, OSError on a full disk.
        """
        if record.get("kind") not in get_args(Kind) or "step" not in record:
            raise ValueError(
                f"a record needs a step and a kind among {', '.join(get_args(Kind))}:"
                f" {sorted(record)} of kind {record.get('kind')!r}"
            )
        if self._file < 0:
            return
        record = {**_plain(record), "time": round(time.time(), 3)}
        line = json.dumps(_spell(record), ensure_ascii=False, allow_nan=False) + "\n"
        _append(self._file, line.encode())
        if self._tensorboard is not None:
            _to_tensorboard(self._tensorboard, record)
        if self._wandb is not None:
            self._wandb.log(scalars(record), step=int(record["step"]))

    def close(self) -> None:
        """Flush and close everything; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(folder: str | os.PathLike[str]) -> list[Record]:
    """The records of a run in the order written; [] when there are none. A torn line is left out.

    "NaN", "Infinity" and "-Infinity" come back as floats.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return []
    return [record for _, record in _lines(path) if record is not None]


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """{"train/loss": 2.5, "train/components/Stdlib": 2.1, ...}: the numbers of a record."""
    flat: dict[str, float] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, each in value.items():
                walk(f"{prefix}/{key}", each)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix] = float(value)

    for key, value in record.items():
        if key not in ("kind", "step", "time"):
            walk(f"{record['kind']}/{key}", value)
    return flat


def _lines(path: Path) -> list[tuple[bytes, Record | None]]:
    """Each line with its record; None where the line is torn."""
    pairs: list[tuple[bytes, Record | None]] = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            # A line without its end may be a number cut short: "12" of "123" is valid JSON.
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            record = None
        whole = isinstance(record, dict) and record.keys() >= {"kind", "step"}
        pairs.append((line, _numbers(record) if whole else None))
    return pairs


def _truncate(path: Path, resume_step: int) -> int:
    """Drop torn lines and what lies past `resume_step`; how many lines went."""
    if not path.exists():
        return 0
    lines = _lines(path)
    kept = [
        line
        for line, record in lines
        if record is not None and (record["kind"] == "event" or record["step"] <= resume_step)
    ]
    if len(kept) < len(lines):
        replacement = path.with_name(path.name + ".new")
        with replacement.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        replacement.replace(path)
    return len(lines) - len(kept)


def _append(file: int, line: bytes) -> None:
    before = os.fstat(file).st_size
    written = os.write(file, line)
    if written < len(line):
        os.ftruncate(file, before)
        raise OSError(f"the disk took {written} of {len(line)} bytes of a metrics record")


def _plain(value: Any) -> Any:
    """numpy's and JAX's numbers and arrays as Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, SupportsArray):
        return np.asarray(value).tolist()
    return value


def _spell(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spell(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_spell(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        # A sample may well consist of the text "NaN".
        return {k: v if k in ("text", "prompt") else _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return _NOT_FINITE[value] if isinstance(value, str) and value in _NOT_FINITE else value


def _to_tensorboard(writer: Any, record: Record) -> None:
    step = int(record["step"])
    for name, value in scalars(record).items():
        writer.add_scalar(name, value, step)
    if record["kind"] == "sample":
        # TensorBoard shows text as Markdown; four spaces keep a sample as it is.
        text = f"{record.get('prompt', '')}{record.get('text', '')}"
        quoted = "\n".join("    " + line for line in text.splitlines())
        writer.add_text(f"sample/{record.get('prompt', '')}", quoted, step)


def _start_wandb(folder: Path, project: str) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"logging.wandb asks for Weights & Biases project {project!r}, but wandb is not"
            " installed: pip install 'gesso[wandb]', or leave logging.wandb empty"
        ) from None
    # One id per run folder, so that a restart continues the same curves.
    id_file = folder / "wandb_id"
    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:16])
    return wandb.init(
        project=project, name=folder.name, id=id_file.read_text(), dir=str(folder), resume="allow"
    )
