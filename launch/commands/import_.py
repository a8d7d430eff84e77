"""`gesso import FOLDER RUN`: a published checkpoint as a run, to generate, evaluate or train on."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from gesso.launch.console import Figures, Refused, existing, narration, output, print_json, size
from gesso.models.config import ELMoConfig, ModelConfig
from gesso.pretrain.exits import DONE

if TYPE_CHECKING:
    from gesso.data.tokenizers.base import Tokenizer
    from gesso.export.reading import Opened
    from gesso.pretrain.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Import:
    """Import a published checkpoint: config, weights and tokenizer become a run folder.

    From there generate, evaluate and export work as if it had been trained here, and
    `gesso pretrain RUN --data.store STORE --steps N` trains it on. Every field of its config.json
    is honoured or refused, every tensor is accounted for.

    Example:
      gesso import downloads/gpt-neo-125m runs/neo
      gesso import downloads/gpt2 runs/gpt2 --vocab 50304 --store stores/mine
      gesso import downloads/elmo runs/elmo --tokenizer vocab.txt --vocab 793471 --fresh "head*"
    """

    folder: tyro.conf.Positional[str]
    """Folder with config.json and weights (safetensors, pytorch_model.bin), ELMo's options.json and
    HDF5, or mesh-transformer-jax's shards with the JSON of their training."""
    run_folder: tyro.conf.Positional[str]
    """Run folder to make."""
    tokenizer: str = ""
    """Tokenizer where the folder has none: a folder, a file, or "bytes"."""
    store: str = ""
    """Token store to train or evaluate on; `pretrain --data.store` can set it later."""
    vocab: int = 0
    """Rows of the vocabulary; more than published divide over a mesh or take new tokens. 0 = as
    published."""
    positions: int = 0
    """Longest row in tokens; further learned positions repeat the published ones. 0 = as
    published."""
    fresh: tuple[str, ...] = ()
    """Parameters, by pattern, that the folder may lack, such as "mlm*"; they are drawn anew."""
    seed: int = 0
    """Seed of the fresh parameters."""
    json: bool = False
    """Print what was done as JSON."""

    def run(self) -> int:
        existing(self.folder, what="folder")
        run_folder = Path(self.run_folder)
        if run_folder.exists() and (run_folder.is_file() or any(run_folder.iterdir())):
            raise Refused(f"{run_folder} is there already; runs are never overwritten")
        made = take_over(self, run_folder)
        if self.json:
            print_json(made)
        else:
            _show(made)
        return DONE


def take_over(options: Import, run_folder: Path) -> Figures:
    """Make the run folder; returns what was done. Nothing is left where it fails."""
    from gesso.data.tokenizers.load import save_tokenizer
    from gesso.export.files.folder import new_folder
    from gesso.export.reading import open_folder, report_of, summary
    from gesso.models.count import parameters
    from gesso.pretrain.experiment import to_json
    from gesso.pretrain.folder.claim import environment
    from gesso.storage.files import write_json

    tokenizer = _tokenizer(options)
    opened = open_folder(
        options.folder, vocab=options.vocab, positions=options.positions, fresh=options.fresh
    )
    config = opened.config
    if (ids := _ids_of(tokenizer, config)) > config.vocab:
        raise Refused(
            f"the tokenizer has {ids} ids and the model {config.vocab} rows for them; give its own"
            f" tokenizer, or --vocab {ids}"
        )
    import jax

    experiment, origins = _experiment(options, config), report_of(opened)
    with new_folder(run_folder, mine=lambda folder: False) as part:
        write_json(part / "experiment.json", to_json(experiment))
        write_json(part / "environment.json", environment(jax.devices(), 1))
        report = [dataclasses.asdict(each) for each in origins]
        write_json(
            part / "imported.json",
            {"folder": options.folder, "parameters": report, "buffers": opened.buffers},
        )
        save_tokenizer(tokenizer, part / "tokenizer")
        with narration().status(f"reading {options.folder}"):
            _save(part / "checkpoints", opened, experiment, tokenizer, seed=options.seed)
    return {
        "run": str(run_folder),
        "family": config.family,
        "writes": opened.model.writes,
        "parameters": parameters(config)["total"],
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size},
        "told": summary(origins),
        "buffers": list(opened.buffers),
        "report": report,
    }


def _tokenizer(options: Import) -> "Tokenizer":
    from gesso.data.tokenizers.base import TokenizerError
    from gesso.data.tokenizers.load import load_tokenizer

    try:
        return load_tokenizer(options.tokenizer or options.folder)
    except TokenizerError as error:
        if options.tokenizer:
            raise
        raise Refused(
            f"{error}; name another with --tokenizer (a folder, a file, or bytes)"
        ) from None


def _ids_of(tokenizer: "Tokenizer", config: ModelConfig) -> int:
    """The ids that the model needs a row for: of ELMo the classes of its softmax, if it has one."""
    if isinstance(config, ELMoConfig) and config.reads == "characters" and config.head == "none":
        return 0
    return tokenizer.classes


def _experiment(options: Import, config: ModelConfig) -> "Experiment":
    """The record of the run: the imported model, the objective of its family, one row's length."""
    from gesso.data.config import DataConfig
    from gesso.objectives import config as objectives
    from gesso.pretrain.experiment import Experiment

    usual = {
        "causal": objectives.CausalLMConfig,
        "masked": objectives.MaskedLMConfig,
        "bilm": objectives.BiLMConfig,
        "denoise": objectives.DenoiseConfig,
        "seq2seq": objectives.Seq2SeqLMConfig,
    }
    data = DataConfig(store=options.store) if options.store else DataConfig()
    return Experiment(
        name=f"imported-{config.family}",
        model=config,
        objective=usual[config.pretraining](),
        data=data,
        length=min(config.longest or 512, 1024),
        steps=1000,
    )


def _save(
    folder: Path, opened: "Opened", experiment: "Experiment", tokenizer: "Tokenizer", *, seed: int
) -> None:
    """Checkpoint 0: the parameters alone, which `pretrain` starts from (pretrain/start.py)."""
    from gesso.export.reading import parameters_of
    from gesso.models.count import parameters
    from gesso.pretrain.checkpoints.streamed import save_params
    from gesso.pretrain.experiment import to_json
    from gesso.pretrain.folder.claim import versions
    from gesso.pretrain.start import IMPORTED

    info = {
        IMPORTED: True,
        "experiment": to_json(experiment),
        "environment": versions(),
        "tokenizer": tokenizer.fingerprint,
    }
    size = 4 * parameters(opened.config)["total"]
    save_params(folder, 0, parameters_of(opened, seed=seed), info, size=size)


def _show(made: Figures) -> None:
    console = output()
    console.print(
        f"[bold]{made['family']}[/], {made['parameters']:,} parameters"
        f" ({size(4 * made['parameters'])} in float32): {made['run']}"
    )
    for each in made["report"]:
        shape = "x".join(map(str, each["shape"]))
        console.print(
            f"  {each['origin']:8}{each['path']:32} {shape:18} {each['tensors']}", markup=False
        )
    if made["buffers"]:
        console.print(
            f"  {len(made['buffers'])} non-weight buffers in the files are ignored", style="dim"
        )
    console.print(made["told"], markup=False)
    generate = f'gesso generate {made["run"]} --prompt "..."\n' if made["writes"] else ""
    console.print(
        f"{generate}gesso pretrain {made['run']} --data.store STORE --steps N   (STORE: gesso"
        f" corpus build ... --tokenizer {made['run']}/tokenizer)",
        style="dim",
        markup=False,
    )
