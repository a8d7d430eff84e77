"""`gesso evaluate` beyond held-out text, on tiny runs: questions, answers, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gesso.data.config import DataConfig
from gesso.data.instructions.store import InstructionStore
from gesso.data.tokenizers.load import load_tokenizer, save_tokenizer
from gesso.evaluation.questions.exercises import heldout_exercises
from gesso.finetune.instructions.build import build_instructions
from gesso.finetune.instructions.config import InstructionsConfig, SourceConfig
from gesso.launch import cli
from gesso.launch.commands.evaluate.contextuality import show_contextuality
from gesso.launch.commands.evaluate.files import show_answers, show_choices
from gesso.launch.commands.evaluate.harness import show_harness
from gesso.models import GPTConfig, build
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.config import CheckpointConfig
from gesso.pretrain.exits import DONE, REFUSED
from gesso.pretrain.experiment import Experiment, to_json
from gesso.records.evaluations import read_evaluations
from gesso.storage.files import write_json

CONFIG = GPTConfig(
    vocab=264, positions=64, layers=2, embed=32, heads=2, mlp=64, head="untied", init_std=0.3
)
Gesso = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, which were never trained, and files of questions."""
    folder = tmp_path_factory.mktemp("workplace")
    for seed, name in enumerate(("one", "two")):
        a_run(folder / name, folder / "store", seed)
    questions = [
        {"prompt": "The quick brown", "options": [" fox", " q?x!"], "right": 0, "group": n // 2}
        for n in range(4)
    ]
    exercises = [{"prompt": f"{n} and 1 is", "answer": f"#### {n + 1}"} for n in range(3)]
    for name, rows in (("questions", questions), ("exercises", exercises)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def a_run(folder: Path, store: Path, seed: int) -> None:
    tokenizer = load_tokenizer("bytes")
    data = DataConfig(store=str(store))
    experiment = to_json(Experiment(name="tiny", model=CONFIG, data=data, length=64, steps=2))
    write_json(folder / "experiment.json", experiment)
    save_tokenizer(tokenizer, folder / "tokenizer")
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(), log=lambda text: None)
    params = jax.jit(build(CONFIG).init)(jax.random.key(seed))
    info = {"experiment": experiment, "tokenizer": tokenizer.fingerprint}
    checkpoints.save(2, {"params": params}, info)
    checkpoints.close()


@pytest.fixture
def gesso(capsys: pytest.CaptureFixture[str]) -> Gesso:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(each) for each in arguments])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def kept(folder: Path, kind: str) -> dict[str, Any]:
    (record,) = (each for each in read_evaluations(folder) if each["kind"] == kind)
    return record


def test_choices_of_two_runs(
    workplace: Path, gesso: Gesso, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", workplace / "one", "--choices", workplace / "questions.jsonl"]
    status, out, _ = gesso(*asked, "--against", workplace / "two", "--premise", "Then:", "--json")
    found = json.loads(out)
    assert status == DONE
    assert set(found["rules"]) == set(found["compared"]) == {"raw", "token", "byte", "pmi"}
    assert (found["questions"], found["groups"], found["chance"]) == (4, 2, 0.5)
    record = kept(workplace / "one", "choices")
    assert (record["of"], record["step"]) == ("questions", 2)
    assert record["figures"] == found
    show_choices(found, title="")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("raw", "byte", "chance", "95% interval", "against"))


