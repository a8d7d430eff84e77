"""The embedded corpus: Pile format, same on every run, in proportion, also for a partial Python."""

import hashlib
import json
import multiprocessing
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gesso.data.embedded import corpus as embedded
from gesso.data.embedded.corpus import Embedded, ensure_store, parse_store, write_embedded
from gesso.data.embedded.documents import documents
from gesso.data.embedded.shards import HOLDOUT, read_shard
from gesso.data.text.documents import is_held_out, text_hash

CODE = '"""Module {n} says something long enough to be prose: {words}."""\n\nvalue{n} = "{words}"\n'


def small_python(root: Path, *, tests: int = 30, topics: int = 12) -> Path:
    """A standard library of a few files."""
    for number in range(60):
        folder = root / ("json" if number % 2 else "asyncio")
        folder.mkdir(parents=True, exist_ok=True)
        text = CODE.format(n=number, words="word " * (20 + number))
        (folder / f"m{number}.py").write_text(text)
    for number in range(tests):
        (root / "test").mkdir(exist_ok=True)
        text = CODE.format(n=-number, words="test " * (40 + number))
        (root / "test" / f"test_{number}.py").write_text(text)
    if topics:
        (root / "pydoc_data").mkdir()
        content = {f"topic{n}": f"Section {n}. " * (10 + n) for n in range(topics)}
        (root / "pydoc_data" / "topics.py").write_text(f"# made\ntopics = {content!r}\n")
    (root / "empty.py").write_text("")
    (root / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# " + b"\xe9" * 100)
    (root / "broken.py").write_text("def f(:\n" + "# not Python, and still a document\n" * 4)
    (root / "_sysconfigdata__linux_.py").write_text("# a machine's paths\n" * 20)
    (root / "site-packages").mkdir()
    (root / "site-packages" / "other.py").write_text("# not the standard library\n" * 20)
    (root / "copy.py").write_text((root / "json" / "m1.py").read_text())
    return root


@pytest.fixture
def python(tmp_path, monkeypatch):
    root = small_python(tmp_path / "lib")
    monkeypatch.setattr("gesso.data.embedded.documents.sysconfig.get_path", lambda name: str(root))
    return root


def read_all(paths):
    return [document for path in paths for document in read_shard(path)]


def test_the_documents_of_a_python(tmp_path):
    root = small_python(tmp_path / "lib")
    found = list(documents(root))
    assert Counter(component for component, _ in found) == {
        "Stdlib": 62,  # 60 modules, a copy, and the one that does not parse
        "Docstrings": 61,
        "StdlibTests": 30,
        "LanguageReference": 12,
    }
    code = [text for component, text in found if component == "Stdlib"]
    prose = [text for component, text in found if component == "Docstrings"]
    assert not any("long enough to be prose" in text for text in code)
    assert all("long enough to be prose" in text for text in prose)
    assert not any("a machine's paths" in text or "not the standard" in text for _, text in found)
    moved = tmp_path / "moved"
    root.rename(moved)
    assert list(documents(moved)) == found


def test_code_and_its_docstrings_share_nothing(tmp_path):
    prose = "Long enough to be taken for prose, " * 4
    source = f'''#!/usr/bin/env python\r
"""Of a module. {prose}
with \x0c a form feed
"""\r
class C:
    r"""Of a class. {prose}"""; x = 1
    def f(self):
        \'Of a function. {prose}\'
        return "kept {prose}"
    def g(self): "On its line. {prose}"
    def h(self):
        "short"
'''
    (tmp_path / "m.py").write_bytes(source.encode())
    (component, code), (_, docstrings) = documents(tmp_path)
    assert component == "Stdlib"
    kept = ["#!/usr/bin/env python", 'r"""Of a class', "kept", "On its line", '"short"']
    assert [text for text in kept if text not in code] == []
    assert "Of a module" not in code and "Of a function" not in code
    assert docstrings.startswith("Of a module.")
    assert "Of a function." in docstrings and "On its line" not in docstrings


@pytest.mark.parametrize("missing", ["test", "pydoc_data"])
def test_a_distribution_without_a_part(tmp_path, missing):
    absent = {"test": {"tests": 0}, "pydoc_data": {"topics": 0}}[missing]
    found = {component for component, _ in documents(small_python(tmp_path / "lib", **absent))}
    component = {"test": "StdlibTests", "pydoc_data": "LanguageReference"}[missing]
    assert component not in found
    assert {"Stdlib", "Docstrings"} < found


def test_a_python_without_sources_is_refused(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(
        "gesso.data.embedded.documents.sysconfig.get_path", lambda name: str(tmp_path / "lib")
    )
    with pytest.raises(ValueError, match="without the sources"):
        write_embedded(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_are_in_the_piles_format_and_hold_each_document_once(python, tmp_path):
    paths = write_embedded(tmp_path / "out", shards=3)
    assert [path.name for path in paths] == ["00.jsonl.zst", "01.jsonl.zst", "02.jsonl.zst"]
    # Read by another implementation than the one that wrote them.
    zstandard = pytest.importorskip("zstandard")
    records = []
    for path in paths:
        with path.open("rb") as file:
            content = zstandard.ZstdDecompressor().stream_reader(file).read()
        records += [json.loads(line) for line in content.decode().split("\n") if line]
    assert all(set(record) == {"text", "meta"} for record in records)
    texts = [record["text"] for record in records]
    assert len(set(texts)) == len(texts)
    assert set(texts) == {text for _, text in documents(python)}
    assert len(texts) == len(list(documents(python))) - 2  # the copy and its docstring
    record = json.loads((tmp_path / "out" / "corpus.json").read_text())
    counts = Counter(record["meta"]["pile_set_name"] for record in records)
    assert {n: of["documents"] for n, of in record["components"].items()} == counts
    sizes = sum(of["bytes"] for of in record["components"].values())
    assert sizes == sum(len(text.encode()) for text in texts)
    for path in paths:
        assert record["sha256"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_python_gives_the_same_bytes(python, tmp_path):
    first = write_embedded(tmp_path / "one")
    second = write_embedded(tmp_path / "two")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_documents_are_shuffled(python, tmp_path):
    shards = [list(read_shard(path)) for path in write_embedded(tmp_path / "out", shards=2)]
    for shard in shards:
        assert len({component for component, _ in shard[:20]}) >= 3


@pytest.mark.parametrize("megabytes", [0.01, 0.015, 0.02])
def test_a_limit_keeps_the_proportions(python, tmp_path, megabytes):
    def sizes(paths):
        by: Counter[str] = Counter()
        for component, text in read_all(paths):
            by[component] += len(text.encode())
        return by

    whole = sizes(write_embedded(tmp_path / "all"))
    part = sizes(write_embedded(tmp_path / "part", megabytes=megabytes))
    assert set(part) == set(whole)
    # Each of the two sides of the holdout is off by less than a document.
    longest = max(len(text.encode()) for _, text in documents(python))
    for component, size in whole.items():
        expected = megabytes * 1e6 * size / sum(whole.values())
        assert abs(part[component] - expected) < 2 * longest
    everything = set(read_all(write_embedded(tmp_path / "all")))
    assert set(read_all(write_embedded(tmp_path / "part", megabytes=megabytes))) <= everything


def test_a_tiny_limit_keeps_both_sides_of_every_component(python, tmp_path):
    def sides(paths):
        found = read_all(paths)
        return Counter((c, is_held_out(text_hash(text.encode()), HOLDOUT)) for c, text in found)

    whole = sides(write_embedded(tmp_path / "all"))
    assert len(whole) > 4  # some components have held-out documents in this small Python
    assert sides(write_embedded(tmp_path / "out", megabytes=0.0001)) == dict.fromkeys(whole, 1)


def test_a_finished_folder_is_left_alone_and_a_damaged_one_is_made_again(python, tmp_path):
    paths = write_embedded(tmp_path / "out")
    times = [path.stat().st_mtime_ns for path in paths]
    content = [path.read_bytes() for path in paths]
    assert write_embedded(tmp_path / "out") == paths
    assert [path.stat().st_mtime_ns for path in paths] == times
    paths[1].write_bytes(content[1][:-5])
    write_embedded(tmp_path / "out")
    assert [path.read_bytes() for path in paths] == content
    (tmp_path / "out" / "corpus.json").unlink()
    paths[0].unlink()
    write_embedded(tmp_path / "out")
    assert [path.read_bytes() for path in paths] == content


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("embedded:bytes", Embedded(kind="bytes")),
        ("embedded:sentencepiece:4", Embedded(kind="sentencepiece", megabytes=4.0)),
        ("embedded:bpe:0.5", Embedded(kind="bpe", megabytes=0.5)),
        ("embedded-task:bytes", Embedded(kind="bytes", holds="task")),
        (
            "embedded-instructions:bytes:1",
            Embedded(kind="bytes", megabytes=1.0, holds="instructions"),
        ),
        ("some/folder", None),
        ("gs://bucket/embedded:bytes", None),
    ],
)
def test_what_a_store_may_be_called(spec, parsed):
    assert parse_store(spec) == parsed


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("embedded", "did you mean 'embedded:bytes'"),
        ("embedded:sentencepeice", "did you mean 'embedded:sentencepiece'"),
        ("embeded:bytes:2", "did you mean 'embedded:bytes:2'"),
        ("embedded-instruction:bytes", "did you mean 'embedded-instructions:bytes'"),
        ("embedded:bytes:many", "expected embedded:KIND"),
        ("embedded:bytes:-1", "expected embedded:KIND"),
        ("embedded:bytes:1:2", "expected embedded:KIND"),
    ],
)
def test_mistyped_stores_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_store(spec)


