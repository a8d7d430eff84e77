"""`gesso evaluate RUN --contextuality`: how contextual each layer's word vectors are."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gesso.launch.commands.evaluate.run import place, progress
from gesso.launch.commands.evaluate.stores import named_store
from gesso.launch.console import Figures, Refused, existing, narration, output

_COLUMNS = {
    "self_similarity": "same word",
    "random_similarity": "random words",
    "self_over": "above random",
    "within_sentence": "within a sentence",
    "within_over": "above random",
    "explained_centred": "explained",
    "random_centred": "of random words",
}


def contextuality(
    folder: Path,
    *,
    step: int | None,
    text: str,
    store: str,
    components: Sequence[str] | None,
    sentences: int,
    batch: int,
) -> Figures:
    """evaluation.contextuality.contextuality of a run, "left_out" (sentences, by reason) and
    "step".

    text: a file with a sentence a line; else held-out text of a store, the run's by default.
    """
    if sentences < 2 or batch < 1:
        raise Refused("--sentences must be at least 2, and --batch 1 or more")
    if text and (store or components):
        raise Refused("--text is a file of sentences, --store and --components are held-out text")
    if text:
        existing(text, what="file of sentences")
    from gesso.evaluation.contextuality import contextuality as measure
    from gesso.evaluation.contextuality.sentences import heldout_sentences, plan, read_sentences
    from gesso.pretrain.open import open_run

    run = open_run(folder, step=step)
    if text:
        lines = Path(text).read_text(encoding="utf-8", errors="replace").splitlines()
        texts = [line for line in lines if line.strip()][:sentences]
    else:
        opened = named_store(store) if store else run.store()
        texts = list(heldout_sentences(opened, components=components, most=sentences))
    longest = min(run.model.config.longest or run.experiment.length, 512)
    framed = run.experiment.model.architecture == "encoder"
    read = read_sentences(texts, run.tokenizer, longest=longest, framed=framed)
    if len(read.sentences) < 2:
        raise Refused(
            f"of {len(texts)} sentences {len(read.sentences)} can be read ({read.short} have fewer"
            f" than two words, {read.repeated} are repeated, {read.unclear} have words that the"
            " tokenizer does not keep apart); give others with --text"
        )
    plan(read.sentences, **measure.SETTINGS)  # refuses before a device is touched
    on_devices = place(run, folder)
    with progress("sentences", len(read.sentences)) as told:
        found = measure.contextuality(
            run.model,
            on_devices.params,
            run.tokenizer,
            read.sentences,
            batch=batch,
            compute=on_devices.compute,
            told=told,
        )
    left_out = {"repeated": read.repeated, "short": read.short, "unclear": read.unclear}
    return found | {"left_out": left_out, "step": run.step}


def show_contextuality(found: Figures, *, title: str, console: Console | None = None) -> None:
    """A row per layer."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for head in ("layer", *_COLUMNS.values()):
        table.add_column(head, justify="right", no_wrap=True)
    for number, each in enumerate(found["layers"]):
        table.add_row(
            str(number) if number else "embeddings", *(f"{each[name]:.3f}" for name in _COLUMNS)
        )
    (console or output()).print(table)
    narration().print(
        f"{found['words']} words in at least {found['contexts']} of {found['sentences']:,}"
        f" sentences; {', '.join(f'{n:,} {why}' for why, n in found['left_out'].items())} left out",
        style="dim",
    )
