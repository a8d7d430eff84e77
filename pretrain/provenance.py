"""What a run folder says beside its metrics: experiment, environment, parameters, corpus."""

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from gesso.models.trees import flat
from gesso.partitioning.hosts.processes import Hosts
from gesso.pretrain.experiment import to_json
from gesso.pretrain.folder.claim import environment
from gesso.pretrain.origins.parameters import WarmStart, lines_of, table_of
from gesso.pretrain.setup import Setup
from gesso.records.spans import read_spans
from gesso.records.stragglers import host_times, verdicts
from gesso.storage.files import write_json

LOG = logging.getLogger("gesso")


def write_records(
    folder: Path, setups: Sequence[Setup], hosts: Hosts, start: WarmStart | None
) -> None:
    """Write experiment.json, environment.json, parameters.json, corpus.json, tokenizer/ and, of a
    run that starts from others, start.json. setups: one per phase or stage. By process 0."""
    from gesso.data.tokenizers.load import save_tokenizer

    setup = setups[-1]
    write_json(folder / "experiment.json", to_json(setup.experiment))
    write_json(folder / "environment.json", environment(jax.devices(), hosts.count))
    write_json(folder / "parameters.json", parameter_table(setup))
    if not (folder / "tokenizer").exists():
        save_tokenizer(setup.tokenizer, folder / "tokenizer")
    write_corpus(folder, setup)
    if start is not None:
        _write_start(folder, setups, start)


def _write_start(folder: Path, setups: Sequence[Setup], start: WarmStart) -> None:
    """Write start.json and log its table: of every parameter where it comes from and what of it is
    trained. setups: one per stage."""
    trained = {row["name"]: _training_of(row, setups) for row in parameter_table(setups[-1])}
    rows = table_of(start, trained)
    sources = {
        side or "source": {"run": str(each.run), "step": each.step}
        for side, each in start.sources.items()
    }
    write_json(
        folder / "start.json",
        {"sources": sources, "parameters": rows, "left": list(start.left)},
    )
    for side, each in sources.items():
        LOG.info("%s: step %d of %s", side, each["step"], each["run"])
    for line in lines_of(rows):
        LOG.info("%s", line)
    if (kind := setups[-1].experiment.adapter.kind) != "none":
        trained = flat(setups[-1].abstract["params"])
        count = sum(x.size for x in trained.values())
        whole = sum(math.prod(row["shape"]) for row in rows)
        LOG.info("%s: %s parameters trained beside %s", kind, f"{count:,}", f"{whole:,}")
    if start.left:
        LOG.info("not taken from there: %s", ", ".join(start.left))


def _training_of(row: dict[str, Any], setups: Sequence[Setup]) -> str:
    """How much of a parameter each stage trains: "frozen", "trained", or of how many of its layers,
    "top 2"; one word where all stages agree."""
    amounts = []
    for setup in setups:
        trained = flat(setup.abstract["params"]).get(row["name"])
        if trained is None:
            amounts.append("frozen")
        elif trained.size == row["count"]:
            amounts.append("trained")
        else:
            amounts.append(f"top {trained.shape[0]}")
    return amounts[0] if len(set(amounts)) == 1 else " > ".join(amounts)


def parameter_table(s: Setup) -> list[dict[str, Any]]:
    """[{"name", "shape", "letters", "count", "trained"}] in tree order; trained: how many of count
    are."""
    letters = flat(s.model.letters) | flat(s.parts.letters)
    trained, frozen = flat(s.abstract["params"]), flat(s.abstract.get("frozen", {}))
    table = []
    for name, each in letters.items():
        here = [tree[name].shape for tree in (frozen, trained) if name in tree]
        shape = [sum(x[0] for x in here), *here[0][1:]] if here[0] else []
        size = trained[name].size if name in trained else 0
        count = math.prod(shape)
        table.append(
            {"name": name, "shape": shape, "letters": each, "count": count, "trained": size}
        )
    return table


def write_corpus(folder: Path, setup: Setup) -> None:
    """What the run reads, for the report; figures already there (baselines) are kept."""
    path, store = folder / "corpus.json", setup.store
    known = json.loads(path.read_text()) if path.exists() else {}
    padding = setup.order.padding()
    facts = {
        "store": store.fingerprint,
        "components": store.totals(),
        "duplicates": store.duplicates(),
        "rejects": store.rejects(),
        "padding": padding if math.isfinite(padding) else None,
        "tokenizer": {
            "kind": setup.tokenizer.kind,
            "vocab_size": setup.tokenizer.vocab_size,
            "fingerprint": setup.tokenizer.fingerprint,
        },
    }
    write_json(path, known | facts)


def write_last_records(folder: Path, setup: Setup, *, baselines: bool) -> None:
    """What a finished run adds: its corpus as it is now, baselines where they are asked for, what
    was slow, and report.html."""
    from gesso.reports.report import write_report

    write_corpus(folder, setup)
    if baselines:
        write_baselines(folder, setup)
    for verdict in verdicts(host_times(read_spans(folder))):
        LOG.warning("%s", verdict)
    page = write_report([folder], folder / "report.html")
    LOG.info("report: %s", page)


def write_baselines(folder: Path, setup: Setup) -> None:
    """Add to corpus.json what a unigram model and a byte 3-gram reach on the same held-out text,
    where the objective predicts texts whole. (Its evaluations have the unigram model of each term;
    a store of instruction examples has no text that is predicted whole.)
    """
    from gesso.data.store.base import TextStore
    from gesso.evaluation.heldout.baselines import baselines
    from gesso.evaluation.heldout.perplexity import predicts_whole_texts

    if not predicts_whole_texts(setup.objective) or not isinstance(setup.store, TextStore):
        return
    path = folder / "corpus.json"
    known = json.loads(path.read_text())
    measured = baselines(
        setup.store,
        length=setup.experiment.length,
        overlap=setup.objective.overlap,
        rows=setup.experiment.evaluation.rows,
    )
    write_json(path, known | {"baselines": measured})


@contextlib.contextmanager
def logging_to(folder: Path, hosts: Hosts) -> Iterator[None]:
    """Messages of this process go to log.txt (log.K.txt for process K > 0), and to stderr of
    process 0."""
    from rich.console import Console
    from rich.logging import RichHandler

    folder.mkdir(parents=True, exist_ok=True)
    name = "log.txt" if hosts.process == 0 else f"log.{hosts.process}.txt"
    to_file = logging.FileHandler(folder / name)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers: list[logging.Handler] = [to_file]
    if hosts.process == 0:
        screen = Console(stderr=True)  # stdout is for results
        handlers.append(RichHandler(console=screen, show_path=False, show_level=False))
    LOG.setLevel(logging.INFO)
    LOG.propagate = False  # other libraries configure the root logger
    for handler in handlers:
        LOG.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
