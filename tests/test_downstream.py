"""The table of datasets: its splits leak nothing, its floors are what they say, a finished row is
not made again, and losing to TF-IDF is said."""

import json
import zipfile

import numpy as np
import pytest

from benchmarks.downstream import __main__ as downstream
from benchmarks.downstream import page, sources
from benchmarks.downstream.adaptation import drawn
from benchmarks.downstream.floors import choice_floors, classification_floors

WORDS = {"positive": "a fine moving film", "negative": "a dull tedious mess"}


def archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        for name, text in files.items():
            opened.writestr(name, text)


def lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """All that benchmarks/downstream/sources.py reads, small and made up."""
    data = tmp_path_factory.mktemp("datasets")

    def said(label, n, extra=""):
        return "".join(f"{WORDS[label]} number {i} {extra}\n" for i in range(n))

    archive(
        data / "sentence_polarity_ccby/sentence_polarity.zip",
        {
            "sentence_polarity/rt.pos": said("positive", 60).encode("latin-1") + b"caf\xe9\n",
            "sentence_polarity/rt.neg": said("negative", 60),
        },
    )
    archive(
        data / "subjectivity_ccby/subjectivity.zip",
        {
            # The first of these stand in sentence_polarity too, where some are held out.
            "subjectivity/plot.tok.gt9.5000": said("negative", 40),
            "subjectivity/quote.tok.gt9.5000": said("positive", 40, "quoted"),
        },
    )
    reviews = {
        f"movie_reviews/{short}/{i}.txt": said(label, 3, f"in review {i}")
        for label, short in (("positive", "pos"), ("negative", "neg"))
        for i in range(20)
    }
    archive(data / "movie_reviews_long/movie_reviews.zip", reviews)
    speeches = {f"state_union/{i}.txt": f"Members of Congress, year {i}. " * 9 for i in range(8)}
    archive(data / "nltk_state_union/state_union.zip", speeches)
    made = [{"solution": f"A: {k}", "is_correct": k == 2} for k in range(4)]
    lines(
        data / "gsm8k/example_model_solutions.jsonl",
        [
            {"question": f"{i} + 2?", "ground_truth": "A: 2"}
            | {f"model{k}": each for k, each in enumerate(made)}
            for i in range(30)
        ],
    )
    for name in ("seed_tasks", "user_oriented_instructions"):
        tasks = [
            {
                "instruction": f"Name the {name} animal {i} that swims",
                "instances": [{"input": "", "output": f"fish {name} {i}"}],
            }
            for i in range(20)
        ]
        lines(data / f"self_instruct/{name}.jsonl", tasks)
    definitions = {
        f"task{i}": {
            "definition": f"Say the colour {i}",
            "positive_examples": {"input": f"thing {i}", "output": f"colour {i}"},
        }
        for i in range(30)
    }
    path = data / "niv2_definitions/niv2_definitions_examples.json"
    path.parent.mkdir()
    path.write_text(json.dumps(definitions))
    return data


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_held_out_is_nowhere_in_what_models_are_pretrained_on(datasets, tmp_path):
    counts = sources.written(datasets, tmp_path)
    assert all(sum(each.values()) for each in counts.values())
    assert counts["sentence_polarity"]["train"] + counts["sentence_polarity"]["heldout"] == 121
    assert counts["gsm8k"] == {"train": 120 - counts["gsm8k"]["heldout"]} | counts["gsm8k"]
    corpus = {each["text"] for path in tmp_path.glob("corpus/*") for each in read(path)}
    for name in ("sentence_polarity", "subjectivity", "movie_reviews"):
        held = {each["text"] for each in read(tmp_path / name / "heldout.jsonl")}
        assert held and not held & corpus, name
    train, held = (
        {each["question"] for each in read(tmp_path / "gsm8k" / f"{part}.jsonl")}
        for part in ("train", "heldout")
    )
    assert held and not held & train, "solutions of one question are on both sides"
    tasks = json.loads((tmp_path / "niv2_definitions/heldout.json").read_text())
    assert tasks and all("positive_examples" in each for each in tasks.values())


def test_a_missing_dataset_is_named(tmp_path):
    with pytest.raises(ValueError, match="sentence_polarity.zip; --data needs"):
        sources.written(tmp_path, tmp_path / "files")


