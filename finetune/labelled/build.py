"""From files of labelled examples to a task store, which objectives classify, regress, tag and qa
train on. docs/tasks.md tells how it is used; data/labelled/order.py makes rows of it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gesso.data.labelled.store import FORMAT, TaskStore, is_task_store
from gesso.data.labelled.writer import Labelled, Written, write_task
from gesso.data.text.documents import is_held_out, text_hash
from gesso.data.tokenizers.load import load_tokenizer
from gesso.finetune.instructions.examples import HARMLESS, Reject, SourceRefused, lines_of
from gesso.finetune.instructions.fields import FieldError, Record, Values
from gesso.finetune.instructions.files import Item, existing, read_text
from gesso.finetune.labelled.config import TaskConfig
from gesso.finetune.labelled.examples import Reader, reader_of
from gesso.finetune.labelled.files import fields_of, format_of, records_of
from gesso.finetune.labelled.shapes import SHAPES, Fields, Shape
from gesso.settings.nearest import did_you_mean

# Reasons for which a record is not an example, beside those of finetune.instructions.examples.
REASONS = {
    "bad_answer": "an answer that does not stand in the context where it is said to",
    "no_tokens": "a word that the tokenizer has no token for",
}


@dataclass
class Split:
    """What was read of some files. records = examples + rejects + over_limit."""

    examples: list[Labelled] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    records: int = 0
    over_limit: int = 0


def build_task(
    config: TaskConfig, folder: str | Path, *, say: Callable[[str], None] = lambda _: None
) -> TaskStore:
    """The store of these examples in `folder`, made first where it is not there yet.

    say: told each file in a line. Raises ValueError for settings and files that cannot be used,
    more bad records than reject_cap, and a folder that holds something else.
    """
    shape = shape_of(config)
    folder = Path(folder).expanduser()
    tokenizer = load_tokenizer(config.tokenizer)
    wanted = _fingerprint(config, tokenizer.fingerprint)
    if is_task_store(folder):
        store = TaskStore(folder)
        if store.fingerprint == wanted:
            return store
        raise ValueError(
            f"{folder} holds a task store of other examples or settings ({store.fingerprint[:12]},"
            f" asked for {wanted[:12]}); name another folder, or remove this one"
        )
    items = {path: list(records_of(path, config, shape)) for path in _files(config)}
    fields = {path: _fields(each, config, shape) for path, each in items.items()}
    training = [
        (item.record, fields[path])
        for path in config.files
        for item in items[path]
        if not isinstance(item.record, tuple)
    ]
    reader = reader_of(shape.kind, config, shape, tokenizer, training)
    splits = {"train": Split(), "holdout": Split()}
    for split, paths in (("train", config.files), ("holdout", config.heldout)):
        for path in paths:
            before = len(splits[split].rejects)
            _read(splits[split], items[path], fields[path], reader, limit=config.limit)
            refused = len(splits[split].rejects) - before
            say(f"{path}: {len(items[path]):,} records, {refused:,} refused")
            _judge(path, items[path], splits[split].rejects[before:], config.reject_cap)
    train, holdout = splits["train"].examples, splits["holdout"].examples
    hashes = [[text_hash(_text(each)) for each in examples] for examples in (train, holdout)]
    if not config.heldout:
        chosen = [is_held_out(each, config.holdout) for each in hashes[0]]
        holdout = [each for each, out in zip(train, chosen, strict=True) if out]
        train = [each for each, out in zip(train, chosen, strict=True) if not out]
        hashes = [[h for h, out in zip(hashes[0], chosen, strict=True) if out == k] for k in (0, 1)]
    seen = [*hashes[0], *hashes[1]]
    rejects = [each for split in splits.values() for each in split.rejects]
    counts = {
        "records": sum(each.records for each in splits.values()),
        "over_limit": sum(each.over_limit for each in splits.values()),
        "refused": len(rejects),
        "heldout_in_training": sum(each in set(hashes[0]) for each in set(hashes[1])),
    }
    return write_task(
        folder,
        Written(
            kind=shape.kind,
            name=config.name or (config.task if config.task != shape.kind else _stem(config)),
            labels=reader.labels,
            texts=len(train[0].texts) if train else 1,
            source=wanted,
            rejects=list(lines_of(rejects)),
            counts=counts,
            duplicates=1 - len(set(seen)) / len(seen) if seen else 0.0,
        ),
        train=[_facts(each, split="train") for each in train],
        holdout=[_facts(each, split="holdout") for each in holdout],
        tokenizer=tokenizer,
    )


def shape_of(config: TaskConfig) -> Shape:
    """The shape of a task. Raises ValueError for settings that cannot be."""
    if config.task not in SHAPES:
        raise ValueError(
            f"there is no task {config.task!r}{did_you_mean(config.task, SHAPES)}; known are"
            f" {', '.join(SHAPES)}"
        )
    problems, kind = [], SHAPES[config.task].kind
    if not config.files:
        problems.append("there are no files")
    if twice := set(config.files) & set(config.heldout):
        problems.append(f"{sorted(twice)[0]} is both trained on and held out")
    if not 0 <= config.holdout < 1 or config.limit < 0:
        problems.append(f"holdout must be in [0, 1) and limit 0 or more, not {config.holdout}")
    if len(config.texts) > 2:
        problems.append(f"an example has one text or two, not {len(config.texts)}")
    if kind == "qa" and len(config.texts) not in (0, 2):
        problems.append("qa has two texts: the question and the context")
    if (config.labels or config.values) and kind in ("regress", "qa"):
        problems.append(f"labels and values mean nothing to {kind}")
    if config.words and kind != "tag" or config.texts and kind == "tag":
        problems.append("words are for tag, texts for the others")
    if problems:
        raise ValueError("this task cannot be built: " + "; ".join(problems))
    return SHAPES[config.task]


def _files(config: TaskConfig) -> list[str]:
    return list(dict.fromkeys((*config.files, *config.heldout)))


def _fields(items: list[Item], config: TaskConfig, shape: Shape) -> Fields:
    """As the first record that is one has them."""
    for item in items:
        if not isinstance(item.record, tuple):
            try:
                return fields_of(item.record, config, shape)
            except ValueError as error:
                raise SourceRefused(f"{item.place}: {error}") from None
    raise SourceRefused("there is no record in these files that can be read")


def _read(split: Split, items: list[Item], fields: Fields, reader: Reader, *, limit: int) -> None:
    for item in items:
        split.records += 1
        if isinstance(item.record, tuple):
            split.rejects.append(Reject(item.place, *item.record, item.head))
            continue
        if limit and len(split.examples) >= limit:
            split.over_limit += 1
            continue
        try:
            made = reader(item.record, fields)
        except FieldError as error:
            split.rejects.append(Reject(item.place, error.reason, str(error), item.head))
            continue
        facts = {"place": item.place, **made.facts}
        split.examples.append(Labelled(texts=made.texts, leaves=made.leaves, facts=facts))


def _facts(example: Labelled, *, split: str) -> Labelled:
    """Words are kept of what is scored in words: held-out questions."""
    names = ("place", "id") if split == "train" else ("place", "id", "context", "answers")
    facts = {name: example.facts[name] for name in names if name in example.facts}
    return Labelled(texts=example.texts, leaves=example.leaves, facts=facts)


def _text(example: Labelled) -> bytes:
    return example.facts["text"].encode()


def _stem(config: TaskConfig) -> str:
    path = config.files[0]
    return Path(path.removeprefix("tfds:").split(":")[0]).name.split(".")[0] or config.task


def _judge(path: str, items: list[Item], rejects: list[Reject], cap: float) -> None:
    bad = [each for each in rejects if each.reason not in HARMLESS]
    if len(bad) <= cap * len(items):
        return
    reasons = dict(Counter(each.reason for each in bad))
    first = "; ".join(f"{r.place}: {r.reason}: {r.detail:.200}" for r in bad[:3])
    raise SourceRefused(
        f"{path}: {len(bad):,} of {len(items):,} records are bad, more than reject_cap {cap:.1%}"
        f" allows ({reasons}). First ones: {first}. Repair the file, say --texts, --label or"
        " --labels, or raise --reject-cap"
    )


def _fingerprint(config: TaskConfig, tokenizer: str) -> str:
    settings: Values = asdict(config)
    # Contents count, not where they lie; the cap changes nothing in what is kept.
    for name in ("tokenizer", "reject_cap"):
        del settings[name]
    for name in ("files", "heldout"):
        settings[name] = [_content(path, format_of(path, config)) for path in settings[name]]
    settings["name"] = config.name or _stem(config)
    parts: Record = {"format": FORMAT, "settings": settings, "tokenizer": tokenizer}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _content(path: str, form: str) -> str:
    if form == "tfds":
        from gesso.data.text.tfds import resolve_tfds

        return resolve_tfds(path)[-1]
    return hashlib.sha256(read_text(existing(path))).hexdigest()
