"""A task that comes with Python: of which component of the embedded corpus an excerpt is."""

import hashlib
from collections import Counter
from pathlib import Path

from gesso.data.embedded.shards import HOLDOUT, VERSION, read_shard
from gesso.data.labelled.store import TaskStore
from gesso.data.labelled.writer import Labelled, Written, write_task
from gesso.data.text.documents import is_held_out, text_hash
from gesso.data.tokenizers.load import load_tokenizer

# Part of the folder's name: raised when the excerpts change.
TASK = "task-1"
# Characters of an excerpt, excerpts of a document at most, and training excerpts of a component.
EXCERPT, PER_DOCUMENT, PER_LABEL = 160, 8, 500


def make_task(shards: list[Path], folder: Path) -> TaskStore:
    """The task store in `folder`/TASK, of the corpus's shards; its tokenizer is that of the token
    store beside it. Excerpts of documents that are held out there are held out here, so a model
    that was trained on the one may be evaluated on the other."""
    tokenizer = load_tokenizer(folder / "store" / "tokenizer")
    found: dict[str, list[tuple[str, str]]] = {"train": [], "holdout": []}
    taken: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    documents = [document for path in shards for document in read_shard(path)]
    labels = tuple(sorted({component for component, _ in documents}))
    for component, text in documents:
        split = "holdout" if is_held_out(text_hash(text.encode()), HOLDOUT) else "train"
        most = PER_LABEL if split == "train" else PER_LABEL // 5
        for excerpt in _excerpts(text):
            if taken[split, component] < most and excerpt not in seen:
                taken[split, component] += 1
                seen.add(excerpt)
                found[split].append((component, excerpt))

    def examples(split: str) -> list[Labelled]:
        tokens = tokenizer.encode_batch([excerpt for _, excerpt in found[split]])
        return [
            Labelled(
                texts=(ids,),
                leaves={"labels": labels.index(component)},
                facts={"place": f"{component}, excerpt {number}"},
            )
            for number, ((component, _), ids) in enumerate(zip(found[split], tokens, strict=True))
        ]

    content = "\n".join(f"{split} {each}" for split in found for each in found[split])
    parts = f"{TASK} {VERSION} {tokenizer.fingerprint} {content}"
    task = Written(
        kind="classify",
        name="components",
        labels=labels,
        texts=1,
        source=hashlib.sha256(parts.encode()).hexdigest(),
        counts={"records": sum(map(len, found.values()))},
    )
    return write_task(
        folder / TASK,
        task,
        train=examples("train"),
        holdout=examples("holdout"),
        tokenizer=tokenizer,
    )


def _excerpts(text: str) -> list[str]:
    """Runs of whole words, evenly spread, of EXCERPT characters or less."""
    words = " ".join(text.split())
    step = max(EXCERPT, len(words) // PER_DOCUMENT)
    starts = range(0, max(1, len(words) - EXCERPT), step)
    made = [words[start : start + EXCERPT] for start in starts]
    whole = [each.partition(" ")[2].rpartition(" ")[0] for each in made]
    return [each for each in whole if len(each) >= EXCERPT // 2]
