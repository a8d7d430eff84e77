"""`gesso tokenizer train|import|inspect`: make a tokenizer, take one over, see what it does."""

import collections
import json
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from gesso.launch.console import Figures, Refused, existing, narration, output, print_json
from gesso.pretrain.exits import DONE

if TYPE_CHECKING:
    from gesso.data.tokenizers.base import Tokenizer

# What a tokenizer was trained on and how, in its folder.
TRAINED = "trained.json"
_SETTINGS = ("kind", "vocab_size", "case", "words")
# Texts that lose something in most tokenizers.
HARD_TEXTS = {
    "spaces": "  two leading, three   inside, one trailing ",
    "lines": "one\r\ntwo\n\n\n\tthree\n",
    "unicode": "e\u0301 \u00e9 \u65e5\u672c\u8a9e \U0001f468\u200d\U0001f469 \u00a0",
    "controls": "\x00\x01\x1f\x7f\ufeff\ufffd",
    "specials": "<|endoftext|></s><unk><pad>\u2581_<0x41>",
}
EXAMPLE = "def pretrain(corpus):\n    # It's 3.14159 m\u00b2, na\u00efvely: \U0001f600\n"


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a tokenizer on your texts. The same texts give the same tokenizer, on any machine.

    Run again with the same texts and settings, it says so; a different tokenizer in the folder is
    never replaced. Every kind except wordpiece and words is lossless, white space and rare
    characters included.

    Example:
      gesso tokenizer train corpus/*.jsonl.zst --folder my-tokenizer --vocab-size 32000
      gesso tokenizer train embedded --folder small --kind bpe --vocab-size 4096
    """

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Texts: files, folders, globs (.jsonl, .txt, .parquet; .zst, .gz), tfds:NAME, or
    "embedded"."""
    folder: str
    """Folder to write."""
    vocab_size: int
    """Vocabulary size. For words: number of softmax classes."""
    kind: Literal["sentencepiece", "unigram", "bpe", "wordpiece", "words"] = "sentencepiece"
    """Kind of tokenizer. sentencepiece: its bpe. unigram: sentencepiece's unigram, slower to train,
    faster to encode. bpe: byte-level BPE as GPT-2's. wordpiece: BERT's. words: ELMo's."""
    case: Literal["uncased", "cased"] = "uncased"
    """Case of the vocabulary, for wordpiece; "uncased" lowercases and strips accents."""
    words: int = 1_000_000
    """Words known by their spelling, the most frequent ones, for words."""
    limit_megabytes: float = 100.0
    """Text to read in 10**6 bytes, from all files in turn; 0 = all of it."""
    text_key: str = "text"
    """Key of a record's text; dots go inwards."""
    text_split: Literal["file", "blank_line", "line"] = "file"
    """One text of a .txt file: the whole "file", the text between blank lines ("blank_line"), or
    one "line"."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        return run_train(self)


@dataclass(frozen=True, kw_only=True)
class Import:
    """Import a published tokenizer: GPT-2's files, a tokenizer.json, a sentencepiece .model.

    The folder it writes is what `gesso corpus build --tokenizer` takes; its content is guarded by a
    fingerprint from then on.

    Example:
      gesso tokenizer import downloads/gpt2 --folder gpt2-tokenizer
      gesso tokenizer import spiece.model --folder t5-tokenizer --eos "</s>"
    """

    path: tyro.conf.Positional[str]
    """Folder with tokenizer.json, vocab.json and merges.txt, or a .model; or one of these files."""
    folder: str
    """Folder to write."""
    eos: str = ""
    """Token that ends documents; by default the one its files name, <|endoftext|> or </s>."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        return run_import(self)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what a tokenizer does: ids, bytes per token by component, exactness, speed, an example.

    Example:
      gesso tokenizer inspect my-tokenizer
      gesso tokenizer inspect bytes --sample corpus/00.jsonl.zst --text "Hello, world" --json
    """

    path: tyro.conf.Positional[str]
    """Tokenizer's folder or file, or "bytes"."""
    sample: tuple[str, ...] = ("embedded",)
    """Texts to measure it on, as for `train`."""
    limit_megabytes: float = 2.0
    """Text to read in 10**6 bytes."""
    text_key: str = "text"
    """Key of a record's text; dots go inwards."""
    text_split: Literal["file", "blank_line", "line"] = "file"
    """One text of a .txt file: the whole "file", the text between blank lines ("blank_line"), or
    one "line"."""
    text: str = EXAMPLE
    """Text whose pieces are shown."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        return run_inspect(self)


def run_train(options: Train) -> int:
    """`gesso tokenizer train`. Raises Refused for a folder in use, ValueError for bad input."""
    if not options.sources:
        raise Refused("no sources; name files or folders of text, or 'embedded'")
    if options.case == "cased" and options.kind != "wordpiece":
        raise Refused(f"--case has no effect on {options.kind}, which keeps every character")
    if options.limit_megabytes < 0:
        raise Refused(f"--limit-megabytes {options.limit_megabytes:g} is negative; 0 reads all")
    if options.kind != "words" and options.words != Train.words:
        raise Refused(f"--words has no effect on {options.kind}; use --vocab-size")
    from gesso.data.sample import read_texts
    from gesso.storage.files import write_json

    documents = read_texts(
        options.sources,
        text_key=options.text_key,
        text_split=options.text_split,
        limit_bytes=int(options.limit_megabytes * 1e6),
    )
    read = {"documents": 0, "bytes": 0, "crc32": 0}
    start = time.perf_counter()
    texts = _count(documents, read)
    settings = {each: getattr(options, each) for each in _SETTINGS}
    folder = Path(options.folder).expanduser()
    if (folder / TRAINED).is_file():
        tokenizer = _reuse(folder, settings, texts, read)
        done = "already there, of the same texts and settings:"
    else:
        folder = _free_folder(options.folder)
        tokenizer = _train(options, texts, folder)
        write_json(folder / TRAINED, {"settings": settings, "texts": read})
        done = f"in {time.perf_counter() - start:.1f} s:"
    seconds = time.perf_counter() - start
    figures = {**_identity(tokenizer), "folder": str(folder), **read, "seconds": round(seconds, 1)}
    if options.json:
        print_json(figures)
    else:
        _show_identity(figures)
        output().print(
            f"from {read['documents']:,} documents, {read['bytes'] / 1e6:.1f} MB, {done} {folder}"
        )
    return DONE


def _train(options: Train, texts: Iterator[str], folder: Path) -> "Tokenizer":
    from gesso.data.tokenizers.load import (
        train_bpe,
        train_sentencepiece,
        train_wordpiece,
        train_words,
    )

    with narration().status(f"training {options.kind} with {options.vocab_size:,} ids"):
        if options.kind == "bpe":
            return train_bpe(texts, vocab_size=options.vocab_size, folder=folder)
        if options.kind == "wordpiece":
            return train_wordpiece(
                texts,
                vocab_size=options.vocab_size,
                lowercase=options.case == "uncased",
                folder=folder,
            )
        if options.kind == "words":
            return train_words(texts, classes=options.vocab_size, cap=options.words, folder=folder)
        model = "unigram" if options.kind == "unigram" else "bpe"
        return train_sentencepiece(texts, vocab_size=options.vocab_size, kind=model, folder=folder)


def _reuse(
    folder: Path, settings: Figures, texts: Iterator[str], read: dict[str, int]
) -> "Tokenizer":
    """The tokenizer in `folder`, if it was trained so. The texts are read to see that they are the
    same."""
    from gesso.data.tokenizers.load import load_tokenizer

    record = json.loads((folder / TRAINED).read_text())
    with narration().status(f"{folder} is there; comparing the texts it was trained on"):
        collections.deque(texts, maxlen=0)
    other = [
        f"--{name.replace('_', '-')} was {record['settings'].get(name)}"
        for name, value in settings.items()
        if record["settings"].get(name) != value
    ]
    if record["texts"] != read:
        other.append("the texts were others")
    if other:
        raise _in_use(folder, other)
    return load_tokenizer(folder)


def run_import(options: Import) -> int:
    """`gesso tokenizer import`. Raises Refused or TokenizerError for what cannot be taken."""
    existing(options.path, what="tokenizer")
    from gesso.data.tokenizers.load import RECORD, load_tokenizer, save_tokenizer

    if options.eos and (Path(options.path) / RECORD).is_file():
        raise Refused(
            f"{options.path} is imported already, with its own end; --eos cannot change it"
        )
    tokenizer = load_tokenizer(options.path, eos=options.eos)
    folder = Path(options.folder).expanduser()
    there = (folder / RECORD).is_file()
    if not there or load_tokenizer(folder).fingerprint != tokenizer.fingerprint:
        save_tokenizer(tokenizer, _free_folder(options.folder))
    figures = {**_identity(tokenizer), "folder": str(folder)}
    if options.json:
        print_json(figures)
    else:
        _show_identity(figures)
        output().print(f"{folder} holds it already" if there else f"imported into {folder}")
    return DONE


def run_inspect(options: Inspect) -> int:
    """`gesso tokenizer inspect`. Raises TokenizerError or SourceError for what cannot be read."""
    if options.limit_megabytes <= 0:
        raise Refused(f"--limit-megabytes {options.limit_megabytes:g} must be more than 0")
    from gesso.data.sample import read_texts
    from gesso.data.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer(options.path)
    documents = read_texts(
        options.sample,
        text_key=options.text_key,
        text_split=options.text_split,
        limit_bytes=int(options.limit_megabytes * 1e6),
    )
    figures = {
        **_identity(tokenizer),
        **_measure(tokenizer, documents),
        "hard_texts": {name: _exact(tokenizer, text) for name, text in HARD_TEXTS.items()},
        "text": options.text,
        "pieces": [
            {"id": int(index), "text": tokenizer.decode([index])}
            for index in tokenizer.encode(options.text)
        ],
    }
    if options.json:
        print_json(figures)
    else:
        _show(figures)
    return DONE


def _free_folder(name: str) -> Path:
    from gesso.data.tokenizers.load import RECORD

    folder = Path(name).expanduser()
    if folder.is_file() or (folder / RECORD).exists():
        raise _in_use(folder)
    return folder


def _in_use(folder: Path, other: Sequence[str] = ()) -> Refused:
    told = f" ({'; '.join(other)})" if other else ""
    return Refused(
        f"{folder} already {'is a file' if folder.is_file() else 'holds a tokenizer'}{told}; runs"
        " may depend on it: give another --folder, or remove it first"
    )


def _count(documents: Iterator[tuple[str, str]], read: dict[str, int]) -> Iterator[str]:
    for _, text in documents:
        read["documents"] += 1
        read["bytes"] += len(content := text.encode())
        read["crc32"] = zlib.crc32(content, read["crc32"])
        yield text


def _identity(tokenizer: "Tokenizer") -> Figures:
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "eos": tokenizer.eos,
        "fingerprint": tokenizer.fingerprint,
        "engine": tokenizer.engine,
    }


def _measure(tokenizer: "Tokenizer", documents: Iterator[tuple[str, str]]) -> Figures:
    by: dict[str, dict[str, int]] = {}
    used: set[int] = set()
    seconds = 0.0
    for component, text in documents:
        start = time.process_time()
        ids = tokenizer.encode(text)
        seconds += time.process_time() - start
        row = by.setdefault(
            component, {"documents": 0, "bytes": 0, "words": 0, "tokens": 0, "exact": 0}
        )
        row["documents"] += 1
        row["bytes"] += len(text.encode())
        row["words"] += len(text.split())
        row["tokens"] += len(ids)
        row["exact"] += tokenizer.decode(ids) == text
        used.update(ids.tolist())
    total = {name: sum(row[name] for row in by.values()) for name in next(iter(by.values()))}
    return {
        "components": {name: _rates(row) for name, row in sorted(by.items())},
        "total": _rates(total),
        "ids_used": len(used),
        "megabytes_per_cpu_second": round(total["bytes"] / 1e6 / max(seconds, 1e-9), 1),
    }


def _rates(row: dict[str, int]) -> Figures:
    return {
        **row,
        "bytes_per_token": round(row["bytes"] / max(1, row["tokens"]), 3),
        "tokens_per_word": round(row["tokens"] / max(1, row["words"]), 3),
    }


def _exact(tokenizer: "Tokenizer", text: str) -> bool:
    return tokenizer.decode(tokenizer.encode(text)) == text


def _show_identity(figures: Figures) -> None:
    engine = "" if figures["engine"] == figures["kind"] else f" ({figures['engine']} engine)"
    output().print(
        f"[bold]{figures['kind']}[/]{engine}  {figures['vocab_size']:,} ids, end of document "
        f"{figures['eos']}\nfingerprint {figures['fingerprint']}"
    )


def _show(figures: Figures) -> None:
    from rich.table import Table
    from rich.text import Text

    _show_identity(figures)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("component", style="cyan", no_wrap=True)
    for heading in ("documents", "MB", "bytes/token", "tokens/word", "exact"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in [*figures["components"].items(), ("all", figures["total"])]:
        table.add_row(
            name,
            f"{row['documents']:,}",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['bytes_per_token']:.2f}",
            f"{row['tokens_per_word']:.2f}",
            f"{row['exact'] / row['documents']:.1%}",
        )
    console = output()
    console.print(table)
    console.print(
        f"{figures['ids_used']:,} of {figures['vocab_size']:,} ids occur; "
        f"{figures['megabytes_per_cpu_second']} MB encoded per CPU-second"
    )
    lost = [name for name, exact in figures["hard_texts"].items() if not exact]
    console.print(f"hard texts: {'not exact for ' + ', '.join(lost) if lost else 'all exact'}")
    line = Text()
    for number, piece in enumerate(figures["pieces"]):
        shown = piece["text"].replace(" ", "\u00b7").replace("\n", "\u21b5").replace("\t", "\u21e5")
        line.append(shown or "\u2205", style="black on cyan" if number % 2 else "black on white")
        if not sys.stdout.isatty():
            line.append("|")
    console.print(line)
