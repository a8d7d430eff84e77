"""tensorflow-datasets, read and written without TensorFlow."""

import json
import re
import shutil
import struct
import sys
from collections import Counter

import pytest
from sample_corpus import BAD_LINES, documents, lines, small_build, texts_of, tree, write_jsonl

from gesso.data.open import open_store
from gesso.data.text.readers import open_reader
from gesso.data.text.record import Cursor
from gesso.data.text.shards import SourceError
from gesso.data.text.sources import resolve
from gesso.data.text.tfds import tfrecord_crc, tfrecords

tfds = pytest.importorskip("tensorflow_datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SETTINGS = {
    "text_key": "text",
    "component_key": "meta.pile_set_name",
    "text_split": "file",
    "limit": 1 << 20,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A data folder with `pile_like` as array_record: 90 documents, 2 bad lines in its source."""
    from gesso.data.text.tfds_pile import write_tfds

    root = tmp_path_factory.mktemp("tfds")
    write_jsonl(root / "in" / "0.jsonl.zst", [*lines(50), *BAD_LINES[:2]])
    write_jsonl(root / "in" / "1.jsonl", lines(40, seed=1))
    leftover = root / "data" / "pile_like" / "incomplete.ABC_1.0.0"
    leftover.mkdir(parents=True)
    write_tfds([str(root / "in")], root / "data", reject_cap=0.1)
    assert not leftover.exists()
    return root / "data"


@pytest.fixture(scope="module")
def tfrecord(home, tmp_path_factory):
    """The same dataset as tfrecord, written here since tensorflow-datasets needs TensorFlow to."""
    from tensorflow_datasets.core import example_serializer

    builder = tfds.builder_from_directory(str(home / "pile_like" / "1.0.0"))
    source = builder.as_data_source(split="train")
    folder = tmp_path_factory.mktemp("tfrecord") / "pile_like" / "1.0.0"
    folder.mkdir(parents=True)
    info = json.loads((home / "pile_like" / "1.0.0" / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    split = info["splits"][0]
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split["shardLengths"] = ["60", "30"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    features = (home / "pile_like" / "1.0.0" / "features.json").read_text()
    (folder / "features.json").write_text(features)
    serializer = example_serializer.ExampleSerializer(builder.info.features.get_serialized_info())
    for shard, (first, last) in enumerate(((0, 60), (60, 90))):
        content = b""
        for example in (source[n] for n in range(first, last)):
            payload = serializer.serialize_example(builder.info.features.encode_example(example))
            head = struct.pack("<Q", len(payload))
            content += head + struct.pack("<I", tfrecord_crc(head))
            content += payload + struct.pack("<I", tfrecord_crc(payload))
        (folder / f"pile_like-train.tfrecord-{shard:05d}-of-00002").write_bytes(content)
    return folder.parent.parent


def want():
    return Counter(documents(50) + documents(40, seed=1))


def counted(folder):
    found = texts_of(folder)
    return Counter((text, name) for (name, _), texts in found.items() for text in texts)


def test_others_read_what_we_write(home):
    builder = tfds.builder("pile_like", data_dir=str(home))
    source = builder.as_data_source(split="train")
    assert len(source) == builder.info.splits["train"].num_examples == 90
    read = Counter(
        (x["text"].decode(), x["meta"]["pile_set_name"].decode())
        for x in (source[n] for n in range(90))
    )
    assert read == want()
    assert "tensorflow" not in sys.modules


def test_a_bad_source_is_not_written(tmp_path):
    from gesso.data.text.tfds_pile import write_tfds

    write_jsonl(tmp_path / "x.jsonl", [*lines(10), *BAD_LINES])
    with pytest.raises(Exception, match="records are bad"):
        write_tfds([str(tmp_path / "x.jsonl")], tmp_path / "data")


@pytest.mark.parametrize("kind", ["name", "folder", "version folder", "tfrecord"])
def test_a_dataset_is_a_source(home, tfrecord, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))
    source = {
        "name": "tfds:pile_like",
        "folder": f"tfds:{home / 'pile_like'}:train",
        "version folder": f"tfds:{home / 'pile_like' / '1.0.0'}",
        "tfrecord": f"tfds:{tfrecord / 'pile_like'}",
    }[kind]
    small_build(source, tmp_path / "store")
    assert counted(tmp_path / "store") == want()
    assert open_store(tmp_path / "store").verify() == []
    assert "tensorflow" not in sys.modules


def test_both_file_formats_give_the_same_store(home, tfrecord, tmp_path):
    small_build(f"tfds:{home / 'pile_like'}", tmp_path / "a")
    small_build(f"tfds:{tfrecord / 'pile_like'}", tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
@pytest.mark.parametrize("split", ["train", "train[20:75]"])
def test_reading_on_from_any_cursor_gives_the_rest(home, tfrecord, form, split):
    folder = {"array_record": home, "tfrecord": tfrecord}[form] / "pile_like"
    (shard,) = resolve([f"tfds:{folder}:{split}"])
    everything = list(open_reader(shard, **SETTINGS).records(Cursor()))
    assert len(everything) == (90 if split == "train" else 55)
    for place in range(0, len(everything), 9):
        rest = open_reader(shard, **SETTINGS).records(everything[place].end)
        assert list(rest) == everything[place + 1 :]


def test_slices_are_the_same_examples_in_both_formats(home, tfrecord):
    found = []
    for root in (home, tfrecord):
        (shard,) = resolve([f"tfds:{root / 'pile_like'}:train[20:75]"])
        found.append(list(open_reader(shard, **SETTINGS).records(Cursor())))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tfds:pile_lik", "did you mean tfds:pile_like"),
        ("tfds:pile_like:trian", "no split 'trian' .it has train.; did you mean 'train'"),
        ("tfds:pile_like:train[5:2x]", "train"),
    ],
)
def test_wrong_names_are_refused(home, tmp_path, monkeypatch, source, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))
    with pytest.raises(SourceError, match=message):
        small_build(source, tmp_path / "store")


@pytest.mark.parametrize("change", [7, -7])
@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_another_number_of_examples_than_promised_is_an_error(
    home, tfrecord, tmp_path, form, change
):
    """What tensorflow-datasets' parquet writer causes without a word, here by hand."""
    root = {"array_record": home, "tfrecord": tfrecord}[form]
    folder = tmp_path / "1.0.0"
    shutil.copytree(root / "pile_like" / "1.0.0", folder)
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    lengths = info["splits"][0]["shardLengths"]
    lengths[-1] = str(int(lengths[-1]) + change)
    path.write_text(json.dumps(info))
    message = rf"examples in its files, but its record promises {90 + change}"
    with pytest.raises(SourceError, match=message):
        small_build(f"tfds:{folder}", tmp_path / "store")


def test_parquet_datasets_are_refused(home, tmp_path):
    shutil.copytree(home / "pile_like" / "1.0.0", tmp_path / "p" / "1.0.0")
    path = tmp_path / "p" / "1.0.0" / "dataset_info.json"
    path.write_text(path.read_text().replace("array_record", "parquet"))
    with pytest.raises(SourceError, match="loses examples when it writes parquet"):
        small_build(f"tfds:{tmp_path / 'p'}", tmp_path / "store")


def test_damaged_records_are_found(tmp_path):
    payload = b"some example"
    head = struct.pack("<Q", len(payload))
    good = head + struct.pack("<I", tfrecord_crc(head)) + payload
    good += struct.pack("<I", tfrecord_crc(payload))
    path = tmp_path / "x.tfrecord"
    path.write_bytes(good * 3)
    assert list(tfrecords(str(path))) == [payload] * 3
    for at in range(len(good)):
        damaged = bytearray(good * 3)
        damaged[len(good) + at] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=f"at byte {len(good)}"):
            list(tfrecords(str(path)))
    for left in range(1, len(good)):
        path.write_bytes(good + good[:left])
        with pytest.raises(SourceError, match=f"truncated in .* at byte {len(good)}"):
            list(tfrecords(str(path)))


def test_the_checksum_is_the_published_one():
    # RFC 3720, B.4: crc32c of 32 zero bytes is 0x8a9136aa; masked as tfrecord does.
    crc = 0x8A9136AA
    assert tfrecord_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_truncated_array_record_is_an_error(home, tmp_path):
    folder = tmp_path / "1.0.0"
    shutil.copytree(home / "pile_like" / "1.0.0", folder)
    (path,) = folder.glob("*array_record*")
    for left in (0.9, 0.5, 0.0):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
        with pytest.raises(SourceError, match=re.escape(str(folder))):
            small_build(f"tfds:{folder}", tmp_path / "store")
