"""Instruction tuning in packed rows beside one example per row: predicted tokens per second.

    python -m benchmarks.packed --data FOLDER [--length 1024 --batch 8] [--page docs/performance.md]

FOLDER/self_instruct holds seed_tasks.jsonl and user_oriented_instructions.jsonl of
github.com/yizhongw/self-instruct (427 instructions), which are rendered in four ways each and
tokenized by a BPE of 4096 ids trained on them. --store takes any other store of `gesso instructions
build`. Prints one JSON document, and with --page writes it into that page.

packed: rows as runs have them. row: the same examples, one in each row, padded to the row's length,
which is what a step of one shape asks for. longest: the same batches, padded to the longest example
in them, rounded up to a power of two: a compiled step per length. Each way runs the compiled
training step of the same model; steps of all shapes are taken in turn in one process, and a shape
has the median of its times. per_second: tokens with a loss in one pass over the examples, over what
its batches take, a last, smaller one as much as a whole one. padding: the share of positions
without a token.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import ROOT, machine, versions
from benchmarks.downstream.commands import Commands
from benchmarks.page import table, write_section
from gesso.configs import experiment
from gesso.data.instructions.rows import fit, rows_of
from gesso.data.instructions.store import InstructionStore
from gesso.data.order.pack import best_fit_grouped
from gesso.pretrain.setup import Setup, compile_step_of, set_up
from gesso.pretrain.state import init_state

FILES = ("seed_tasks.jsonl", "user_oriented_instructions.jsonl")
MODEL = {"model.layers": 2, "model.embed": 128, "model.heads": 4, "model.mlp": 512}
SHORTEST = 64
Arrays = Mapping[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path, help="the folder with self_instruct/")
    given.add_argument("--store", type=Path, help="of gesso instructions build")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--page", type=Path, help="docs/performance.md")
    asked = parser.parse_args()
    if missing := [
        path for name in FILES if asked.data and not (path := _file(asked.data, name)).is_file()
    ]:
        parser.error(f"there is no {missing[0]}")
    with tempfile.TemporaryDirectory() as place:
        store = asked.store or built(asked.data, Path(place))
        found = measure(
            InstructionStore(store), length=asked.length, batch=asked.batch, turns=asked.turns
        )
    found |= {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions()}
    print(json.dumps(found, indent=1))
    if asked.page:
        write_section(asked.page, "packed", markdown(found))
        results = ROOT / "benchmarks" / "results" / "packed.json"
        results.write_text(json.dumps(found, indent=1) + "\n")


def built(data: Path, folder: Path) -> Path:
    """The store of both files of Self-Instruct, by gesso's commands."""
    commands = Commands(log=folder / "log.txt")
    files = [_file(data, name).resolve() for name in FILES]
    texts = folder / "texts.jsonl"
    records = [json.loads(line) for each in files for line in each.read_text().splitlines()]
    texts.write_text("".join(json.dumps({"text": _text(each)}) + "\n" for each in records))
    commands.tokenizer(folder / "tokenizer", [texts], vocab=4096)
    sources = [f'[[sources]]\npath = "{each}"\nformat = "self_instruct"\n' for each in files]
    recipe = folder / "recipe.toml"
    recipe.write_text("\n".join([f'tokenizer = "{folder / "tokenizer"}"', *sources]))
    commands("instructions", "build", recipe, "--folder", folder / "store")
    return folder / "store"


def measure(
    store: InstructionStore, *, length: int, batch: int, turns: int, model: Any = None
) -> dict[str, Any]:
    """{"ways": {"packed", "row", "longest": {"per_second", "padding", "rows", "positions"}},
    "ratio": packed over the others, "loss_tokens", "examples", ...} of one pass over a store."""
    settings = {
        "data.store": str(store.folder),
        "model.vocab": store.tokenizer().vocab_size,
        "model.positions": length,
        **(model or MODEL),
        "batch": batch,
    }
    setups = {
        size: set_up(experiment("flan", {**settings, "length": size}), store=store)
        for size in _sizes(length)
    }
    whole = setups[length]
    ways = {name: list(make(whole, batch)) for name, make in WAYS.items()}
    losses = {
        name: sum(int((each["lm_weight"] > 0).sum()) for each in batches)
        for name, batches in ways.items()
    }
    if len(set(losses.values())) != 1:
        raise SystemExit(f"not the same examples: tokens with a loss {losses}")
    seconds = _step_seconds(setups, ways, turns=turns)
    found: dict[str, Any] = {}
    for name, batches in ways.items():
        positions = sum(each["tokens"].size for each in batches)
        took = sum(seconds[each["tokens"].shape[1]] for each in batches)
        real = sum(int((each["segments"] > 0).sum()) for each in batches)
        found[name] = {
            "per_second": round(losses[name] / took, 1),
            "padding": round(1 - real / positions, 4),
            "rows": sum(len(each["tokens"]) for each in batches),
            "positions": positions,
        }
    packed = found["packed"]["per_second"]
    order: Any = whole.order
    return {
        "ratio": {
            name: round(packed / each["per_second"], 2)
            for name, each in found.items()
            if name != "packed"
        },
        "ways": found,
        "loss_tokens": losses["packed"],
        "examples": order.pass_examples,
        "seconds_per_step": {str(size): round(each, 4) for size, each in seconds.items()},
        "length": length,
        "batch": batch,
    }


