"""The experiments by name. Names are known without importing them: a typo answers at once.

Other packages' experiments (entry points, group gesso.experiments) are looked for where a name is
not ours.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any

from gesso.pretrain.experiment import Experiment, ExperimentError, override
from gesso.settings import entry_points
from gesso.settings.entry_points import EntryPointError
from gesso.settings.nearest import did_you_mean

# name -> (module, function); the function's docstring says its numbers, source and command.
_EXPERIMENTS = {
    "debug-gpt-neo": ("gesso.configs.debug", "debug_gpt_neo"),
    "debug-gpt-j": ("gesso.configs.debug", "debug_gpt_j"),
    "debug-gpt2": ("gesso.configs.debug", "debug_gpt2"),
    "debug-gpt-neox": ("gesso.configs.debug", "debug_gpt_neox"),
    "debug-opt": ("gesso.configs.opt", "debug_opt"),
    "debug-llama": ("gesso.configs.llama", "debug_llama"),
    "debug-bert": ("gesso.configs.bert", "debug_bert"),
    "debug-t5": ("gesso.configs.seq2seq", "debug_t5"),
    "debug-transformer": ("gesso.configs.seq2seq", "debug_transformer"),
    "debug-elmo": ("gesso.configs.elmo", "debug_elmo"),
    "debug-mixed": ("gesso.configs.mixed", "debug_mixed"),
    "debug-flan": ("gesso.configs.finetune", "debug_flan"),
    "debug-ulmfit": ("gesso.configs.finetune", "debug_ulmfit"),
    "debug-lora": ("gesso.configs.adapters", "debug_lora"),
    "debug-classify": ("gesso.configs.tasks", "debug_classify"),
    "quickstart": ("gesso.configs.debug", "quickstart"),
    "bert-base": ("gesso.configs.bert", "bert_base"),
    "bert-large": ("gesso.configs.bert", "bert_large"),
    "roberta-base": ("gesso.configs.bert", "roberta_base"),
    "elmo-small": ("gesso.configs.elmo", "elmo_small"),
    "elmo-original": ("gesso.configs.elmo", "elmo_original"),
    "gpt1-117m": ("gesso.configs.gpt", "gpt1_117m"),
    "gpt2-124m": ("gesso.configs.gpt", "gpt2_124m"),
    "gpt2-355m": ("gesso.configs.gpt", "gpt2_355m"),
    "gpt2-774m": ("gesso.configs.gpt", "gpt2_774m"),
    "gpt2-1.5b": ("gesso.configs.gpt", "gpt2_1_5b"),
    "gpt-neo-125m": ("gesso.configs.gpt", "gpt_neo_125m"),
    "gpt-neo-1.3b": ("gesso.configs.gpt", "gpt_neo_1_3b"),
    "gpt-neo-2.7b": ("gesso.configs.gpt", "gpt_neo_2_7b"),
    "gpt-j-6b": ("gesso.configs.gpt", "gpt_j_6b"),
    "gpt-neox-20b": ("gesso.configs.gpt", "gpt_neox_20b"),
    "opt-125m": ("gesso.configs.opt", "opt_125m"),
    "opt-350m": ("gesso.configs.opt", "opt_350m"),
    "llama-1.1b": ("gesso.configs.llama", "llama_1_1b"),
    "transformer-base": ("gesso.configs.seq2seq", "transformer_base"),
    "transformer-big": ("gesso.configs.seq2seq", "transformer_big"),
    "t5-small": ("gesso.configs.seq2seq", "t5_small"),
    "t5-base": ("gesso.configs.seq2seq", "t5_base"),
    "t5-large": ("gesso.configs.seq2seq", "t5_large"),
    "t5-3b": ("gesso.configs.seq2seq", "t5_3b"),
    "t5-11b": ("gesso.configs.seq2seq", "t5_11b"),
    "t5-v1.1-small": ("gesso.configs.seq2seq", "t5_v1_1_small"),
    "t5-v1.1-base": ("gesso.configs.seq2seq", "t5_v1_1_base"),
    "t5-v1.1-base-ul2": ("gesso.configs.mixed", "t5_v1_1_base_ul2"),
    "finetune-classify": ("gesso.configs.tasks", "finetune_classify"),
    "finetune-regress": ("gesso.configs.tasks", "finetune_regress"),
    "finetune-tag": ("gesso.configs.tasks", "finetune_tag"),
    "finetune-qa": ("gesso.configs.tasks", "finetune_qa"),
    "gpt1-classify": ("gesso.configs.tasks", "gpt1_classify"),
    "flan": ("gesso.configs.finetune", "flan"),
    "ulmfit-lm": ("gesso.configs.finetune", "ulmfit_lm"),
    "ulmfit-gradual": ("gesso.configs.finetune", "ulmfit_gradual"),
    "lora-gpt2": ("gesso.configs.adapters", "lora_gpt2"),
    "lora-gpt-j": ("gesso.configs.adapters", "lora_gpt_j"),
    "prompt-gpt2": ("gesso.configs.adapters", "prompt_gpt2"),
}


def names() -> list[str]:
    """The names of all our experiments, small ones first."""
    return list(_EXPERIMENTS)


def others() -> tuple[list[str], list[str]]:
    """The names of other packages' experiments, and one line for each that is refused."""
    return entry_points.others(entry_points.EXPERIMENTS, _EXPERIMENTS)


def experiment(name: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of that name, with {"optimizer.learning_rate": 3e-4, ...} put in place.

    Raises ExperimentError for an unknown name or setting, with the nearest one, and for another
    package's experiment that cannot be made.
    """
    made = _ours(name)() if name in _EXPERIMENTS else _another(name)
    return override(made, overrides or {})


def describe(name: str) -> str:
    """The docstring of an experiment's function: numbers, source, command, expected result."""
    function = _ours(name) if name in _EXPERIMENTS else _load(_entry(name))
    return inspect.getdoc(function) or ""


def _ours(name: str) -> Callable[[], Experiment]:
    module, function = _EXPERIMENTS[name]
    return getattr(importlib.import_module(module), function)


def _another(name: str) -> Experiment:
    """The experiment that another package offers under that name."""
    entry = _entry(name)
    function = _load(entry)
    try:
        made = function()
        if not isinstance(made, Experiment):
            raise TypeError(f"it returned a {type(made).__name__}, not an Experiment")
        if made.name != name:
            raise ValueError(f"it returned an experiment named {made.name!r}")
    except Exception as error:  # another's code
        raise ExperimentError(str(entry_points.broken_error(entry, error))) from error
    return made


def _entry(name: str) -> EntryPoint:
    try:
        entry = entry_points.find(entry_points.EXPERIMENTS, name)
    except EntryPointError as error:
        raise ExperimentError(str(error)) from error
    if entry is None:
        known = [*_EXPERIMENTS, *others()[0]]
        hint = did_you_mean(name, known, most=3, show=str, otherwise="`gesso list` shows them all")
        raise ExperimentError(f"no experiment {name!r}{hint}")
    return entry


def _load(entry: EntryPoint) -> Callable[..., object]:
    try:
        return entry_points.load_function(entry)
    except EntryPointError as error:
        raise ExperimentError(str(error)) from error
