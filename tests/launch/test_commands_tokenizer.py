"""`gesso tokenizer`: figures, refusals and exit statuses, as a user meets them."""

import inspect
import json

import pytest

from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.launch.cli import main

TEXT = "The quick brown fox jumps over the lazy dog; it's 12 o'clock.\n\n  caf\u00e9 \u65e5\u672c\n"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    lines = inspect.getsource(inspect).splitlines()
    with path.open("w") as file:
        for number in range(300):
            component = "Odd" if number % 2 else "Even"
            words = " ".join(lines[number % len(lines) :][:5])
            record = {"text": TEXT + words, "meta": {"pile_set_name": component}}
            file.write(json.dumps(record) + "\n")
        file.write("not json\n")
    return path


def ran(capsys, *arguments: str) -> dict:
    assert main(["tokenizer", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["sentencepiece", "unigram", "bpe"])
def test_train_then_inspect(tmp_path, corpus, capsys, kind):
    folder = str(tmp_path / "made")
    options = ["--folder", folder, "--vocab-size", "400", "--kind", kind]
    made = ran(capsys, "train", str(corpus), *options)
    assert made["vocab_size"] == 400
    assert made["documents"] == 300
    assert made["fingerprint"] == load_tokenizer(folder).fingerprint
    seen = ran(capsys, "inspect", folder, "--sample", str(corpus), "--text", "12 o'clock")
    assert seen["fingerprint"] == made["fingerprint"]
    assert "".join(piece["text"] for piece in seen["pieces"]) == "12 o'clock"
    assert set(seen["components"]) == {"Odd", "Even"}
    assert seen["total"]["exact"] == seen["total"]["documents"] == 300
    assert seen["total"]["bytes_per_token"] == pytest.approx(
        seen["total"]["bytes"] / seen["total"]["tokens"], abs=1e-3
    )
    assert all(seen["hard_texts"].values())
    # Again the same is there already; another never replaces one that runs may depend on.
    again = ran(capsys, "train", str(corpus), *options)
    assert again | {"seconds": 0} == made | {"seconds": 0}
    for asked, why in (
        ([*options, "--vocab-size", "420"], "already holds a tokenizer (--vocab-size was 400)"),
        ([*options, "--limit-megabytes", "0.01"], "(the texts were others)"),
    ):
        assert main(["tokenizer", "train", str(corpus), *asked]) == 2
        assert why in " ".join(capsys.readouterr().err.split())


def test_inspect_for_people(corpus, capsys):
    assert main(["tokenizer", "inspect", "bytes", "--sample", str(corpus)]) == 0
    shown = capsys.readouterr().out
    assert "bytes/token" in shown
    assert "Odd" in shown
    assert "all exact" in shown


def test_the_limit_samples_every_file(tmp_path, capsys):
    for name in ("a", "b", "c"):
        lines = (json.dumps({"text": f"{name} {n} " * 50}) for n in range(100))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    sample = ["--sample", str(tmp_path), "--limit-megabytes", "0.005"]
    seen = ran(capsys, "inspect", "bytes", *sample)
    assert set(seen["components"]) == {"a", "b", "c"}
    assert 5000 <= seen["total"]["bytes"] < 6000


def test_import_keeps_the_content(tmp_path, corpus, capsys):
    made = ran(capsys, "train", str(corpus), "--folder", str(tmp_path / "a"), "--vocab-size", "400")
    model = tmp_path / "a" / "sentencepiece.model"
    for _ in range(2):  # a second time it is there already
        taken = ran(capsys, "import", str(model), "--folder", str(tmp_path / "b"))
        assert taken["fingerprint"] == made["fingerprint"]
    other = ["--folder", str(tmp_path / "c"), "--vocab-size", "420"]
    ran(capsys, "train", str(corpus), *other)
    assert main(["tokenizer", "import", str(model), *other[:2]]) == 2
    assert "already holds a tokenizer;" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "byte"], "did you mean 'bytes'"),
        (["inspect", "bytes", "--sample", "{}/corpis.jsonl"], "did you mean"),
        (["inspect", "bytes", "--sample", "{}/corpus.jsonl", "--text-key", "body"], "no document"),
        (["inspect", "bytes", "--limit-megabytes", "0"], "must be more than 0"),
        (["import", "{}/nothing", "--folder", "{}/x"], "there is no tokenizer"),
        (["import", "{}/corpus.jsonl", "--folder", "{}/x"], "not a form of tokenizer"),
        (["import", "{}/saved", "--folder", "{}/x", "--eos", "<s>"], "is imported already"),
        (["train", "--folder", "{}/x", "--vocab-size", "400"], "no sources"),
        (["train", "{}/corpus.jsonl", "--folder", "{}/x", "--vocab-size", "90000"], "give at most"),
        (["train", "{}/corpus.jsonl", "--folder", "{}/x", "--vocab-size", "9"], "259 ids"),
        (
            [
                "train",
                "{}/corpus.jsonl",
                "--folder",
                "{}/x",
                "--vocab-size",
                "4000",
                "--kind",
                "bpe",
            ],
            "train on more text",
        ),
    ],
)
def test_refusals_touch_nothing(tmp_path, corpus, capsys, arguments, message):
    save_tokenizer(load_tokenizer("bytes"), tmp_path / "saved")
    assert main(["tokenizer", *(part.replace("{}", str(tmp_path)) for part in arguments)]) == 2
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.out == ""
    assert not (tmp_path / "x").exists()
