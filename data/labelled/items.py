"""What of each example a row holds: texts cut, or read in windows. Pure functions of lengths.

An item is what takes a segment of a row (with several chunks: a whole row): an example, or a window
of one that is longer. Every word to be tagged and every token that may be an answer is in one.
"""

from dataclasses import dataclass

import numpy as np

from gesso.data.config import FrameConfig
from gesso.data.labelled.store import TaskStore
from gesso.data.store.base import Split


@dataclass(frozen=True)
class Items:
    """example: i64[n], its number in the store. runs: i64[n, texts, 2, 2], (start, size) of the two
    runs of tokens that are kept of each text, counted from the text's first token; the second one
    is empty unless a middle is cut out. size: i64[n], tokens of a row with the frame. lost:
    {"examples", "windows", "cut", "tokens"}, how many examples there are, in how many windows, how
    many of them lose something and how many tokens; a window loses nothing."""

    example: np.ndarray
    runs: np.ndarray
    size: np.ndarray
    lost: dict[str, int]

    def __len__(self) -> int:
        return len(self.example)


def items_of(store: TaskStore, split: Split, frame: FrameConfig, *, length: int) -> Items:
    """The items of a split's examples, in their order, for rows of `length` tokens (of all chunks).

    Raises ValueError for a length that leaves no room, and settings that this task does not have.
    """
    _check(store, frame, length)
    examples, overhead = store.examples(split), frame.overhead(store.texts)
    lengths = store.lengths[examples]
    room = length // frame.chunks - overhead
    if store.kind == "qa":
        example, runs = _windows(lengths, room, stride=frame.stride, question=frame.question)
    elif store.kind == "tag":
        example, runs = _windows(np.insert(lengths, 0, 0, 1), room, stride=room, question=0)
        runs = runs[:, 1:]
    else:
        example, runs = np.arange(len(lengths)), _cut(lengths, room * frame.chunks, frame)
    kept = runs[..., 1].sum((1, 2))
    if store.kind in ("qa", "tag"):
        # A context or sentence is read whole; of a question at most `frame.question` tokens are.
        kept_N1 = runs[..., 1].sum(2)
        lost = np.zeros(len(lengths), np.int64)
        if store.kind == "qa":
            lost[example] = lengths[example, 0] - kept_N1[:, 0]
    else:
        lost = lengths.sum(1) - kept
    chunks = np.maximum(1, -(-kept // room)) if frame.chunks > 1 else 1
    return Items(
        example=examples[example],
        runs=runs,
        size=kept + overhead * chunks,
        lost={
            "examples": len(lengths),
            "windows": len(example),
            "cut": int((lost > 0).sum()),
            "tokens": int(lost.sum()),
        },
    )


def _cut(lengths: np.ndarray, room: int, frame: FrameConfig) -> np.ndarray:
    """Runs of texts of which at most `room` tokens are kept, i64[n, texts, 2, 2]."""
    keep = np.minimum(lengths, room)
    if lengths.shape[1] == 2:
        # The longer one loses a token until both fit; the first one keeps the odd one.
        first, second = lengths[:, 0], lengths[:, 1]
        over = first + second > room
        half = room // 2
        short = np.minimum(first, second) <= half
        a = np.where(short, np.minimum(first, np.maximum(room - second, half)), room - half)
        b = np.where(short, np.minimum(second, room - a), half)
        keep = np.where(over[:, None], np.stack((a, b), 1), lengths)
    whole = {"end": keep, "start": np.zeros_like(keep)}
    head = whole.get(frame.cut, np.round(keep * frame.head_share).astype(np.int64))
    head = np.where(keep < lengths, head, keep)
    zeros = np.zeros_like(head)
    runs = np.stack((zeros, head, lengths - keep + head, keep - head), -1)
    return runs.reshape(*lengths.shape, 2, 2)


def _windows(
    lengths: np.ndarray, room: int, *, stride: int, question: int
) -> tuple[np.ndarray, np.ndarray]:
    """(example of each window, runs): a question's first tokens and every window of its context, as
    run_squad.py of google-research/bert has them."""
    asked = np.minimum(lengths[:, 0], question)
    width, step = room - asked, np.minimum(stride, room - asked)
    rest = lengths[:, 1]
    count = 1 + np.maximum(0, -(-(rest - width) // step))
    example = np.repeat(np.arange(len(lengths)), count)
    number = np.arange(len(example)) - np.repeat(np.cumsum(count) - count, count)
    start = number * step[example]
    size = np.minimum(width[example], rest[example] - start)
    runs = np.zeros((len(example), 2, 2, 2), np.int64)
    runs[:, 0, 0, 1] = asked[example]
    runs[:, 1, 0, 0], runs[:, 1, 0, 1] = start, size
    return example, runs


def _check(store: TaskStore, frame: FrameConfig, length: int) -> None:
    room = length // frame.chunks - frame.overhead(store.texts)
    least = 8 + (frame.question if store.kind == "qa" else 0)
    if room < least:
        raise ValueError(
            f"rows of {length // frame.chunks} tokens leave {room} for an example of task"
            f" {store.name!r}, which needs {least} or more; raise --length"
        )
    if frame.chunks > 1 and (store.kind in ("qa", "tag") or store.texts > 1):
        raise ValueError(
            f"objective.chunks reads one long text in windows; task {store.name!r} ({store.kind},"
            f" {store.texts} texts) has windows of its own or two texts: set it to 1"
        )
