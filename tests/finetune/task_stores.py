"""Small task stores of every kind, in bytes, and what reads them."""

import json

import numpy as np

from gesso.data.config import OrderConfig
from gesso.data.labelled.order import TaskOrder
from gesso.finetune.labelled.build import build_task
from gesso.finetune.labelled.config import TaskConfig
from gesso.models import BERTConfig, build
from gesso.objectives.config import ClassifyConfig, QAConfig, RegressConfig, TagConfig
from gesso.objectives.kinds import build as build_objective

IDS = {"cls": 257, "sep": 258, "end": 259}
CONFIGS = {"classify": ClassifyConfig, "regress": RegressConfig, "tag": TagConfig, "qa": QAConfig}
HEADS = {"classify": "classify", "regress": "classify", "tag": "tag", "qa": "span"}
TAGS = ("O", "B-X", "I-X")


def write_lines(path, records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return str(path)


def records_of(kind, n):
    """n records; texts of 3 to 30 characters or so, labels in turn."""
    rng = np.random.default_rng(len(kind))

    def words(k):
        return ["".join(rng.choice([*"abcde"], rng.integers(1, 6))) for _ in range(k)]

    made = []
    for i in range(n):
        text = " ".join(words(rng.integers(2, 6)))
        if kind == "classify":
            made.append({"premise": text, "hypothesis": f"h {i}", "label": "abc"[i % 3]})
        elif kind == "regress":
            made.append({"text": text, "label": i / 4})
        elif kind == "tag":
            sentence = words(rng.integers(2, 7))
            tags = [TAGS[(i + k) % 3] for k in range(len(sentence))]
            made.append({"words": sentence, "tags": tags})
        else:
            context = " ".join(words(12))
            at = context.index(" ", 8) + 1
            answer = context[at:].split()[0]
            answers = [] if i % 4 == 3 else [{"text": answer, "answer_start": at}]
            made.append({"id": f"q{i}", "question": f"q {i}", "context": context,
                         "answers": answers})  # fmt: skip
    return made


def store_of(folder, kind, *, n=24, heldout=9, **settings):
    """A store of n training and 9 held-out examples."""
    files = write_lines(folder / f"{kind}.jsonl", records_of(kind, n))
    held = write_lines(folder / f"{kind}-held.jsonl", records_of(kind, heldout))
    labels = {"labels": ("c", "a", "b")} if kind == "classify" else {}
    config = TaskConfig(task=kind, files=(files,), heldout=(held,), **labels, **settings)
    return build_task(config, folder / f"{kind}-store")


def model_of(kind, *, labels=3, **settings):
    labelled = {"labels": 1 if kind == "regress" else labels} if kind != "qa" else {}
    small = {"positions": 64, "layers": 1, "embed": 8, "heads": 2, "mlp": 16, "init_std": 0.4}
    config = BERTConfig(vocab=260, outputs=(HEADS[kind],), **labelled, **small | settings)
    return build(config)


def objective_of(kind, store, model, **settings):
    return build_objective(
        CONFIGS[kind](**IDS, **settings),
        tokenizer=store.tokenizer(),
        model=model.config,
        store=store,
    )


def order_of(store, objective, *, length):
    config = OrderConfig(
        length=objective.row_length(length), overlap=0, frame=objective.framing, seed=3
    )
    return TaskOrder(store, config)
