"""Instructions that come with Python: small things to do with words and excerpts of the embedded
corpus, each asked in three ways."""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gesso.data.embedded.shards import HOLDOUT, VERSION, read_shard
from gesso.data.instructions.store import FORMAT, InstructionStore, is_instruction_store
from gesso.data.instructions.writer import Writer, encode_pairs
from gesso.data.text.documents import is_held_out, text_hash
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer

# Part of the folder's name: raised when the examples change.
INSTRUCTIONS = "instructions-1"
# Bytes of an excerpt and of an answer at most; examples that a document gives to a task, and that a
# task takes of a component's documents for training.
EXCERPT, ANSWER, PER_DOCUMENT, PER_COMPONENT = 60, 24, 16, 200

# {(cluster, task): templates (prompt, target)}, as those in finetune/instructions/families are
# written. Targets that follow a colon begin with a space.
_TEMPLATES: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("sources", "component"): (
        ("{text}\n\nIs this code, a test, a docstring or the reference?", "\n{answer}"),
        ("code, test, docstring or reference?\n{text}\nAnswer:", " {answer}"),
        ("Which part of Python says this?\n\n{text}", "\n{answer}"),
    ),
    ("words", "capitals"): (
        ("Write in capitals: {word}\nAnswer:", " {answer}"),
        ('What is "{word}" in capitals?', "\n{answer}"),
        ("{word}\n\nWrite that word in capital letters.", "\n{answer}"),
    ),
    ("words", "last_word"): (
        ("The last word of: {text}\nAnswer:", " {answer}"),
        ("{text}\n\nWhat is the last word above?", "\n{answer}"),
        ('Copy the last word of "{text}".', "\n{answer}"),
    ),
    ("completion", "next_words"): (
        ("Go on: {text}\nNext:", " {answer}"),
        ("{text}\n\nWhich words come next?", "\n{answer}"),
        ("Two more words, please.\n\n{text}", " {answer}"),
    ),
}
_RENDERINGS = 3
# What the component task calls the corpus's components.
_ANSWERS = {
    "Stdlib": "code",
    "StdlibTests": "test",
    "Docstrings": "docstring",
    "LanguageReference": "reference",
}

Fields = dict[str, str]
Split = dict[str, list[Fields]]


def make_instructions(shards: list[Path], folder: Path) -> InstructionStore:
    """The store of instruction examples in `folder`/INSTRUCTIONS, of the corpus's shards; its
    tokenizer is that of the token store beside it. Examples of documents that are held out there
    are held out here, so a model that was trained on the one may be asked the other."""
    tokenizer = load_tokenizer(folder / "store" / "tokenizer")
    chosen = {task: _choose(shards, task) for _, task in _TEMPLATES}
    content = json.dumps([list(_TEMPLATES.items()), chosen])
    parts = f"{INSTRUCTIONS} {VERSION} {tokenizer.fingerprint} {content}"
    made = folder / INSTRUCTIONS
    draft = made.with_name(f".{made.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        tasks = []
        with Writer(draft, tokenizer) as writer:
            for (cluster, task), templates in _TEMPLATES.items():
                first = writer.pieces
                for split, examples in chosen[task].items():
                    asked = [
                        (prompt.format(**each), target.format(**each))
                        for each in examples
                        for prompt, target in templates
                    ]
                    for number, (ids, head) in enumerate(encode_pairs(asked, tokenizer)):
                        predicted = (np.arange(len(ids)) >= head).astype(np.uint8)
                        writer.add(ids, predicted)
                        if number % _RENDERINGS == 0:
                            text = "".join(asked[number])
                            writer.count(cluster, split, ids, predicted, text)
                tasks.append(
                    {
                        "name": task,
                        "component": cluster,
                        "family": task,
                        "train": len(chosen[task]["train"]),
                        "holdout": len(chosen[task]["holdout"]),
                        "first": first,
                    }
                )
            save_tokenizer(tokenizer, draft / "tokenizer")
            (draft / "rejects.jsonl").write_text("")
            examples = sum(each["train"] + each["holdout"] for each in tasks)
            writer.finish(
                {
                    "format": FORMAT,
                    "fingerprint": hashlib.sha256(parts.encode()).hexdigest(),
                    "tokenizer": tokenizer.fingerprint,
                    "eos": tokenizer.eos,
                    "renderings": _RENDERINGS,
                    "tasks": tasks,
                    "rejects": {},
                    "duplicates": 0.0,
                    "counts": {"records": examples, "examples": examples},
                }
            )
        if not is_instruction_store(made):
            draft.rename(made)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return InstructionStore(made)


def _choose(shards: list[Path], task: str) -> Split:
    """The examples of a task, each once, the components' documents having alike many."""
    found: Split = {"train": [], "holdout": []}
    taken: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    for path in shards:
        for component, text in read_shard(path):
            split = "holdout" if is_held_out(text_hash(text.encode()), HOLDOUT) else "train"
            most = PER_COMPONENT if split == "train" else PER_COMPONENT // 5
            for example in _examples(task, component, text):
                key = json.dumps(example)
                if taken[split, component] < most and key not in seen:
                    taken[split, component] += 1
                    seen.add(key)
                    found[split].append(example)
    return found


def _examples(task: str, component: str, text: str) -> Iterator[Fields]:
    words = text.split()
    makers: dict[str, Callable[[list[str]], Fields | None]] = {
        "component": lambda some: {"text": " ".join(some), "answer": _ANSWERS[component]},
        "capitals": _capitals,
        "last_word": lambda some: {"text": " ".join(some), "answer": some[-1]},
        "next_words": lambda some: {"text": " ".join(some[:-2]), "answer": " ".join(some[-2:])},
    }
    step = max(1, len(words) // PER_DOCUMENT)
    for start in range(0, len(words) - 1, step):
        some = _as_long_as(words[start : start + EXCERPT], EXCERPT)
        made: Fields = (makers[task](some) or {}) if len(some) >= 4 else {}
        # Scores pass over punctuation and articles: something must be left to compare.
        answer = made.get("answer", "")
        if re.search("[A-Za-z]{4}", answer) and len(answer.encode()) <= ANSWER:
            yield made


def _capitals(words: list[str]) -> Fields | None:
    """The first word of small letters."""
    for word in words:
        if re.fullmatch("[a-z]{4,10}", word):
            return {"word": word, "answer": word.upper()}
    return None


def _as_long_as(words: list[str], size: int) -> list[str]:
    ends = np.cumsum([len(each.encode()) + 1 for each in words]) - 1
    return words[: int(np.searchsorted(ends, size, "right"))]