def _sizes(length: int) -> list[int]:
    sizes = [length]
    while sizes[-1] > SHORTEST:
        sizes.append(sizes[-1] // 2)
    return sizes


def _packed(s: Setup, batch: int) -> Iterator[Arrays]:
    """As runs have them: best fit, each cluster in rows of its own."""
    pieces, component = _drawn(s)
    row, rows = best_fit_grouped(_kept(s, pieces), component, length=_length(s))
    by_row = np.argsort(row, kind="stable")
    count = np.bincount(row, minlength=len(rows))
    last = np.cumsum(count)
    for at in range(0, len(rows), batch):
        these = slice(at, at + batch)
        of_rows = pieces[by_row][last[at] - count[at] : last[these][-1]]
        yield _rows(s, of_rows, count[these], length=_length(s))


def _alone(s: Setup, batch: int) -> Iterator[Arrays]:
    """One example a row, padded to the row's length."""
    pieces, _ = _drawn(s)
    for at in range(0, len(pieces), batch):
        these = pieces[at : at + batch]
        yield _rows(s, these, np.ones(len(these), np.int64), length=_length(s))


def _longest(s: Setup, batch: int) -> Iterator[Arrays]:
    """The same, cut to the power of two that the longest of a batch fits in."""
    for each in _alone(s, batch):
        longest = int((each["segments"] > 0).sum(1).max())
        size = min(size for size in _sizes(s.experiment.length) if size >= longest)
        yield {name: x[:, :size] if x.ndim == 2 else x for name, x in each.items()}


WAYS = {"packed": _packed, "row": _alone, "longest": _longest}


def _drawn(s: Setup) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of a run's first pass, and the cluster of each."""
    order: Any = s.order
    task, pieces = order.draws.locate(np.arange(order.pass_examples))
    names = [s.store.tasks.components[each] for each in task]
    return pieces, np.unique(names, return_inverse=True)[1]


def _kept(s: Setup, pieces: np.ndarray) -> np.ndarray:
    heads, lengths = s.store.heads[pieces], s.store.lengths[pieces]
    return fit(heads, lengths, length=_length(s)).lengths


def _rows(s: Setup, pieces: np.ndarray, count: np.ndarray, *, length: int) -> Arrays:
    made = rows_of(
        s.store, pieces, count, length=length, room=length, examples=s.experiment.data.examples
    )
    made = s.objective.host_batch(made | {"component": np.zeros(len(count), np.int32)})
    return made | {"row_crc": np.zeros(len(count), np.uint32)}  # what a loader adds


def _length(s: Setup) -> int:
    """Tokens of a row in the store: one more than it predicts."""
    return s.objective.row_length(s.experiment.length)


def _step_seconds(
    setups: Mapping[int, Setup], ways: Mapping[str, list[Arrays]], *, turns: int
) -> dict[int, float]:
    """{length: the median seconds of a step}, of steps of all lengths that occur, in turn."""
    batches = {each["tokens"].shape[1]: each for way in ways.values() for each in way[:-1] or way}
    steps = {size: compile_step_of(setups[size]) for size in batches}
    first = next(iter(setups.values()))
    state = init_state(first.model, first.optimizer, seed=0, mesh=first.mesh, layout=first.layout)
    seconds: dict[int, list[float]] = {size: [] for size in batches}
    for turn in range(-1, turns):  # one turn warms up and is not counted
        for size, batch in batches.items():
            start = time.perf_counter()
            state, metrics = steps[size](state, batch)
            float(metrics["loss"])
            if turn >= 0:
                seconds[size].append(time.perf_counter() - start)
    return {size: statistics.median(each) for size, each in seconds.items()}


def markdown(found: Mapping[str, Any]) -> str:
    """The section of docs/performance.md."""
    said = {
        "packed": "packed rows",
        "row": "one example a row, padded to the row's length",
        "longest": "one example a row, padded to the longest of its batch (a power of two)",
    }
    rows = [
        [
            said[name],
            f"{each['per_second']:,.0f}",
            f"{each['padding']:.1%}",
            f"{each['rows']:,} x {each['positions'] / each['rows']:,.0f}",
            f"{found['ratio'][name]:.1f} x" if name in found["ratio"] else "",
        ]
        for name, each in found["ways"].items()
    ]
    head = ["", "predicted tokens per second", "padding", "rows", "packed is"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{table(head, rows)}\n\nOne pass over {found['examples']:,} examples of Self-Instruct"
        f" ({found['loss_tokens']:,} tokens with a loss), rows of {found['length']:,}, batches of"
        f" {found['batch']}, the same compiled step of 2 layers of 128. Target: at least 5 times"
        f" padded batches, {'met' if found['ratio']['row'] >= 5 else 'NOT MET'} beside rows of one"
        f" shape. `python -m benchmarks.packed --data FOLDER`, {found['date']},"
        f" {found['machine']}; {versions}."
    )


def _file(data: Path, name: str) -> Path:
    return data / "self_instruct" / name


def _text(record: Mapping[str, Any]) -> str:
    asked = [f"{each['input']}\n{each['output']}" for each in record["instances"]]
    return "\n".join([record["instruction"], *asked])


if __name__ == "__main__":
    main()
