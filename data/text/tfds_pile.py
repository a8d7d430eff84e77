"""A Pile-like corpus as a tensorflow-datasets dataset, for others to load. No TensorFlow needed.

    write_tfds(["pile/*.jsonl.zst"], data_folder)
    tfds.data_source("pile_like", data_dir=data_folder, split="train")[0]["text"]   # bytes

Only array_record is written: tensorflow-datasets 4.9.10 loses examples when it writes parquet, and
needs TensorFlow to write tfrecord.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from gesso.data.text.documents import Batch, Document, DocumentRules, encode
from gesso.data.text.readers import open_reader
from gesso.data.text.record import Cursor
from gesso.data.text.rejects import RejectPolicy
from gesso.data.text.shards import Shard, SourceError
from gesso.data.text.sources import resolve
from gesso.data.tokenizers.bytes import BytesTokenizer

_RULES = DocumentRules(
    text_key="text",
    component_key="meta.pile_set_name",
    max_document_bytes=64 << 20,
    holdout=0.0,
    dtype="<u2",
)


class PileLike(tfds.core.GeneratorBasedBuilder):
    """Text with the name of its component, under The Pile's keys."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, *, sources: Sequence[str] = (), reject_cap: float = 0.01, **settings: Any
    ) -> None:
        self._sources = tuple(sources)
        self._reject_cap = reject_cap
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        meta = tfds.features.FeaturesDict({"pile_set_name": tfds.features.Text()})
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "meta": meta})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, Any]]]:
        return {"train": self._examples(resolve(self._sources))}

    def _generate_examples(self) -> Any:
        raise NotImplementedError("the split has its generator; TFDS wants this name to exist")

    def _examples(self, shards: Sequence[Shard]) -> Iterator[tuple[str, Any]]:
        for number, shard in enumerate(shards):
            policy = RejectPolicy(
                shard.name, on_bad_input="quarantine", cap=self._reject_cap, records=0, counts={}
            )
            for record, text, component in _documents(shard, policy):
                example = {"text": text, "meta": {"pile_set_name": component}}
                yield f"{number:05d}-{record:012d}", example
            policy.judge()


def write_tfds(
    sources: Sequence[str], data_folder: str | Path, *, reject_cap: float = 0.01
) -> PileLike:
    """Write `data_folder/pile_like/1.0.0` from sources (see BuildConfig), as array_record.

    Preparing is not resumable: what a killed one left (incomplete.*) is deleted, and it starts
    again. Raises SourceError if the dataset has another number of examples than were given.
    """
    home = Path(data_folder).expanduser() / PileLike.name
    for leftover in home.glob("incomplete.*"):
        shutil.rmtree(leftover)
    builder = PileLike(
        sources=sources,
        reject_cap=reject_cap,
        data_dir=str(home.parent),
        file_format="array_record",
    )
    builder.download_and_prepare(file_format="array_record")
    want = builder.info.splits["train"].num_examples
    source: Any = builder.as_data_source(split="train")  # pyright: ignore[reportCallIssue]
    found = len(source)
    if found != want:
        raise SourceError(f"{home}: {found:,} examples in the files, {want:,} were written")
    return builder


def _documents(shard: Shard, policy: RejectPolicy) -> Iterator[tuple[int, str, str]]:
    reader = open_reader(
        shard,
        text_key=_RULES.text_key,
        component_key=_RULES.component_key,
        text_split="file",
        limit=_RULES.max_document_bytes,
    )
    form = "json" if shard.form == "jsonl" else "text"
    tokenizer = BytesTokenizer()
    for record in reader.records(Cursor()):
        batch = Batch(form, [(record.raw, record.length, record.component)], shard.fallback)
        # Through the builder's own path, so that both accept the same documents.
        encoded = encode(batch, rules=_RULES, tokenizer=tokenizer)
        item = encoded.items[0]
        if isinstance(item, Document):
            policy.accept()
            yield record.end.record, tokenizer.decode(encoded.tokens[:-1]), item.component
        else:
            policy.refuse(item, line=record.end.record)
