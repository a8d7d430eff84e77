"""The objective of each kind of config: the one place that a new objective is entered in."""

import importlib

from gesso.data.store.base import Store
from gesso.data.tokenizers.base import Tokenizer
from gesso.objectives.base import Objective
from gesso.objectives.config import TASKS, ObjectiveConfig
from gesso.objectives.given import ModelSettings

# kind of a config -> (module, class)
_HOME = {
    "causal": ("gesso.objectives.causal", "CausalLM"),
    "masked": ("gesso.objectives.masked", "MaskedLM"),
    "bilm": ("gesso.objectives.bilm", "BiLM"),
    "denoise": ("gesso.objectives.denoise", "Denoise"),
    "seq2seq": ("gesso.objectives.seq2seq", "Seq2SeqLM"),
    "mixed": ("gesso.objectives.mixed", "Mixed"),
    "classify": ("gesso.objectives.labelled.classify", "Classify"),
    "regress": ("gesso.objectives.labelled.classify", "Regress"),
    "tag": ("gesso.objectives.labelled.tag", "Tag"),
    "qa": ("gesso.objectives.labelled.qa", "QA"),
}


def build(
    config: ObjectiveConfig,
    *,
    tokenizer: Tokenizer | None = None,
    model: ModelSettings | None = None,
    store: Store | None = None,
) -> Objective:
    """The objective of a config. tokenizer, model: the store's tokenizer and the model's config,
    which those objectives need that place special tokens. store: that of labelled examples, for
    objectives of TASKS; None where only shapes are asked for.

    Raises ValueError for one that cannot be: contradictory fields, ids that the tokenizer or the
    model does not have, or a store of another task.
    """
    if problems := config.problems():
        raise ValueError("; ".join(problems))
    module, name = _HOME[config.kind]
    made = getattr(importlib.import_module(module), name)
    task = {"store": store} if config.kind in TASKS else {}
    return made(config, tokenizer=tokenizer, model=model, **task)
