"""`gesso evaluate RUN --choices FILE` and `--answers FILE|STORE`: questions in a file or held-out
instruction examples, one run or two."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gesso.launch.commands.evaluate.run import needs, open_placed, progress
from gesso.launch.console import Figures, Refused, existing, narration, output

_LIBRARIES = {"bleu": "sacrebleu", "rouge": "rouge_score"}


def choices(
    folder: Path, file: str, *, step: int | None, limit: int, premise: str, against: Path | None
) -> Figures:
    """evaluation.questions.choice_metrics of a file's questions, "step" and, where there is another
    run to compare with, "against" (its folder) and "compared"."""
    path = existing(file, what="file of questions")
    from gesso.evaluation.questions.files import read_questions

    questions, groups = read_questions(path, limit=limit)
    from gesso.evaluation.questions.choice_metrics import choice_metrics, choices_compared
    from gesso.evaluation.questions.choices import score_choices
    from gesso.pretrain.placeholders import refuse_crowded_texts

    def score(of: Path, at: int | None) -> tuple[Any, int]:
        opened = open_placed(of, step=at)
        run = opened.run
        texts = (each.prompt + option for each in questions for option in each.options)
        refuse_crowded_texts(texts, run.experiment.adapter, run.tokenizer)
        count = sum(len(each.options) for each in questions)
        with progress("options", count) as told:
            scores = score_choices(
                run.model,
                opened.params,
                run.tokenizer,
                questions,
                premise=premise or None,
                objective=opened.objective,
                compute=opened.compute,
                told=told,
            )
        return scores, run.step

    scores, at = score(folder, step)
    found = choice_metrics(questions, scores, groups) | {"step": at}
    if against is None:
        return found
    other, other_at = score(against, None)
    return found | {
        "against": str(against),
        "against_step": other_at,
        "compared": choices_compared(questions, other, scores, groups),
    }


def answers(
    folder: Path,
    asked: str,
    *,
    step: int | None,
    limit: int,
    components: Sequence[str] | None,
    scores: Sequence[Any],
    max_tokens: int,
    stops: Sequence[str],
    against: Path | None,
) -> Figures:
    """{"scores": evaluation.questions.answer_metrics of a file's exercises, "written": [the
    answers], "exercises", "groups", "cut", "step"} and, where there is another run to compare with,
    "against" (its folder) and "compared".

    asked: a file, or what launch/commands/evaluate/stores.py takes for a store of instruction
    examples; of its held-out ones also "components", {cluster: scores}.
    """
    needs(*(_LIBRARIES[name] for name in scores if name in _LIBRARIES))
    exercises, groups, clusters = _exercises(folder, asked, limit=limit, components=components)
    if "number" in scores:
        from gesso.evaluation.questions.answer_metrics import with_numbers

        with_numbers(exercises)
    from gesso.evaluation.generation.answering import write_answers
    from gesso.evaluation.questions.answer_metrics import answer_metrics, answers_compared
    from gesso.pretrain.placeholders import refuse_crowded_texts

    def write(of: Path, at: int | None) -> tuple[Any, int]:
        opened = open_placed(of, step=at)
        run = opened.run
        if clusters and run.tokenizer.fingerprint != tokenizer_of(folder):
            raise Refused(
                f"{of} has another tokenizer than {folder}, and the examples of {asked} are tokens;"
                " compare runs of one tokenizer, or give a file of exercises"
            )
        prompts = [each.prompt for each in exercises]
        refuse_crowded_texts(prompts, run.experiment.adapter, run.tokenizer)
        with progress("answers", len(exercises)) as told:
            made = write_answers(
                run.model,
                opened.params,
                run.tokenizer,
                prompts,
                max_tokens=max_tokens,
                stops=tuple(stops),
                objective=opened.objective,
                compute=opened.compute,
                told=told,
            )
        return made, run.step

    made, at = write(folder, step)
    found = {
        "scores": answer_metrics(exercises, made.texts, scores, groups),
        "written": made.texts,
        "exercises": len(exercises),
        "groups": len(set(groups)) if groups is not None else len(exercises),
        "cut": made.cut,
        "step": at,
    }
    if clusters:
        found["components"] = _by_cluster(clusters, exercises, made.texts, scores)
    if against is None:
        return found
    other, other_at = write(against, None)
    return found | {
        "against": str(against),
        "against_step": other_at,
        "compared": answers_compared(exercises, other.texts, made.texts, scores, groups),
    }


def tokenizer_of(folder: Path) -> str:
    """The fingerprint of a run's tokenizer."""
    from gesso.data.tokenizers.load import load_tokenizer

    return load_tokenizer(folder / "tokenizer").fingerprint


