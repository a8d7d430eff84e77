"""From files of examples to a store of instruction examples: read, rendered, tokenized once.

docs/instructions.md tells how it is used; data/instructions/order.py makes rows of it.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gesso.data.instructions.store import FORMAT, InstructionStore, is_instruction_store
from gesso.data.instructions.writer import Writer
from gesso.data.text.documents import is_held_out, text_hash
from gesso.data.tokenizers.base import Tokenizer
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.finetune.instructions.chat import ChatTemplate, plain_template, read_template
from gesso.finetune.instructions.config import InstructionsConfig, SourceConfig
from gesso.finetune.instructions.examples import (
    FAMILIES,
    Example,
    Loaded,
    Reject,
    Task,
    lines_of,
    load,
)
from gesso.finetune.instructions.fields import FieldError, Values
from gesso.finetune.instructions.files import existing, read_text
from gesso.finetune.instructions.pieces import chat_piece, pieces_of
from gesso.finetune.instructions.render import Rendered, Renderer
from gesso.finetune.instructions.templates import Family, families, fingerprint, read_families

REJECTS = "rejects.jsonl"
_CHUNK = 512  # examples rendered and tokenized at a time


def build_instructions(
    config: InstructionsConfig, folder: str | Path, *, say: Callable[[str], None] = lambda _: None
) -> InstructionStore:
    """The store of these examples in `folder`, made first where it is not there yet.

    say: told each stage in a line. Raises ValueError for settings, templates and files that cannot
    be used, more bad records than reject_cap, and a folder that holds something else.
    """
    _check(config)
    folder = Path(folder).expanduser()
    tokenizer = load_tokenizer(config.tokenizer)
    known = known_families(config)
    chat = chat_template(config, tokenizer)
    wanted = _fingerprint(config, tokenizer, known, chat)
    if is_instruction_store(folder):
        store = InstructionStore(folder)
        if store.fingerprint == wanted:
            return store
        raise ValueError(
            f"{folder} holds a store of other examples, templates or settings"
            f" ({store.fingerprint[:12]}, asked for {wanted[:12]}); name another folder, or remove"
            " this one"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} exists and is not a store of instruction examples; name another"
        )
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with Writer(draft, tokenizer) as writer:
            _build(config, writer, draft, tokenizer, known, chat, wanted, say)
        if folder.exists() and not is_instruction_store(folder):
            folder.rmdir()  # empty; another process may have put its store here meanwhile
        if not folder.exists():
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return InstructionStore(folder)


def known_families(config: InstructionsConfig) -> dict[str, Family]:
    """Our families and those of config.templates, which may replace ours."""
    return families() | read_families(config.templates)


def chat_template(config: InstructionsConfig, tokenizer: Tokenizer) -> ChatTemplate:
    """The template that chats are written with. Raises ValueError for one that cannot be used."""
    chat = config.chat
    if not chat.template:
        if chat.special or chat.bos or chat.eos:
            raise ValueError("chat.special, bos and eos are of a chat.template of yours; name it")
        return plain_template(tokenizer)
    if wrong := {t: i for t, i in chat.special.items() if not 0 <= i < tokenizer.vocab_size}:
        raise ValueError(f"chat.special names ids outside the {tokenizer.vocab_size} ids: {wrong}")
    return ChatTemplate(
        read_template(chat.template), special=chat.special, bos=chat.bos, eos=chat.eos
    )


def preview(
    config: InstructionsConfig, source: SourceConfig, *, examples: int
) -> Iterator[tuple[Task, Example, Sequence[Rendered | list[Any]]]]:
    """(task, example, its renderings) of the first examples of a source, for a person to look at.
    A chat's rendering is its spans."""
    tokenizer = load_tokenizer(config.tokenizer)
    known, chat = known_families(config), chat_template(config, tokenizer)
    loaded = load(source, families=known, reject_cap=config.reject_cap)
    left = examples
    for task in loaded.tasks:
        ordered, train = _split(task, config.holdout)
        renderer = _renderer(task, ordered, train, config)
        for index in range(min(left, len(ordered))):
            each = ordered[index]
            if renderer is None:
                yield task, each, [chat.spans(each.values["messages"])]
            else:
                yield task, each, [renderer.render(index, r) for r in range(config.renderings)]
        left -= min(left, len(ordered))


def _build(
    config: InstructionsConfig,
    writer: Writer,
    folder: Path,
    tokenizer: Tokenizer,
    known: dict[str, Family],
    chat: ChatTemplate,
    wanted: str,
    say: Callable[[str], None],
) -> None:
    tasks: list[Values] = []
    rejects: list[Reject] = []
    counts: Counter[str] = Counter()
    seen: set[tuple[str, int]] = set()
    for source in config.sources:
        loaded = _usable(load(source, families=known, reject_cap=config.reject_cap), chat)
        counts["records"] += loaded.records
        counts["over_limit"] += loaded.over_limit
        rejects += loaded.rejects
        for task in loaded.tasks:
            if any(each["name"] == task.name for each in tasks):
                raise ValueError(f"two sources have a task {task.name!r}; set `task` of one")
            ordered, train = _split(task, config.holdout)
            hashes = {(task.name, _digest(each)) for each in ordered}
            counts["duplicates"] += len(ordered) - len(hashes - seen)
            seen |= hashes
            counts["examples"] += len(ordered)
            first = writer.pieces
            _write_task(task, ordered, train, config, tokenizer, chat, writer, counts)
            tasks.append(
                {
                    "name": task.name,
                    "component": task.cluster,
                    "family": task.family.name if task.family else "chat",
                    "train": train,
                    "holdout": len(ordered) - train,
                    "first": first,
                }
            )
        refused = sum(loaded.reasons().values())
        say(f"{source.path}: {loaded.records:,} records, {refused:,} refused")
    save_tokenizer(tokenizer, folder / "tokenizer")
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines_of(rejects))
    (folder / REJECTS).write_text(lines)
    examples = counts["examples"]
    record = {
        "format": FORMAT,
        "fingerprint": wanted,
        "tokenizer": tokenizer.fingerprint,
        "eos": tokenizer.eos,
        "renderings": config.renderings,
        "tasks": tasks,
        "rejects": dict(sorted(Counter(each.reason for each in rejects).items())),
        "duplicates": counts["duplicates"] / examples if examples else 0.0,
        "counts": dict(sorted(counts.items())),
        "config": dataclasses.asdict(config),
    }
    writer.finish(record)