def test_a_path_is_taken_as_it_is(tmp_path):
    assert ensure_store(str(tmp_path / "x")) == tmp_path / "x"
    assert str(ensure_store("gs://bucket/store")) == "gs://bucket/store"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "bpe", "wordpiece"])
def test_from_nothing_to_a_store(cache, kind):
    from gesso.data.open import open_store

    lines = []
    folder = ensure_store(f"embedded:{kind}:0.3", cache, lines.append)
    store = open_store(folder)
    assert store.complete
    assert set(store.components) == {"Stdlib", "StdlibTests", "Docstrings", "LanguageReference"}
    assert store.tokenizer().kind == ("bytes" if kind == "bytes" else kind)
    assert lines
    assert store.verify() == []
    # Its documents are the corpus's.
    (record,) = cache.glob("embedded/*/corpus/corpus.json")
    counted = json.loads(record.read_text())["components"]
    for component, splits in store.totals().items():
        documents = sum(split["documents"] for split in splits.values())
        assert documents == counted[component]["documents"]
        assert splits["holdout"]["documents"] > 0
    before = len(lines)
    assert ensure_store(f"embedded:{kind}:0.3", cache, lines.append) == folder
    assert len(lines) == before


def _make(cache: str, queue) -> None:
    lines: list[str] = []
    folder = ensure_store("embedded:bytes:0.2", cache, lines.append)
    queue.put((str(folder), any("tokenizing" in line for line in lines)))


