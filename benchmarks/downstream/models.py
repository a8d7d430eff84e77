"""The small model of every row: its shape, how it is pretrained, how it is fine-tuned. Settings
were chosen before any held-out figure was seen and are the same for all starts."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.downstream.commands import Commands, evaluations

Start = Literal["scratch", "pretrained"]
STARTS: tuple[Start, ...] = ("scratch", "pretrained")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is made. Tests take another than the table."""

    vocab: int = 2048
    layers: int = 2
    embed: int = 128
    length: int = 512
    batch: int = 8
    pretraining_steps: int = 400
    adaptation_steps: int = 100

    @property
    def model(self) -> dict[str, Any]:
        """A pre-norm decoder with GPT-2's beginning, as settings of an experiment."""
        return {
            "model.vocab": self.vocab,
            "model.positions": self.length,
            "model.layers": self.layers,
            "model.embed": self.embed,
            "model.heads": 4,
            "model.mlp": 4 * self.embed,
            "model.norm": "pre",
            "model.residual-init": "depth",
        }


def quiet(steps: int) -> dict[str, Any]:
    """Two checkpoints, and one evaluation of all that is held out, at the end."""
    return {
        "steps": steps,
        "checkpoint.every-steps": -(-steps // 2),
        "evaluation.every-steps": steps,
        "evaluation.rows": 0,
        "evaluation.sample-every-steps": 0,
        "logging.every-steps": max(steps // 10, 1),
        "logging.no-tensorboard": None,
    }


def pretrained(commands: Commands, folder: Path, files: Path, sizes: Sizes) -> dict[str, Any]:
    """A tokenizer, a store and a decoder of the text of all training splits, under `folder`; what
    there is of held-out text in them says how good it got."""
    texts = sorted((files / "corpus").glob("*.jsonl"))
    commands.tokenizer(folder / "tokenizer", texts, vocab=sizes.vocab)
    commands(
        *("corpus", "build", *texts, "--folder", folder / "corpus", "--component-key", ""),
        *("--tokenizer", folder / "tokenizer", "--holdout", 0.02),
    )
    settings = {
        **sizes.model,
        "length": sizes.length,
        "batch": sizes.batch,
        "data.store": folder / "corpus",
        **quiet(sizes.pretraining_steps),
    }
    commands.run("pretrain", "debug-gpt2", folder / "pretrained", settings)
    found = evaluations(folder / "pretrained")[-1]
    return {
        "model": dataclasses.asdict(sizes),
        "tokens": sizes.pretraining_steps * sizes.batch * sizes.length,
        "bits_per_byte": found["bits_per_byte"],
        "components": {name: each["bits_per_byte"] for name, each in found["components"].items()},
    }


def finetune(
    commands: Commands,
    experiment: str,
    run: Path,
    settings: dict[str, Any],
    *,
    start: Start,
    base: Path,
    sizes: Sizes,
    seed: int,
) -> None:
    """One fine-tuning: from the pretrained model, or the same model from its first parameters."""
    settings = {**settings, "seed": seed, "data.seed": seed}
    if start == "pretrained":
        commands.run("finetune", experiment, run, {"start": base, **settings})
    else:
        commands.run("pretrain", experiment, run, {**sizes.model, **settings})