def test_floors_are_what_they_say(tmp_path):
    pytest.importorskip("sklearn")
    train = [{"text": f"{WORDS[y]} {i}", "label": y} for i in range(9) for y in WORDS]
    train += [{"text": "a fine film", "label": "positive"}]
    lines(tmp_path / "train.jsonl", train)
    asked = [("a fine film", "positive"), ("tedious", "negative"), ("a dull mess", "negative")]
    lines(tmp_path / "heldout.jsonl", [{"text": text, "label": y} for text, y in asked])
    found = classification_floors(
        tmp_path / "train.jsonl", tmp_path / "heldout.jsonl", texts=["text"]
    )
    assert found["majority"] == pytest.approx(1 / 3) and found["tfidf"] == 1.0

    questions = [
        {"prompt": "which fish swims", "options": ["a fish", "a bird"], "right": 0},
        {"prompt": "which bird flies", "options": ["a bird", "a fish"], "right": 1},
        {"prompt": "which cat sleeps", "options": ["a bird", "a fish"], "right": 0},
    ]
    lines(tmp_path / "questions.jsonl", questions)
    texts = ["fish swims", "bird flies", "cat sleeps", "a"]
    # Right, wrong, and a tie of two options that have nothing of the prompt.
    assert choice_floors(texts, tmp_path / "questions.jsonl") == {
        "majority": pytest.approx(2 / 3),
        "tfidf": pytest.approx(0.5),
    }


def test_a_finished_row_is_not_made_again(tmp_path):
    def row():
        return {"score": 0.5, "run_minutes": 7.0}

    def again():
        raise AssertionError("made again")

    path = tmp_path / "rows" / "x.json"
    with pytest.raises(ZeroDivisionError):
        downstream.finished(path, lambda: 1 / 0)  # type: ignore[arg-type]
    assert not path.exists(), "a row that failed is none"
    first = downstream.finished(path, row)
    assert first["minutes"] == 7.0, "runs that were there before count"
    assert downstream.finished(path, again) == first


def row_of(best, *, heldout=1000):
    return {
        "about": "x?",
        "examples": {"train": 10, "heldout": heldout},
        "majority": 0.5,
        "tfidf": 0.8,
        "scores": {"scratch": [best - 0.1] * 2, "pretrained": [best - 0.01, best + 0.01]},
        "minutes": 2.0,
        "date": "2026-01-02",
        "machine": "one, 2 cores, load 1.0 before",
        "versions": {"jax": "1"},
    }


@pytest.mark.parametrize(
    ("best", "said"), [(0.7, "LOSES to TF-IDF"), (0.81, "even with"), (0.9, "beats TF-IDF")]
)
def test_the_page_says_who_wins_and_whether_the_examples_can_tell(best, said):
    made = row_of(best)
    assert page.verdict(made).startswith(said)
    spread = 0.8 * 0.2 + best * (1 - best)
    assert page.noise(made) == pytest.approx(1.96 * np.sqrt(spread / 1000))
    assert page.verdict(row_of(best, heldout=4)).startswith("even with"), "four examples tell none"
    text = page.markdown({"command": "c", "rows": {"x": made}})
    assert said in text and f"{best:.3f} ({best - 0.01:.3f} to {best + 0.01:.3f})" in text


@pytest.mark.slow
def test_the_curves_are_drawn(tmp_path):
    found = {
        "curves": {"scratch": [[[1, 4.0], [2, 3.0]]], "adapted": [[[1, 3.0], [2, 2.5]]]},
        "rates": {"scratch": 1e-3, "adapted": 1e-3},
        "before": 3.5,
        "baselines": {"unigram": 4.4, "byte_3gram": 2.7},
        "tokens_per_step": 8,
    }
    drawn(found, tmp_path / "made" / "curves.png")
    assert (tmp_path / "made" / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_whole_script_runs_and_goes_on(datasets, tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # one device, as its users have
    asked = ["--data", str(datasets), "--folder", str(tmp_path / "runs"), "--size", "tiny"]
    assert downstream.main(asked) == 0
    first = capsys.readouterr()
    for name in (*downstream.CLASSIFIED, *downstream.INSTRUCTED):
        assert f"| {name}: " in first.out
    assert "Reviews to speeches" in first.out
    assert downstream.main(asked) == 0
    assert capsys.readouterr().out == first.out
