"""`gesso evaluate RUN`: held-out figures of a run beside what it must beat, and other ways to ask
what it can do (launch/evaluate_*.py)."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import tyro

from gesso.launch.commands.report import run_folder
from gesso.launch.console import Figures, Refused, narration, print_json
from gesso.pretrain.exits import DONE


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Held-out loss, perplexity and bits per byte of a run's newest checkpoint, or the scores of a
    run on labelled examples; where one of --choices, --answers, --harness, --contextuality is
    given, that instead.

    Bits per byte compare models whatever their tokenizers. Beside them stand those of a unigram
    model over tokens and of a 3-gram model over bytes, fitted to the training documents.

    What these find is kept in RUN/evaluations/ and shown in RUN/report.html. docs/evaluation.md
    defines every figure.

    Examples:
      gesso evaluate runs/quickstart
      gesso evaluate runs/gpt-neo-125m --rows 256 --step 10000 --json
      gesso evaluate runs/debug-gpt-neo --store debug-flan
      gesso evaluate runs/debug-flan --answers debug-flan --against runs/debug-gpt-neo
      gesso evaluate runs/flan --choices sentiment.jsonl --against runs/gpt-neo-125m
      gesso evaluate runs/flan --answers gsm8k.jsonl --score number --max-tokens 256
      gesso evaluate runs/flan --harness arc_easy --limit 200
      gesso evaluate runs/flan --harness my_task --harness-path tasks/
      gesso evaluate runs/bert --contextuality
    """

    folder: tyro.conf.Positional[str]
    """Run folder."""
    step: int | None = None
    """Step of the checkpoint; the newest by default."""
    store: str = ""
    """Store to evaluate on, with the run's tokenizer: a folder, embedded:KIND, another run, or an
    experiment, whose data is meant; "" = the run's own."""
    rows: int = 0
    """Held-out rows per component; 0 = all of them."""
    batch: int = 8
    """Rows at a time; it changes no figure."""
    components: tuple[str, ...] = ()
    """Components to evaluate; all by default."""
    baselines: Literal["fit", "skip"] = "fit"
    """Fit the unigram and 3-gram models beside it, or skip them."""
    choices: str = ""
    """Questions with options: a file of {"prompt": "The sky is", "options": [" blue", " green"],
    "right": 0}, one a line; the model chooses the likeliest."""
    premise: str = ""
    """Text before the options where the question is left out ("Answer:"), for the rule pmi."""
    answers: str = ""
    """Exercises: a file of {"prompt": "2 + 2 =", "answer": "4"}, one a line; the model writes. Or a
    store of instructions, as for --store: its held-out examples."""
    score: tuple[Literal["match", "bleu", "rouge", "number"], ...] = ("match",)
    """Scores of written answers; bleu and rouge need the extra `evaluate`."""
    max_tokens: int = 128
    """Most tokens of an answer."""
    stop: tuple[str, ...] = ()
    r"""Texts that end an answer, such as $'\n' in a shell."""
    against: str = ""
    """Run that gets the same questions or exercises: the difference, its interval and its
    significance are shown."""
    harness: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, which the extra `evaluate` installs."""
    harness_path: str = ""
    """Folder with tasks of your own, as YAML."""
    shots: int = -1
    """Examples in a task's prompts, where the task leaves it open; -1 = the harness's default."""
    limit: int = 0
    """First questions, exercises or examples to take; 0 = all."""
    contextuality: bool = False
    """Measure how contextual each layer's word vectors are."""
    text: str = ""
    """Sentences for --contextuality: a file, one a line; held-out text by default."""
    sentences: int = 2000
    """Most sentences for --contextuality."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        folder, way = run_folder(self.folder), self._way()
        if way == "heldout":
            return self._heldout(folder)
        from gesso.records.evaluations import write_evaluation

        found, of, show = getattr(self, f"_{way}")(folder)
        path = write_evaluation(folder, way, step=found["step"], of=of, figures=found)
        if self.json:
            print_json(found)
        else:
            show(found, title=f"{of or way}: {folder} after step {found['step']:,}")
        from gesso.reports.report import write_report

        page = write_report([folder], folder / "report.html")
        narration().print(f"kept in {path} and shown in {page}", style="dim", markup=False)
        return DONE

    def _way(self) -> str:
        """The one way to evaluate that is asked for. Raises Refused for two, and for an option that
        changes nothing of it."""
        ways = [name for name in _OPTIONS if name != "heldout" and getattr(self, name)]
        if len(ways) > 1:
            raise Refused(f"one at a time: {', '.join(f'--{name}' for name in ways)}")
        way = ways[0] if ways else "heldout"
        for field in fields(self):
            owners = [name for name, options in _OPTIONS.items() if field.name in options]
            if owners and way not in owners and getattr(self, field.name) != field.default:
                named = " or ".join(f"--{name}" for name in owners if name != "heldout")
                raise Refused(
                    f"--{field.name.replace('_', '-')} changes nothing here; it is for"
                    f" {named or 'held-out text'}"
                )
        return way

    def _heldout(self, folder: Path) -> int:
        if self.rows < 0 or self.batch < 1:
            raise Refused("--rows must be 0 or more, and --batch 1 or more")
        from gesso.launch.commands.evaluate import labelled as evaluate_task

        if evaluate_task.is_task(folder):
            return self._task(folder)
        from gesso.launch.commands.evaluate.heldout import figures, show

        found = figures(
            folder,
            step=self.step,
            store=self.store,
            rows=self.rows,
            batch=self.batch,
            components=self.components or None,
            baselines=self.baselines,
        )
        if self.json:
            print_json(found)
        else:
            show(found, title=f"{folder} after step {found['step']:,}")
        return DONE

    def _task(self, folder: Path) -> int:
        from gesso.launch.commands.evaluate.labelled import figures, show
        from gesso.records.evaluations import write_evaluation

        if self.components or self.baselines != "fit":
            raise Refused("--components and --baselines are for held-out text, not for a task")
        found = figures(folder, step=self.step, store=self.store, rows=self.rows, batch=self.batch)
        write_evaluation(folder, "task", step=found["step"], of=found["of"], figures=found["task"])
        if self.json:
            print_json(found)
        else:
            show(found, title=f"{folder} after step {found['step']:,}")
        return DONE

    def _choices(self, folder: Path) -> tuple[Figures, str, Any]:
        from gesso.launch.commands.evaluate.files import check_limit, choices, show_choices

        check_limit(self.limit)
        found = choices(
            folder,
            self.choices,
            step=self.step,
            limit=self.limit,
            premise=self.premise,
            against=run_folder(self.against) if self.against else None,
        )
        return found, Path(self.choices).stem, show_choices

    def _answers(self, folder: Path) -> tuple[Figures, str, Any]:
        from gesso.launch.commands.evaluate.files import answers, check_limit, show_answers

        check_limit(self.limit)
        if self.max_tokens < 1 or "" in self.stop or not self.score:
            raise Refused(
                "--max-tokens must be at least 1, --stop no empty text, --score not empty"
            )
        found = answers(
            folder,
            self.answers,
            step=self.step,
            limit=self.limit,
            components=self.components or None,
            scores=self.score,
            max_tokens=self.max_tokens,
            stops=self.stop,
            against=run_folder(self.against) if self.against else None,
        )
        return found, Path(self.answers).stem, show_answers

    def _harness(self, folder: Path) -> tuple[Figures, str, Any]:
        from gesso.launch.commands.evaluate.harness import harness, show_harness

        found = harness(
            folder,
            self.harness,
            path=self.harness_path,
            step=self.step,
            limit=self.limit,
            shots=self.shots,
        )
        return found, " ".join(self.harness), show_harness

    def _contextuality(self, folder: Path) -> tuple[Figures, str, Any]:
        from gesso.launch.commands.evaluate.contextuality import contextuality, show_contextuality

        found = contextuality(
            folder,
            step=self.step,
            text=self.text,
            store=self.store,
            components=self.components or None,
            sentences=self.sentences,
            batch=self.batch,
        )
        return found, Path(self.text).stem, show_contextuality


# Which options belong to which way.
_OPTIONS = {
    "heldout": ("store", "rows", "batch", "components", "baselines"),
    "choices": ("premise", "against", "limit"),
    "answers": ("components", "score", "max_tokens", "stop", "against", "limit"),
    "harness": ("harness_path", "shots", "limit"),
    "contextuality": ("text", "sentences", "store", "components", "batch"),
}
