"""Decoders that label texts, as the ForSequenceClassification models of transformers are written.

These have no head of a language model. Ours has one, so it must be the table of the embeddings.
"""

import dataclasses
from collections.abc import Callable

from gesso.export.files.tensors import Record
from gesso.export.tables.fields import Fields
from gesso.export.tables.tables import Row
from gesso.models.gpt.config import GPTConfig

END = "ForSequenceClassification"
ROW = Row("classifier/weight", "score.weight", "YD")


def label_reader(read: Callable[[Fields], GPTConfig]) -> Callable[[Fields], GPTConfig]:
    """A reader of configs that also reads those of labelled models."""

    def with_labels(f: Fields) -> GPTConfig:
        config, named = read(f), (f.record.get("architectures") or [""])[0]
        if not named.endswith(END):
            return config
        if "head" in config.biases:
            f.problem(f"architectures: {named} leaves out the head that this model has a bias of")
        labels = f.record.get("num_labels", len(f.record.get("id2label") or "xy"))
        return dataclasses.replace(config, outputs=("classify",), labels=labels, head="tied")

    return with_labels


def label_writer(
    write: Callable[[GPTConfig], Record],
) -> Callable[[GPTConfig], Record]:
    """A writer of configs that also writes those of labelled models."""

    def with_labels(config: GPTConfig) -> Record:
        record = write(config)
        if not config.outputs:
            return record
        base = record["architectures"][0].removesuffix("LMHeadModel").removesuffix("ForCausalLM")
        names = {str(k): f"LABEL_{k}" for k in range(config.labels)}
        return record | {
            "architectures": [base + END],
            "id2label": names,
            "label2id": {name: int(k) for k, name in names.items()},
        }

    return with_labels