def _exercises(
    folder: Path, asked: str, *, limit: int, components: Sequence[str] | None
) -> tuple[list[Any], Any, list[str]]:
    """(exercises, their groups or None, the cluster of each or [])."""
    if Path(asked).is_file() or asked.endswith(".jsonl"):
        path = existing(asked, what="file of exercises")
        if components:
            raise Refused("--components are those of a store; a file of exercises has none")
        from gesso.evaluation.questions.files import read_exercises

        return *read_exercises(path, limit=limit), []
    from gesso.evaluation.questions.exercises import heldout_exercises
    from gesso.launch.commands.evaluate.stores import named_store, refuse_other_tokenizer

    store = named_store(asked, what="file of exercises or store of instructions")
    refuse_other_tokenizer(store, asked, tokenizer=tokenizer_of(folder), folder=folder)
    exercises, clusters = heldout_exercises(store, components=components, limit=limit)
    return exercises, None, clusters


def _by_cluster(
    clusters: Sequence[str], exercises: Sequence[Any], texts: Sequence[str], scores: Sequence[Any]
) -> Figures:
    """{cluster: answer_metrics}, of clusters with 2 examples or more."""
    from gesso.evaluation.questions.answer_metrics import answer_metrics

    places = {name: [i for i, of in enumerate(clusters) if of == name] for name in set(clusters)}
    return {
        name: answer_metrics([exercises[i] for i in at], [texts[i] for i in at], scores)
        for name, at in sorted(places.items())
        if len(at) > 1
    }


def show_choices(found: Figures, *, title: str, console: Console | None = None) -> None:
    """A row per rule, what chance gives, and the comparison with another run."""
    console = console or output()
    table = _table(title, "rule", "right", "95% interval", "tied", "ECE", "if calibrated")
    for rule, each in found["rules"].items():
        sure, null = each["calibration"], each["calibration"]["null"]
        table.add_row(
            rule,
            f"{each['accuracy']:.1%}",
            f"{each['low']:.1%} to {each['high']:.1%}",
            f"{each['tied']:.1%}",
            f"{sure['ece']:.3f}",
            f"{null['low']:.3f} to {null['high']:.3f}",
        )
    table.add_section()
    table.add_row("chance", f"{found['chance']:.1%}", style="dim")
    table.add_row("always the same place", f"{found['commonest']:.1%}", style="dim")
    console.print(table)
    _show_rest(found, "questions", console, scale=100, unit=" points")


def show_answers(found: Figures, *, title: str, console: Console | None = None) -> None:
    """A row per score, and the comparison with another run."""
    console = console or output()
    table = _table(title, "score", "value", "95% interval")
    for name, each in found["scores"].items():
        table.add_row(name, f"{each['value']:.3f}", f"{each['low']:.3f} to {each['high']:.3f}")
    for cluster, of in found.get("components", {}).items():
        table.add_section()
        for name, each in of.items():
            ends = f"{each['low']:.3f} to {each['high']:.3f}"
            table.add_row(f"{name}, {cluster}", f"{each['value']:.3f}", ends, style="dim")
    console.print(table)
    _show_rest(found, "exercises", console, scale=1, unit="")


def _show_rest(found: Figures, what: str, console: Console, *, scale: float, unit: str) -> None:
    if "compared" in found:
        table = _table("", f"against {found['against']}", "difference", "95% interval", "p")
        for name, each in found["compared"].items():
            difference, low, high = (scale * each[key] for key in ("difference", "low", "high"))
            ends = f"{low:+.3g} to {high:+.3g}"
            table.add_row(name, f"{difference:+.3g}{unit}", ends, f"{each['p']:.3g}")
        console.print(table)
    if found["groups"] != found[what]:
        narration().print(
            f"{found[what]:,} {what} in {found['groups']:,} groups, drawn together", style="dim"
        )
    if found["cut"]:
        narration().print(
            f"{found['cut']:,} tokens at the beginnings of prompts did not fit the model"
        )


def _table(title: str, *heads: str) -> Table:
    table = Table(
        title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False
    )
    table.add_column(heads[0], style="cyan", no_wrap=True)
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def check_limit(limit: int) -> None:
    """Raises Refused for a limit that leaves fewer than two questions."""
    if limit < 0 or limit == 1:
        raise Refused("--limit must be 2 or more, for an interval; 0 = all questions")
