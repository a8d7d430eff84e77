"""Files of examples: every record is an example or a reject with file and line."""

import gzip
import json
from pathlib import Path

import pytest
from instruction_stores import entailments, questions, write_lines

from gesso.finetune.instructions.config import SourceConfig
from gesso.finetune.instructions.examples import SourceRefused, load
from gesso.finetune.instructions.templates import families

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def loaded(path, *, cap=1.0, **settings):
    found = load(SourceConfig(path=str(path), **settings), families=families(), reject_cap=cap)
    examples = sum(len(task.examples) for task in found.tasks)
    assert found.records == examples + len(found.rejects) + found.over_limit, "something was lost"
    return found, [each.values for task in found.tasks for each in task.examples]


def places(found):
    return {each.place.rpartition("/")[2]: each.reason for each in found.rejects}


def test_broken_lines_are_kept_aside_with_their_place(tmp_path):
    good = [json.dumps(each) for each in entailments(3)]
    bad = {
        2: b'{"premise": "p", ',
        4: b"",
        5: b'{"premise": "\xff"}',
        6: b"[1, 2]",
        7: b'{"premise": "p", "hypothesis": "h", "label": "sort of"}',
        9: b'{"premise": "p", "hypotesis": "h", "label": 0}',
    }
    lines = iter(good)
    raw = [bad[n] if n in bad else next(lines).encode() for n in (1, 2, 3, 4, 5, 6, 7, 8, 9)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(raw))
    found, values = loaded(tmp_path / "a.jsonl", family="entailment")
    assert len(values) == 3
    assert places(found) == {
        "a.jsonl:2": "bad_json",
        "a.jsonl:4": "blank_line",
        "a.jsonl:5": "invalid_utf8",
        "a.jsonl:6": "not_an_object",
        "a.jsonl:7": "unknown_label",
        "a.jsonl:9": "missing_field",
    }
    assert "did you mean 'hypotesis'" in found.rejects[-1].detail


def test_too_many_bad_records_refuse_the_source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in questions(18)) + "{\n{\n\n")
    found, _ = loaded(path, family="question", cap=0.1)
    assert found.reasons() == {"bad_json": 2, "blank_line": 1}
    with pytest.raises(SourceRefused, match=r"2 of 21 records are bad.*a.jsonl:19"):
        loaded(path, family="question", cap=0.09)


def test_what_is_asked_must_not_be_empty(tmp_path):
    empty = [{"inputs": "a", "targets": " "}, {"inputs": "", "targets": "b"}]
    with pytest.raises(SourceRefused, match="no examples in it"):
        loaded(write_lines(tmp_path / "a.jsonl", empty), format="flan")
    path = write_lines(tmp_path / "b.jsonl", [*empty, {"inputs": "a", "targets": "b"}])
    found, values = loaded(path, format="flan")
    assert values == [{"inputs": "a", "targets": "b"}]
    assert found.reasons() == {"empty_field": 1, "empty_target": 1}


def test_alpaca_as_a_list_and_as_lines(tmp_path):
    records = [
        {"instruction": "Sort.", "input": "b a", "output": "a b"},
        {"instruction": "Sing.", "input": "", "output": "la"},
        {"instruction": "Say nothing.", "input": "", "output": ""},
        "no object",
    ]
    (tmp_path / "list.json").write_text(json.dumps(records, indent=1))
    listed, values = loaded(tmp_path / "list.json", format="alpaca")
    assert values == [records[0], {"instruction": "Sing.", "output": "la"}]
    assert places(listed) == {
        "list.json, item 3": "empty_target",
        "list.json, item 4": "not_an_object",
    }
    lines, same = loaded(write_lines(tmp_path / "lines.jsonl", records), format="alpaca")
    assert same == values
    assert set(places(lines)) == {"lines.jsonl:3", "lines.jsonl:4"}
    (tmp_path / "cut.json").write_text(json.dumps(records)[:-9])
    with pytest.raises(ValueError, match=r"cut.json: not JSON: .*line 1"):
        loaded(tmp_path / "cut.json", format="alpaca")


def test_instances_of_a_self_instruct_task_are_examples(tmp_path):
    task = {"id": "seed_1", "instruction": "Double it.", "instances": [
        {"input": "1", "output": "2"}, {"input": "2", "output": ""}, {"input": "3", "output": "6"},
    ]}  # fmt: skip
    path = write_lines(tmp_path / "a.jsonl", [task, {"id": "seed_2", "instruction": "Rest."}])
    found, values = loaded(path, format="self_instruct")
    assert [each["output"] for each in values] == ["2", "6"]
    assert places(found) == {"a.jsonl:1, instance 2": "empty_target", "a.jsonl:2": "missing_field"}