def _usable(loaded: Loaded, chat: ChatTemplate) -> Loaded:
    # Chats that the template refuses are rejects as well.
    refused: list[Reject] = []
    for task in loaded.tasks:
        if task.family is not None:
            continue
        kept = []
        for each in task.examples:
            try:
                chat.spans(each.values["messages"])
                kept.append(each)
            except FieldError as error:
                refused.append(Reject(each.place, error.reason, str(error), str(each.values)[:200]))
        task.examples[:] = kept
    if not any(task.examples for task in loaded.tasks):
        raise ValueError(f"{refused[0].place}: {refused[0].detail} (and so all other chats)")
    return dataclasses.replace(loaded, rejects=(*loaded.rejects, *refused))


def _write_task(
    task: Task,
    ordered: Sequence[Example],
    train: int,
    config: InstructionsConfig,
    tokenizer: Tokenizer,
    chat: ChatTemplate,
    writer: Writer,
    counts: Counter[str],
) -> None:
    renderer = _renderer(task, ordered, train, config)
    for start in range(0, len(ordered), _CHUNK):
        indices = range(start, min(start + _CHUNK, len(ordered)))
        if renderer is None:
            pieces = [chat_piece(ordered[i], chat, tokenizer) for i in indices]
            pieces = [each for each in pieces for _ in range(config.renderings)]
        else:
            asked = [(i, r) for i in indices for r in range(config.renderings)]
            pieces = pieces_of(
                renderer, asked, tokenizer, max_tokens=config.max_tokens, counts=counts
            )
        for k, piece in enumerate(pieces):
            index, rendering = start + k // config.renderings, k % config.renderings
            split = "train" if index < train else "holdout"
            writer.add(piece.ids, piece.predicted)
            if rendering == 0:
                writer.count(task.cluster, split, piece.ids, piece.predicted, piece.text)


def _renderer(
    task: Task, ordered: Sequence[Example], train: int, config: InstructionsConfig
) -> Renderer | None:
    if task.family is None:
        return None
    return Renderer(
        task.family, ordered, train=train, name=task.name, forms=config.forms, seed=config.seed
    )


def _split(task: Task, holdout: float) -> tuple[list[Example], int]:
    """The examples, those for training first, and how many these are. Exact twins stay together."""
    held = [is_held_out(_digest(each), holdout) for each in task.examples]
    train = [each for each, out in zip(task.examples, held, strict=True) if not out]
    return train + [e for e, out in zip(task.examples, held, strict=True) if out], len(train)


def _digest(example: Example) -> int:
    return text_hash(json.dumps(example.values, sort_keys=True).encode())


def _fingerprint(
    config: InstructionsConfig, tokenizer: Tokenizer, known: dict[str, Family], chat: ChatTemplate
) -> str:
    used = {each.family or FAMILIES.get(each.format, "") for each in config.sources} & known.keys()
    settings = dataclasses.asdict(config)
    # Contents count, not where they lie; the cap changes nothing in what is kept.
    for name in ("tokenizer", "templates", "chat", "reject_cap"):
        del settings[name]
    for source in settings["sources"]:
        source["content"] = _content(source["path"], source["format"])
        source["task"] = source["task"] or Path(source["path"]).name
        del source["path"]
    parts = {
        "format": FORMAT,
        "settings": settings,
        "tokenizer": tokenizer.fingerprint,
        "families": {name: fingerprint(known[name]) for name in sorted(used)},
        "chat": [chat.source, chat.special, chat.bos, chat.eos],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _content(path: str, form: str) -> str:
    if form == "tfds":
        from gesso.data.text.tfds import resolve_tfds

        return resolve_tfds(path)[-1]
    place = existing(path)
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(read_text(file)).digest())
    return digest.hexdigest()


def _check(config: InstructionsConfig) -> None:
    forms, problems = config.forms, []
    if not config.sources:
        problems.append("there are no sources")
    if config.renderings < 1 or config.max_tokens < 8:
        problems.append("renderings must be at least 1 and max_tokens at least 8")
    if not 0 <= config.holdout < 1:
        problems.append(f"holdout must be in [0, 1), not {config.holdout}")
    shares = (forms.zero_shot, forms.few_shot, forms.reasoned, forms.few_shot_reasoned)
    if min(shares) < 0 or not sum(shares):
        problems.append(f"the shares of forms must not be negative, nor all 0: {shares}")
    if not 1 <= forms.shots[0] <= forms.shots[1]:
        problems.append(f"forms.shots is (fewest, most), from 1 on, not {forms.shots}")
    if not (0 <= forms.options <= 1 and 0 <= forms.inverted <= 1):
        problems.append("forms.options and forms.inverted are shares in [0, 1]")
    if problems:
        raise ValueError("these instructions cannot be built: " + "; ".join(problems))