def test_two_processes_at_once_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_make, args=(str(tmp_path), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len({folder for folder, _ in results}) == 1
    assert sorted(made for _, made in results) == [False, True]


def test_a_kill_between_the_stages_is_continued(python, tmp_path, monkeypatch):
    from gesso.data.open import open_store
    from gesso.data.store import build

    def killed(**settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(build, "build", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure_store("embedded:bytes", tmp_path / "a", lambda line: None)
    store = open_store(ensure_store("embedded:bytes", tmp_path / "a", lambda line: None))
    other = open_store(ensure_store("embedded:bytes", tmp_path / "b", lambda line: None))
    assert store.fingerprint == other.fingerprint
    era, same = store.era(0), other.era(0)
    lengths = era.lengths("Stdlib", "train")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    np.testing.assert_array_equal(
        era.read("Stdlib", "train", starts, lengths), same.read("Stdlib", "train", starts, lengths)
    )


def test_the_cache_folder_is_the_environments(tmp_path, monkeypatch):
    monkeypatch.setenv("GESSO_CACHE", str(tmp_path / "cache"))
    folder = embedded._folder(2, None)
    assert folder.is_relative_to(tmp_path / "cache")
    monkeypatch.delenv("GESSO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert embedded._folder(2, None).is_relative_to(tmp_path / ".cache" / "gesso")


def test_the_module_is_light():
    heavy = ("pyarrow", "jax", "numpy", "tokenizers", "sentencepiece")
    code = f"import sys, data.embedded; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