def test_answers_of_two_runs(
    workplace: Path, gesso: Gesso, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", workplace / "one", "--answers", workplace / "exercises.jsonl"]
    asked += ["--score", "match", "number", "--max-tokens", 8, "--stop", "."]
    status, out, _ = gesso(*asked, "--against", workplace / "two", "--json")
    found = json.loads(out)
    assert status == DONE
    assert {"exact", "f1", "number", "answered", "last_number"} == set(found["scores"])
    assert len(found["written"]) == 3 and all("." not in text for text in found["written"])
    assert set(found["compared"]) == set(found["scores"])
    show_answers(found, title="")
    assert "last_number" in capsys.readouterr().out


@pytest.fixture(scope="module")
def instructions(workplace: Path) -> Path:
    """A store of instruction examples, which neither run was trained on."""
    lines = [{"inputs": f"after {n} comes", "targets": f" {n + 1}"} for n in range(40)]
    (workplace / "sums.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    source = SourceConfig(path=str(workplace / "sums.jsonl"), format="flan", cluster="sums")
    made = InstructionsConfig(sources=(source,), holdout=0.3, renderings=1)
    build_instructions(made, workplace / "instructions")
    return workplace / "instructions"


def test_a_run_on_instructions_it_was_not_trained_on(
    workplace: Path, gesso: Gesso, instructions: Path
) -> None:
    asked = ["evaluate", workplace / "one", "--store", instructions, "--json"]
    status, out, _ = gesso(*asked)
    found = json.loads(out)
    assert status == DONE
    # Of targets alone, each beside a unigram model of the targets it would be trained on.
    held = InstructionStore(instructions).totals()["sums"]["holdout"]
    assert found["tokens"] == held["targets"] and list(found["components"]) == ["sums"]
    assert found["terms"]["lm"]["unigram_nll"] > 0 and "baselines" not in found


def test_answers_to_held_out_instructions(
    workplace: Path, gesso: Gesso, instructions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", workplace / "one", "--answers", instructions, "--max-tokens", 4]
    status, out, _ = gesso(*asked, "--against", workplace / "two", "--limit", 5, "--json")
    found = json.loads(out)
    assert status == DONE and len(found["written"]) == found["exercises"] == 5
    assert set(found["components"]) == {"sums"}
    assert set(found["compared"]) == {"exact", "f1"}
    show_answers(found, title="")
    assert "exact, sums" in capsys.readouterr().out
    exercises, clusters = heldout_exercises(InstructionStore(instructions))
    tokenizer = load_tokenizer("bytes")
    for each in exercises:
        after, _, comes = tokenizer.decode(np.array(each.prompt)).partition(" comes")
        assert comes == "\n" and each.answers == (str(int(after.split()[1]) + 1),)
    assert clusters == ["sums"] * len(exercises)


@pytest.mark.parametrize("way", ["--store", "--answers"])
def test_a_store_of_another_tokenizer_is_refused(
    workplace: Path, gesso: Gesso, instructions: Path, tmp_path: Path, way: str
) -> None:
    import shutil

    from gesso.data.tokenizers.load import train_bpe

    shutil.copytree(instructions, tmp_path / "other")
    other = train_bpe(iter(["after 1 comes 2"] * 20), vocab_size=264, folder=tmp_path / "bpe")
    shutil.rmtree(tmp_path / "other" / "tokenizer")
    save_tokenizer(other, tmp_path / "other" / "tokenizer")
    status, _, err = gesso("evaluate", workplace / "one", way, tmp_path / "other")
    assert status == REFUSED
    assert other.fingerprint[:12] in err and load_tokenizer("bytes").fingerprint[:12] in err
    assert f"--tokenizer {workplace / 'one' / 'tokenizer'}" in err


def test_harness(
    workplace: Path, gesso: Gesso, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "mine.yaml").write_text(f"""
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {workplace / "questions.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: right
target_delimiter: ""
""")
    asked = ["evaluate", workplace / "two", "--harness", "mine", "--harness-path", tmp_path]
    status, out, _ = gesso(*asked, "--limit", 3, "--json")
    found = json.loads(out)
    assert status == DONE
    assert found["counts"]["mine"] == {"original": 4, "effective": 3}
    assert kept(workplace / "two", "harness")["figures"] == found
    questions = ["evaluate", workplace / "two", "--choices", workplace / "questions.jsonl"]
    ours = json.loads(gesso(*questions, "--json")[1])
    assert found["tasks"]["mine"]["acc,none"] == ours["rules"]["raw"]["accuracy"]
    show_harness(found, title="")
    shown = capsys.readouterr().out
    assert "mine" in shown and "acc_norm" in shown


@pytest.mark.slow  # lm_eval lists thousands of tasks of its own
def test_a_mistyped_task_is_refused(workplace: Path, gesso: Gesso, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    asked = ["evaluate", workplace / "two", "--harness", "arc_esy", "--harness-path", tmp_path]
    status, _, err = gesso(*asked)
    assert status == REFUSED and "arc_easy" in err


def test_contextuality(workplace: Path, gesso: Gesso, tmp_path: Path) -> None:
    lines = [f"{who} saw the {what}" for who in ("a dog", "she", "one cat") for what in "xyz"]
    (tmp_path / "lines.txt").write_text("\n".join([*lines, "one", lines[0]]) + "\n")
    asked = ["evaluate", workplace / "one", "--contextuality", "--text", tmp_path / "lines.txt"]
    status, out, _ = gesso(*asked, "--json")
    found = json.loads(out)
    assert status == DONE
    assert len(found["layers"]) == CONFIG.layers + 1 and found["sentences"] == 9
    assert found["left_out"] == {"repeated": 1, "short": 1, "unclear": 0}
    assert "Contextuality by layer" in (workplace / "one" / "report.html").read_text()
    show_contextuality(found, title="")
    (tmp_path / "lines.txt").write_text("a b\nc d\n")
    status, _, err = gesso(*asked)
    assert status == REFUSED and "no word is in 5 of the 2 sentences" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--choices", "q", "--answers", "a"], "one at a time: --choices, --answers"),
        (["--premise", "x"], "--premise changes nothing here; it is for --choices"),
        (["--limit", "3"], "it is for --choices or --answers or --harness"),
        (["--choices", "q", "--rows", "3"], "--rows changes nothing here; it is for held-out text"),
        (["--choices", "quest"], "there is no file of questions quest"),
        (["--answers", "quest"], "there is no file of exercises or store of instructions quest"),
        (["--answers", "quest.jsonl"], "there is no file of exercises quest.jsonl"),
        (["--answers", "debug-flam"], "did you mean debug-flan, an experiment?"),
        (["--contextuality", "--text", "q", "--store", "x"], "--text is a file of sentences"),
        (["--contextuality", "--text", "gone.txt"], "there is no file of sentences gone.txt"),
        (["--choices", "q", "--limit", "1"], "--limit must be 2 or more"),
        (["--answers", "q", "--max-tokens", "0"], "--max-tokens must be at least 1"),
        (["--harness", "x", "--harness-path", "nowhere"], "there is no folder of tasks nowhere"),
        (["--choices", "q", "--against", "nowhere"], "there is no run folder nowhere"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_a_wrong_request_is_refused(
    workplace: Path, gesso: Gesso, options: list[str], message: str
) -> None:
    if "nowhere" in options and "--harness" in options:
        pytest.importorskip("lm_eval")
    status, _, err = gesso("evaluate", workplace / "one", *options)
    assert status == REFUSED
    assert message in err


def test_one_group_is_refused(workplace: Path, gesso: Gesso) -> None:
    asked = ["evaluate", workplace / "one", "--choices", workplace / "questions.jsonl"]
    status, _, err = gesso(*asked, "--limit", 2)
    assert status == REFUSED and "one group" in err


def test_a_broken_line_is_named(workplace: Path, gesso: Gesso, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "x", "options": ["a", "b"], "right": 5}\n')
    status, _, err = gesso("evaluate", workplace / "one", "--choices", tmp_path / "q.jsonl")
    assert status == REFUSED
    assert "q.jsonl, line 1" in err and "0 to 1" in err
