"""`gesso generate RUN --prompt "..."`: let a run's newest checkpoint continue your text."""

import sys
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from gesso.launch.commands.report import run_folder
from gesso.launch.console import Refused, narration, output, print_json
from gesso.pretrain.exits import DONE


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Let a run's newest checkpoint continue your text, or several texts at once.

    With --temperature 0 it takes the likeliest token each time; higher is more varied. --top-k and
    --top-p leave unlikely tokens out. --beams searches for the likeliest text instead.

    An encoder-decoder reads the prompt as its source and writes what belongs to it; of a run that
    fills in spans, <extra_id_0>, <extra_id_1> ... stand for what is missing.

    Example:
      gesso generate runs/quickstart --prompt "import " --stream
      gesso generate runs/neo --prompt "Once upon" "In the end" --temperature 0.8 --top-p 0.95
      gesso generate runs/transformer-base --prompt "Guten Tag" --beams 4 --length-penalty 0.6
    """

    folder: tyro.conf.Positional[str]
    """Run folder."""
    prompt: tuple[str, ...]
    """Text to continue; several texts give several continuations."""
    max_tokens: int = 128
    """Most tokens of a continuation; the end of a document or of the model's positions stops
    sooner."""
    temperature: float = 0.0
    """Temperature of sampling; 0 = always the likeliest token."""
    top_k: int = 0
    """Sample only from the k likeliest tokens; 0 = from all."""
    top_p: float = 1.0
    """Sample only from the likeliest tokens that reach this probability together."""
    seed: int = 0
    """Seed of sampling; the same seed gives the same text."""
    beams: int = 1
    """Candidates that beam search keeps at every length; 1 = no beam search."""
    length_penalty: float = 0.0
    """Exponent of the length by which beams' log-likelihoods are divided; 0 = off."""
    length_penalty_kind: Literal["wu", "power"] = "wu"
    """Length that is meant: "wu" for (5 + tokens) / 6, "power" for tokens, so that exponent 1 is
    the mean per token."""
    step: int | None = None
    """Step of the checkpoint; the newest by default."""
    stream: bool = False
    """Show the text while it is written (one prompt)."""
    json: bool = False
    """Print prompts and continuations as JSON."""

    def run(self) -> int:
        folder = run_folder(self.folder)
        if not self.prompt:
            raise Refused('say what to continue: --prompt "..."')
        if self.stream and (self.json or len(self.prompt) > 1):
            raise Refused("--stream shows one continuation as text: one --prompt, without --json")
        if not self.temperature and (self.top_k or self.top_p < 1):
            raise Refused("--top-k and --top-p have no effect at --temperature 0; set it above 0")
        if self.beams < 1:
            raise Refused("--beams must be at least 1")
        if self.beams > 1 and (self.temperature or self.stream):
            raise Refused("--beams searches and does not sample: no --temperature, no --stream")
        if self.beams == 1 and self.length_penalty:
            raise Refused("--length-penalty compares beams: ask for --beams 4, or more")
        from gesso.evaluation.generation.beam import LengthPenalty
        from gesso.evaluation.generation.decoder import generate
        from gesso.pretrain.open import open_run
        from gesso.pretrain.placeholders import refuse_crowded_texts

        run = open_run(folder, step=self.step)
        refuse_crowded_texts(self.prompt, run.experiment.adapter, run.tokenizer)
        narration().print(f"step {run.step:,} of {folder}", style="dim", markup=False)
        shown = _Shown("".join(self.prompt)) if self.stream else None
        texts = generate(
            run.model,
            run.params,
            run.tokenizer,
            list(self.prompt),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            stream=shown,
            beams=self.beams,
            penalty=LengthPenalty(kind=self.length_penalty_kind, alpha=self.length_penalty),
            objective=run.experiment.objective,
        )
        if shown is not None:
            print()
        elif self.json:
            pairs = zip(self.prompt, texts, strict=True)
            print_json([{"prompt": prompt, "text": text} for prompt, text in pairs])
        else:
            _show(self.prompt, texts)
        return DONE


class _Shown:
    """Writes the pieces to stdout as they come, after the prompt."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt

    def __call__(self, row: int, piece: str) -> None:
        sys.stdout.write(self._prompt + piece)
        self._prompt = ""
        sys.stdout.flush()


def _show(prompts: tuple[str, ...], texts: list[str]) -> None:
    from rich.text import Text

    for prompt, text in zip(prompts, texts, strict=True):
        line: Any = Text(prompt, style="bold cyan")
        output().print(line.append(text, style="not bold default"))
        if len(prompts) > 1:
            output().rule(style="dim")
