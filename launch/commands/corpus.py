"""`gesso corpus build|inspect|verify`: raw text to a token store; what is in one; proof of it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import tyro

from gesso.data.config import BuildConfig
from gesso.launch.console import Refused, narration, output, print_json
from gesso.pretrain.exits import DONE, FAILED

if TYPE_CHECKING:
    from gesso.data.store.base import Store, TextStore
    from gesso.data.store.build_report import BuildReport
    from gesso.data.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Build(BuildConfig):
    """Tokenize raw text, once, into a token store that training reads.

    The same command after an interruption continues where it was. Training may start as soon as
    the first parts are there. Bad records are set aside and counted, never silently dropped.

    Example:
      gesso corpus build pile/*.jsonl.zst --folder pile-store --tokenizer gpt2 --workers 16
      gesso corpus build Books=books/**/*.txt Web=web.parquet --folder mine --tokenizer bytes
      gesso corpus build tfds:lm1b:train --folder lm1b-store --tokenizer my-tokenizer
    """

    sources: tyro.conf.Positional[tuple[str, ...]]
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        if not self.sources:
            raise Refused("say what to read: gesso corpus build SOURCE... --folder STORE")
        from gesso.data.store.build import build

        settings = {key: value for key, value in asdict(self).items() if key != "json"}
        report = build(**settings)
        if self.json:
            print_json(report)
        else:
            output().print(report.table())
            narration().print(_next_step(report.complete, self.folder), markup=False)
        return DONE


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a token store holds: documents, tokens and bytes by component, rejects, samples.

    It works while the store is still being built.

    Example:
      gesso corpus inspect pile-store
      gesso corpus inspect pile-store --samples 0 --json
    """

    store: tyro.conf.Positional[str]
    """Token store, or embedded:KIND[:MEGABYTES]."""
    samples: int = 1
    """Documents of each component to show."""
    characters: int = 240
    """Characters of each document to show."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        from gesso.data.store.base import TextStore
        from gesso.data.store.build_report import BuildReport

        store = _open(self.store)
        if not isinstance(store, TextStore):
            raise Refused(f"{self.store} is a store of examples: gesso {store.holds} inspect")
        report = BuildReport.of(store, seconds=0)
        tokenizer = store.tokenizer()
        samples = {
            name: list(_documents(store, tokenizer, name, self.samples, self.characters))
            for name in report.totals
        }
        if self.json:
            facts = {key: value for key, value in asdict(report).items() if key != "seconds"}
            described = {
                "kind": tokenizer.kind,
                "vocab_size": tokenizer.vocab_size,
                "fingerprint": tokenizer.fingerprint,
            }
            print_json({**facts, "tokenizer": described, "samples": samples})
            return DONE
        _show(report, tokenizer, samples)
        return DONE


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read a whole token store again and prove it: checksums, counts, every line accounted for.

    Ends with status 0 and one line when all is well, with 1 and the problems when it is not.

    Example:
      gesso corpus verify pile-store
    """

    store: tyro.conf.Positional[str]
    """Token store, or embedded:KIND[:MEGABYTES]."""
    json: bool = False
    """Print the problems as JSON."""

    def run(self) -> int:
        store = _open(self.store)
        problems = store.verify()
        if self.json:
            print_json({"folder": store.folder, "complete": store.complete, "problems": problems})
        else:
            for problem in problems:
                output().print(problem, markup=False)
            state = "whole" if store.complete else "whole so far (still being built)"
            verdict = f"{len(problems)} problem(s) in" if problems else f"{state}:"
            output().print(f"{verdict} {store.folder}", markup=False)
        return FAILED if problems else DONE


def _open(spec: str) -> "Store":
    from gesso.data.embedded.corpus import ensure_store
    from gesso.data.open import open_store

    return open_store(ensure_store(spec, progress=narration().print))


def _next_step(complete: bool, folder: str) -> str:
    if not complete:
        return "The other builders' shards are still missing; training can already read this store."
    return f"Next: gesso pretrain gpt-neo-125m --data.store {folder} (gesso list shows more)"


def _documents(
    store: "TextStore", tokenizer: "Tokenizer", component: str, count: int, characters: int
) -> Iterator[str]:
    """The beginnings of the first `count` training documents of a component."""
    number, left = 0, count
    while left > 0 and (era := store.era(number)) is not None:
        lengths = era.lengths(component, "train")[:left]
        starts = np.cumsum(lengths) - lengths
        for start, length in zip(starts, lengths, strict=True):
            # A character is at most a handful of tokens; the end of a document is not shown.
            shown = min(int(length) - 1, 6 * characters)
            ids = era.read(component, "train", np.array([start]), np.array([shown]))
            yield tokenizer.decode(ids)[:characters]
        left -= len(lengths)
        number += 1


def _show(report: "BuildReport", tokenizer: "Tokenizer", samples: dict[str, list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = output()
    console.print(report.table())
    console.print(
        f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} ids, {tokenizer.fingerprint[:12]}",
        markup=False,
    )
    if report.rejects:
        refused = Table(title="refused records", title_justify="left", box=None)
        refused.add_column("reason")
        refused.add_column("records", justify="right")
        for reason, records in report.rejects.items():
            refused.add_row(reason, f"{records:,}")
        console.print(refused)
    for name, texts in samples.items():
        for text in texts:
            console.print(Text(f"\n{name}", style="bold cyan"))
            console.print(Text(text))
