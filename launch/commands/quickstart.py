"""`gesso quickstart`: everything once, small and explained, on a bare machine without internet."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gesso.launch.commands.evaluate.heldout import figures, show
from gesso.launch.commands.list import figures as cost
from gesso.launch.console import Figures, Refused, narration, print_json
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import Experiment
from gesso.records.quantities import duration, short

if TYPE_CHECKING:
    from gesso.data.store.base import Store

SAMPLE = "def read(path):\n    "
PROMPTS = (SAMPLE, "The ", "class ")
# Held-out rows per component: enough for two digits, and seconds on a laptop.
EVALUATED_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """From nothing to a trained language model with a report, in minutes, on a laptop.

    Uses the text that comes with Python itself, so no download: collects a corpus, trains a
    tokenizer, tokenizes, trains a small GPT-Neo, measures it on held-out documents against simpler
    models, lets it write, and makes report.html. Each stage says what it made and where. Interrupt
    it when you like: the same command continues.

    Example:
      gesso quickstart
      gesso quickstart --folder runs/longer --steps 1000
    """

    folder: str = "runs/quickstart"
    """Run folder to make or continue."""
    steps: int = 0
    """Updates of training; 0 = those of the experiment `quickstart`."""
    json: bool = False
    """Print the final figures as JSON; the explanations go to stderr either way."""

    def run(self) -> int:
        from gesso.configs import registry

        if self.steps < 0:
            raise Refused("--steps must be 1 or more, or 0 for the experiment's own number")
        overrides = {"steps": self.steps} if self.steps else {}
        experiment = registry.experiment("quickstart", overrides)
        return teach(experiment, Path(self.folder), as_json=self.json)


def teach(experiment: Experiment, folder: Path, *, as_json: bool) -> int:
    """Go through the stages; returns the exit status of the run."""
    from gesso.pretrain.folder.claim import claim

    claim(folder, experiment)  # refused now rather than after the corpus was made
    console = narration()
    began = time.monotonic()
    stage = _stage_printer(console, 6)

    stage("A corpus", "Python brings its own: sources, tests, docstrings, the language reference.")
    _corpus(console, experiment)

    stage("A tokenizer and a token store", "Text becomes integers once; training only reads them.")
    store = _store(console, experiment)

    stage("A model, trained", "A small GPT-Neo learns to predict the next token.")
    _costs(console, experiment, store)
    from gesso.pretrain.session import run

    result = run(experiment, folder=folder)
    if result.status != DONE:
        return result.status

    stage("Measured", "On documents it has never seen, against models without a neural network.")
    found = _measure(console, folder, experiment)

    stage("It writes", "Continuations of three prompts, with a key/value cache.")
    texts = _samples(console, folder)

    stage("A report", "Everything above on one page, to look at and to pass on.")
    from gesso.reports.report import write_report

    page = write_report([folder], folder / "report.html")
    console.print(f"[bold green]{escape(str(page))}[/]  (open it in a browser)")
    seconds = time.monotonic() - began
    _next(console, folder, seconds)
    if as_json:
        print_json({"seconds": seconds, "report": page, "evaluation": found, "samples": texts})
    return DONE


def _stage_printer(console: Console, count: int) -> Callable[[str, str], None]:
    number = 0

    def stage(title: str, explanation: str) -> None:
        nonlocal number
        number += 1
        console.print()
        console.rule(f"[bold]{number}/{count}  {title}", align="left")
        console.print(explanation, style="italic dim")

    return stage


def _say_made(console: Console, what: str, where: object) -> None:
    console.print(f"[green]made[/] {what}: {escape(str(where))}")


def _corpus(console: Console, experiment: Experiment) -> None:
    from gesso.data.embedded.corpus import corpus_shards, parse_store

    asked = parse_store(experiment.data.store)
    if asked is None:
        console.print(f"(this run reads {escape(experiment.data.store)} instead)")
        return
    shards = corpus_shards(asked.megabytes)
    record = json.loads((shards[0].parent / "corpus.json").read_text())
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("component", style="cyan")
    table.add_column("documents", justify="right")
    table.add_column("megabytes", justify="right")
    for name, counts in record["components"].items():
        table.add_row(name, f"{counts['documents']:,}", f"{counts['bytes'] / 1e6:,.1f}")
    console.print(table)
    _say_made(console, f"{len(shards)} shards in The Pile's format (.jsonl.zst)", shards[0].parent)


def _store(console: Console, experiment: Experiment) -> "Store":
    from gesso.data.embedded.corpus import ensure_store
    from gesso.data.open import open_store

    store = open_store(
        ensure_store(experiment.data.store, progress=lambda line: _say(console, line))
    )
    tokenizer = store.tokenizer()
    ids = tokenizer.encode(SAMPLE)
    pieces = " ".join(f"[reverse]{escape(_visible(tokenizer.decode([i])))}[/]" for i in ids)
    console.print(f"{len(SAMPLE)} characters are {len(ids)} tokens:  {pieces}")
    totals = store.totals()
    trained, held = (
        {unit: sum(each[split][unit] for each in totals.values()) for unit in ("tokens", "bytes")}
        for split in ("train", "holdout")
    )
    per_token = trained["bytes"] / max(trained["tokens"], 1)
    console.print(
        f"{short(trained['tokens'])} tokens to train on and {short(held['tokens'])} held out,"
        f" chosen by a hash of the text; {per_token:.2f} bytes a token"
    )
    _say_made(
        console,
        f"a {tokenizer.kind} tokenizer, {tokenizer.vocab_size:,} ids",
        store.folder / "tokenizer",
    )
    _say_made(console, "a token store", store.folder)
    return store


def _costs(console: Console, experiment: Experiment, store: "Store") -> None:
    row = cost(experiment)
    tokens = experiment.steps * row["batch_tokens"]
    available = sum(each["train"]["tokens"] for each in store.totals().values())
    console.print(
        f"{short(row['parameters'])} parameters; {experiment.steps:,} steps of"
        f" {experiment.batch} rows x {experiment.length} tokens = {short(tokens)} tokens"
        f" ({tokens / max(available, 1):.0%} of the store, each row a function of its number);"
        f" {short(tokens * row['flops_per_token'])} FLOPs in all"
    )


def _measure(console: Console, folder: Path, experiment: Experiment) -> Figures:
    found = figures(folder, rows=EVALUATED_ROWS, batch=experiment.batch)
    show(found, title="", console=console)
    ours, ladder = found["bits_per_byte"], found["baselines"]
    best = min(ladder.values())
    verdict = "better" if ours < best else "worse"
    console.print(
        f"{ours:.3f} bits per byte, {abs(1 - ours / best):.0%} {verdict} than the better baseline"
        f" ({best:.3f}). Plain text costs 8.",
        style="bold green" if ours < best else "bold yellow",
    )
    return found


def _samples(console: Console, folder: Path) -> dict[str, str]:
    from gesso.evaluation.generation.decoder import generate
    from gesso.pretrain.open import open_run

    run = open_run(folder)
    texts = generate(
        run.model,
        run.params,
        run.tokenizer,
        list(PROMPTS),
        max_tokens=96,
        temperature=0.7,
        top_p=0.95,
        seed=0,
    )
    for prompt, text in zip(PROMPTS, texts, strict=True):
        console.print(f"[bold cyan]{escape(prompt)}[/]{escape(text)}\n")
    return dict(zip(PROMPTS, texts, strict=True))


def _next(console: Console, folder: Path, seconds: float) -> None:
    console.print(f"\n[bold]Done in {duration(seconds)}.[/] What to try next:")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    for command, what in (
        (f'gesso generate {folder} --prompt "import " --stream', "let it write, token by token"),
        ("gesso quickstart --folder runs/longer --steps 2000", "train longer"),
        ("gesso pretrain quickstart --help", "every setting, with what it is now"),
        ("gesso corpus build my/*.txt --folder my-store", "your own text"),
        ("gesso list", "the published models, ready to train"),
    ):
        table.add_row(f"[cyan]{escape(command)}[/]", what)
    console.print(table)


def _say(console: Console, line: str) -> None:
    console.print(escape(line), style="dim")


def _visible(piece: str) -> str:
    return piece.replace("\n", "\\n").replace(" ", "·") or "·"