def test_tasks_of_natural_instructions_are_tasks(tmp_path):
    for number in (1, 2):
        task = {
            "Definition": ["Answer in one word."],
            "Positive Examples": [{"input": "a", "output": "b", "explanation": "c"}],
            "Instances": [{"id": "x", "input": "d", "output": ["e", "f"]}],
        }
        (tmp_path / f"task00{number}_x.json").write_text(json.dumps(task))
    found, values = loaded(tmp_path, format="natural_instructions", task="niv2")
    assert [task.name for task in found.tasks] == ["niv2/task001_x", "niv2/task002_x"]
    assert values[1] == {"instruction": "Answer in one word.", "input": "d", "output": "e"}


def test_tables(tmp_path):
    rows = ["sentence\tgold", "one two\t1", "three\tfour\t0", "\tx", "five\t7", "six\t0"]
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    fields = {"text": "sentence", "label": "gold"}
    found, values = loaded(tmp_path / "a.tsv", format="tsv", family="sentiment", fields=fields)
    assert [(each["text"], each["label"]) for each in values] == [("one two", 1), ("six", 0)]
    assert places(found) == {
        "a.tsv:3": "wrong_columns",
        "a.tsv:4": "empty_field",
        "a.tsv:5": "unknown_label",
    }
    (tmp_path / "a.csv").write_text('text,label\n"one, ""two""\nthree",positive\n')
    _, values = loaded(tmp_path / "a.csv", format="csv", family="sentiment")
    assert values == [{"text": 'one, "two"\nthree', "label": 1}]


def test_labels_of_a_file_in_the_familys_order(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl", [{"text": "a", "label": "pos"}, {"text": "b", "label": "meh"}]
    )
    found, values = loaded(path, family="sentiment", labels=("neg", "pos"))
    assert [each["label"] for each in values] == [1]
    assert found.rejects[0].reason == "unknown_label"
    with pytest.raises(SourceRefused, match="labels must be 2"):
        loaded(path, family="sentiment", labels=("neg",))


def test_fields_by_path_and_compressed_files(tmp_path):
    record = {"qa": {"q": "who", "a": "me"}}
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode() + b"\n"))
    fields = {"question": "qa.q", "reply": "qa.a"}
    found, values = loaded(tmp_path / "a.jsonl.gz", family="question", fields=fields)
    assert values == [{"question": "who", "reply": "me"}]
    assert found.tasks[0].name == "a"
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 99)[:-9])
    with pytest.raises(ValueError, match="b.jsonl.gz: cannot be read"):
        loaded(tmp_path / "b.jsonl.gz", family="question")


def test_a_limit_counts_what_it_leaves_out(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", questions(10))
    found, values = loaded(path, family="question", limit=4)
    assert (len(values), found.over_limit) == (4, 6)


def test_gsm8k_has_its_way_and_its_result(tmp_path):
    answer = "She has 2*3=<<2*3=6>>6 eggs.\n#### 6"
    records = [{"question": "How many?", "answer": answer}, {"question": "?", "answer": "6"}]
    found, values = loaded(write_lines(tmp_path / "a.jsonl", records), format="gsm8k")
    assert values == [{"question": "How many?", "reply": "6", "rationale": "She has 2*3=6 eggs."}]
    assert places(found) == {"a.jsonl:2": "missing_field"}


def test_wrong_settings_are_refused(tmp_path):
    path = write_lines(tmp_path / "examples.jsonl", questions(2))
    with pytest.raises(SourceRefused, match="did you mean 'question'"):
        loaded(path, family="qestion")
    with pytest.raises(SourceRefused, match="did you mean 'reply'"):
        loaded(path, family="question", fields={"replay": "x"})
    with pytest.raises(ValueError, match="did you mean 'examples.jsonl'"):
        loaded(tmp_path / "exmples.jsonl", family="question")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        loaded(tmp_path / "empty.jsonl", family="question")


@pytest.mark.parametrize(
    ("path", "form", "examples", "tasks"),
    [
        ("self_instruct/seed_tasks.jsonl", "self_instruct", 175, 1),
        ("self_instruct/user_oriented_instructions.jsonl", "self_instruct", 252, 1),
        ("niv2_definitions/niv2_definitions_examples.json", "natural_instructions", 1654, 1654),
        ("gsm8k/test.jsonl", "gsm8k", 1319, 1),
    ],
)
def test_published_files_are_read_whole(path, form, examples, tasks):
    if not (SHARED / path).exists():
        pytest.skip("the files lie beside the checkout in shared/")
    found, values = loaded(SHARED / path, format=form, cap=0.0)
    assert (len(values), len(found.tasks), found.rejects) == (examples, tasks, ())


def test_tfds_by_feature_names(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    import numpy as np

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["neg", "pos"]),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                yield i, {"text": f"text {i}", "label": i % 2}

    builder = Tiny(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    _, values = loaded(f"tfds:{builder.data_path}", format="tfds", family="sentiment")
    assert sorted((each["text"], each["label"]) for each in values) == [
        ("text 0", 0),
        ("text 1", 1),
        ("text 2", 0),
    ]
    assert isinstance(values[0]["label"], int) and not isinstance(values[0]["label"], np.generic)
