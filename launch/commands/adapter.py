"""`gesso adapter merge|export|import`: adapters into their base, to peft, and from it."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from gesso.launch.commands.report import run_folder
from gesso.launch.console import Refused, existing, narration, output, print_json, size
from gesso.pretrain.exits import DONE


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one model of an adapter and its base: a run folder to generate, export or train on.

    LoRA and (IA)3 are changes of weights; they are added in float32. The share of
    these changes that a smaller dtype would round away is shown, for `gesso export --dtype`.

    Example:
      gesso finetune debug-lora --start runs/debug-gpt-neo
      gesso adapter merge runs/debug-lora runs/merged
      gesso export runs/merged exported/merged
    """

    run_folder: tyro.conf.Positional[str]
    """Run that trained an adapter."""
    to: tyro.conf.Positional[str]
    """Run folder to make."""
    base: str = ""
    """Run of the base, if it is not where the adapter was trained over it."""
    step: int | None = None
    """Step of the adapter's checkpoint; the newest by default."""
    json: bool = False
    """Print what was done as JSON."""

    def run(self) -> int:
        folder, new = run_folder(self.run_folder), _new(self.to)
        from gesso.finetune.adapters.runs import merge_run

        with narration().status(f"merging {folder} into its base"):
            made = merge_run(folder, new, base=self.base, step=self.step)
        if self.json:
            print_json(made)
            return DONE
        console = output()
        console.print(
            f"step {made.step:,} of {folder} and its base: {made.folder}; {made.changed:,} weights"
            " changed",
            markup=False,
        )
        for dtype, share in made.lost.items():
            told = f"  {dtype:9} {share:.1%} of these changes would be rounded away"
            console.print(told, style="yellow" if share > 0.1 else "dim", markup=False)
        return DONE


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a LoRA or a prompt as a folder that peft loads: adapter_config.json and
    adapter_model.safetensors. The base goes beside it with `gesso export BASE FOLDER`.

    Example:
      gesso export runs/debug-gpt-neo exported/base
      gesso adapter export runs/debug-lora exported/lora --base-name exported/base
      python -c "from transformers import AutoModelForCausalLM as A; from peft import PeftModel;
      PeftModel.from_pretrained(A.from_pretrained('exported/base'), 'exported/lora')"
    """

    run_folder: tyro.conf.Positional[str]
    """Run that trained an adapter."""
    to: tyro.conf.Positional[str]
    """Folder to write; an earlier adapter there is replaced."""
    base_name: str = ""
    """Base named in adapter_config.json: a folder, or a name on the hub."""
    step: int | None = None
    """Step of the checkpoint; the newest by default."""
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> int:
        folder = run_folder(self.run_folder)
        from gesso.finetune.adapters.peft_folder import write_adapter
        from gesso.finetune.adapters.runs import adapter_of
        from gesso.models import build

        experiment, trained, _ = adapter_of(folder, step=self.step)
        if beside := sorted(trained.keys() - {"adapter"}):
            raise Refused(
                f"{folder} trained {', '.join(beside)} beside the adapter, which its PEFT folder"
                " would lack; merge it instead: gesso adapter merge"
            )
        files = write_adapter(
            self.to,
            build(experiment.model),
            experiment.adapter,
            trained["adapter"],
            base=self.base_name,
        )
        if self.json:
            print_json({"folder": self.to, "files": files})
            return DONE
        for name, count in files.items():
            output().print(f"  {size(count):>10}  {name}", markup=False)
        told = f"{self.to}: read back, it is the same {experiment.adapter.kind}; its base: gesso"
        output().print(f"{told} export {experiment.start.source} FOLDER", markup=False)
        return DONE


@dataclass(frozen=True, kw_only=True)
class Import:
    """Import a LoRA or a prompt that peft wrote, over a run: a run folder to evaluate, generate
    with, merge, or train further.

    Example:
      gesso import downloads/gpt2 runs/gpt2
      gesso adapter import downloads/gpt2-lora runs/gpt2-lora --base runs/gpt2
      gesso generate runs/gpt2-lora --prompt "Once"
    """

    folder: tyro.conf.Positional[str]
    """Folder with adapter_config.json and adapter_model.safetensors."""
    to: tyro.conf.Positional[str]
    """Run folder to make."""
    base: str = ""
    """Run of its base."""
    json: bool = False
    """Print what was done as JSON."""

    def run(self) -> int:
        folder, new = existing(self.folder, what="folder"), _new(self.to)
        if not self.base:
            raise Refused(
                "say what it is an adapter of: --base RUN (gesso import makes a run of a published"
                " checkpoint)"
            )
        from gesso.finetune.adapters.runs import take_adapter

        experiment = take_adapter(folder, self.base, new)
        if self.json:
            print_json({"run": str(new), "adapter": experiment.adapter})
            return DONE
        a = experiment.adapter
        what = (
            f"rank {a.rank}, scale {a.scale:.3g}, {len(a.targets)} weights of every layer"
            if a.kind == "lora"
            else f"{a.tokens} virtual tokens"
        )
        output().print(f"{a.kind}, {what}, over {self.base}: {new}", markup=False)
        return DONE


def _new(path: str) -> Path:
    folder = Path(path)
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise Refused(f"{folder} is there already; runs are never overwritten")
    return folder
