"""Files of examples that tests write, and stores of them."""

import json

from gesso.finetune.instructions.build import build_instructions
from gesso.finetune.instructions.config import FormsConfig, InstructionsConfig, SourceConfig

ENTAILMENT = ("entailment", "neutral", "contradiction")


def write_lines(path, records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return str(path)


def entailments(n, *, start=0):
    return [
        {"premise": f"fact {i} " * (1 + i % 7), "hypothesis": f"claim {i}", "label": i % 3}
        for i in range(start, start + n)
    ]


def questions(n):
    return [
        {
            "question": f"what is {i} and {i + 1}" + "?" * (i % 3 + 1),
            "reply": f"{2 * i + 1} " * (1 + i % 5),
            "rationale": f"{i} and {i + 1} make {2 * i + 1}",
        }
        for i in range(n)
    ]


def config_of(folder, *, counts=(60, 40, 25), forms=None, **settings):
    """Two tasks of one cluster (nli_a, nli_b) and one of another (sums): a config and its files."""
    nli_a = write_lines(folder / "nli_a.jsonl", entailments(counts[0]))
    nli_b = write_lines(folder / "nli_b.jsonl", entailments(counts[1], start=1000))
    sums = write_lines(folder / "sums.jsonl", questions(counts[2]))
    return InstructionsConfig(
        sources=(
            SourceConfig(path=nli_a, family="entailment"),
            SourceConfig(path=nli_b, family="entailment"),
            SourceConfig(path=sums, family="word_problem"),
        ),
        forms=forms or FormsConfig(few_shot=1.0, reasoned=0.5, shots=(1, 2)),
        **{"renderings": 3, "holdout": 0.1, "max_tokens": 400, **settings},
    )


def store_of(folder, **settings):
    return build_instructions(config_of(folder, **settings), folder / "store")
