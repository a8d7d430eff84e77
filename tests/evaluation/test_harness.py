"""lm-evaluation-harness on a model of ours: every number again, from the whole forward in float64.

Skipped where lm_eval is not installed. The tasks are files: no network.
"""

import json
import math
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest

pytest.importorskip("lm_eval")

from gesso.data.tokenizers.load import load_tokenizer
from gesso.evaluation.config import EvaluationConfig
from gesso.evaluation.generation.decoder import generate
from gesso.evaluation.harness.harness import evaluate
from gesso.evaluation.harness.model import HarnessModel
from gesso.models import GPTConfig, build
from gesso.partitioning.axes import placements
from gesso.partitioning.config import MeshConfig
from gesso.partitioning.layouts import LAYOUTS
from gesso.partitioning.mesh import make_mesh
from gesso.pretrain.checks import validate
from gesso.pretrain.config import LoggingConfig
from gesso.pretrain.experiment import Experiment, ExperimentError
from gesso.pretrain.reporter import Reporter
from gesso.records.evaluations import read_evaluations
from gesso.records.metrics import Metrics, read_metrics

pytestmark = pytest.mark.filterwarnings("default")  # those of lm_eval and datasets

CONFIG = GPTConfig(
    vocab=264, positions=48, layers=2, embed=32, heads=2, mlp=64, head="untied", init_std=0.3
)
CHOICES = [
    {"text": "the sky is", "options": ["blue", "green as grass", "a"], "label": 0},
    {"text": "two and two ", "options": ["four", "five", "b"], "label": 2},
    {"text": "x" * 60, "options": ["yes", "no, never", "c"], "label": 1},  # too long: cut
]
TEXTS = [{"text": "a text that is much longer than what the model reads at once, so it is cut"}]
TEXTS += [{"text": "short one"}]
TASKS = {
    "ours_choices": """
task: ours_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "ours_written": """
task: ours_written
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{options[label]}}"
generation_kwargs: {until: ["\\n", "q"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
    "ours_texts": """
task: ours_texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/texts.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tasks")
    for name, rows in (("choices", CHOICES), ("texts", TEXTS)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (made / f"{name}.jsonl").write_text(lines)
    for name, text in TASKS.items():
        (made / f"{name}.yaml").write_text(text.replace("FOLDER", str(made)))
    return made


@pytest.fixture(scope="module", autouse=True)
def own_caches(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def made():
    model = build(CONFIG)
    return model, model.init(jax.random.key(0)), load_tokenizer("bytes")


@pytest.fixture(scope="module")
def found(made, folder):
    return evaluate(*made, list(TASKS), folder)


@pytest.fixture(scope="module")
def logs(made):
    """ids -> float64 log-probabilities of what follows each."""
    model, params, _ = made
    apply = jax.jit(model.apply)

    def of(ids):
        row = np.zeros((1, CONFIG.positions), np.int32)
        row[0, : len(ids)] = ids
        logits = np.asarray(apply(params, {"tokens": row})["logits"][0], np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    return of


def test_multiple_choice_is_what_the_whole_forward_gives(made, found, logs):
    encode, lm = made[2].encode, HarnessModel(*made)
    right, normal = [], []
    for row in CHOICES:
        nats = []
        for option in row["options"]:
            # lm_eval puts a space between; one that is there already moves to the option.
            body = row["text"].rstrip()
            given = list(encode(body))
            after = list(encode(row["text"][len(body) :] + " " + option))
            whole = [*given, *after][-(CONFIG.positions + 1) :]
            rows = logs(whole[:-1])
            first = len(whole) - len(after)
            nats.append(sum(rows[first + i - 1, each] for i, each in enumerate(after)))
        asked = [SimpleNamespace(args=(row["text"], " " + option)) for option in row["options"]]
        # float32 against float64, sums of up to 11 logs of about 5 nats
        np.testing.assert_allclose([each[0] for each in lm.loglikelihood(asked)], nats, atol=2e-4)
        right.append(float(np.argmax(nats) == row["label"]))
        sizes = [len(option) for option in row["options"]]
        normal.append(float(np.argmax(np.divide(nats, sizes)) == row["label"]))
    figures = found["tasks"]["ours_choices"]
    assert figures["acc,none"] == pytest.approx(np.mean(right))
    assert figures["acc_norm,none"] == pytest.approx(np.mean(normal))
    assert found["documents"]["ours_choices"]["acc,none"] == right
    assert 0 < figures["acc_stderr,none"] < 1


def test_what_is_written_is_what_generate_writes(made, found, folder):
    prompts = [row["text"][-(CONFIG.positions - 12) :] for row in CHOICES]
    written = generate(*made, prompts, max_tokens=12, stops=("\n", "q"))
    rows = [{**row, "options": [text] * 3} for row, text in zip(CHOICES, written, strict=True)]
    answers = folder / "answers"
    answers.mkdir()
    (answers / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yaml = (folder / "ours_written.yaml").read_text().replace(str(folder), str(answers))
    (answers / "task.yaml").write_text(yaml)
    assert found["tasks"]["ours_written"]["exact_match,none"] == 0
    again = evaluate(*made, [str(answers / "task.yaml")])
    assert again["tasks"]["ours_written"]["exact_match,none"] == 1


def test_whole_texts_cost_every_token_once(made, found, logs):
    nats = 0.0
    for row in TEXTS:
        ids = list(made[2].encode(row["text"]))
        before = [made[2].eos, *ids]
        cut = min(len(ids), CONFIG.positions)
        windows = [(before[:cut], ids[:cut])]
        if rest := len(ids) - cut:  # one more window: as much before it as there is room for
            windows.append((ids[-CONFIG.positions - 1 : -1], ids[-rest:]))
        for given, after in windows:
            rows = logs(given)[len(given) - len(after) : len(given)]
            nats -= sum(each[token] for each, token in zip(rows, after, strict=True))
    size = sum(len(row["text"]) for row in TEXTS)
    figures = found["tasks"]["ours_texts"]
    assert figures["bits_per_byte,none"] == pytest.approx(nats / size / math.log(2), rel=1e-5)


@pytest.mark.slow  # test_choices.py does the same without lm_eval
def test_a_mesh_changes_nothing(made, found, folder):
    model, params, tokenizer = made
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    placed = jax.device_put(params, placements(model.letters, LAYOUTS["fsdp_tensor"].at_rest, mesh))
    sharded = evaluate(model, placed, tokenizer, ["ours_choices", "ours_texts"], folder, rows=4)
    for task in ("ours_choices", "ours_texts"):
        for name, value in found["tasks"][task].items():
            if value is not None:
                assert sharded["tasks"][task][name] == pytest.approx(value, rel=1e-4), name


def test_a_limit_is_kept_and_said(made, folder):
    few = evaluate(*made, ["ours_choices"], folder, 2)
    assert few["counts"]["ours_choices"] == {"original": 3, "effective": 2} and few["limit"] == 2


def test_it_is_asked_during_training(made, folder, tmp_path):
    model, params, tokenizer = made
    evaluation = EvaluationConfig(
        harness=("ours_choices",), harness_every_steps=2, harness_path=str(folder), harness_limit=2
    )
    experiment = Experiment(name="x", model=CONFIG, evaluation=evaluation, steps=5)
    setup: Any = SimpleNamespace(
        experiment=experiment, model=model, tokenizer=tokenizer, whole=lambda state: state
    )
    hosts: Any = SimpleNamespace(process=0)
    with Metrics(tmp_path, LoggingConfig(tensorboard=False), resume_step=0) as metrics:
        reporter = Reporter(setup, metrics, cast(Any, None), hosts)
        assert [step for step in range(1, 5) if reporter.due(step)] == [2, 4]
        for step in (2, 5):
            assert not reporter.is_evaluated(step)
            reporter.evaluate(step, params)
    alone = evaluate(*made, ["ours_choices"], folder, 2)
    records = [each for each in read_metrics(tmp_path) if each["kind"] == "harness"]
    assert [each["step"] for each in records] == [2, 5]
    assert records[0]["tasks"] == alone["tasks"]
    kept = read_evaluations(tmp_path)
    assert [each["step"] for each in kept] == [2, 5]
    assert kept[1]["figures"]["documents"] == alone["documents"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"harness": ("x",)}, "give both"),
        ({"harness_every_steps": 3}, "give both"),
        ({"harness_path": "tasks"}, "no effect"),
    ],
)
def test_what_cannot_take_effect_is_refused(settings, message):
    evaluation = EvaluationConfig(**settings)
    with pytest.raises(ExperimentError, match=message):
        validate(Experiment(name="x", model=CONFIG, length=48, evaluation=evaluation), devices=1)


def test_what_is_not_there_is_refused(made, folder, tmp_path):
    with pytest.raises(ValueError, match="no folder of tasks"):
        evaluate(*made, ["x"], tmp_path / "none")
    (tmp_path / "broken.yaml").write_text(
        TASKS["ours_choices"].replace("FOLDER", str(tmp_path / "gone"))
    )
    with pytest.raises(ValueError, match="could not be read"):
        evaluate(*made, ["ours_choices"], tmp_path)
