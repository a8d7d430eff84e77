"""lm-eval's command on an exported folder, beside our own adapter on the checkpoint itself."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.stacks.checkpoints import TEXTS, Checkpoint
from benchmarks.stacks.figure import Differs, Figure
from benchmarks.stacks.processes import outside
from benchmarks.stacks.venvs import NoClient, python_of
from gesso.evaluation.generation.decoder import generate
from gesso.evaluation.harness.harness import evaluate
from gesso.evaluation.questions.scoring import MissingLibrary
from gesso.models import build

# Sums of log-probabilities over a document, in float32, in batches of other shapes; relative.
BOUND = 1e-4
_SAMPLE = {"do_sample": False, "max_gen_toks": 8, "until": ["\n\n"]}
# One task of every kind of request that lm-eval has: its YAML, and its documents.
TASKS: Mapping[str, dict[str, Any]] = {
    "gesso_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
        ],
    },
    "gesso_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm")],
    },
    "gesso_last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.rsplit(' ', 1)[0]}}",
        "doc_to_target": "{{' ' + text.rsplit(' ', 1)[1]}}",
        "metric_list": [{"metric": name} for name in ("perplexity", "acc")],
    },
    "gesso_written": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{written}}",
        "generation_kwargs": _SAMPLE,
        "metric_list": [{"metric": "exact_match"}],
    },
}
_TEXTS = (
    "def add(a, b):\n    return a + b\n",
    "The text wraps at the given width.",
    "import json, textwrap",
    *TEXTS,
)
_CHOICES = (
    {"question": "for line in text.", "choices": ["splitlines():", "banana"], "answer": 0},
    {"question": "if not isinstance(", "choices": ["the fox", "obj, str):"], "answer": 1},
    {"question": "The text wraps", "choices": [" at", " the given width", " "], "answer": 0},
)
_QUESTIONS = ("import json, textwrap\n", "def wrap(text, width=70")


def measure(c: Checkpoint, folder: Path) -> Figure:
    """The largest relative difference of a figure, of all tasks and of every document."""
    python = python_of("lm-eval")
    if c.config.family != "gpt":
        raise NoClient("not run: the tasks are for decoders")
    model = build(c.config)
    texts = generate(model, c.params, c.tokenizer, _QUESTIONS, max_tokens=8, stops=("\n\n",))
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        _write(work, list(texts))
        try:
            found = evaluate(model, c.params, c.tokenizer, list(TASKS), work)
        except MissingLibrary as error:
            raise NoClient(f"not run: {error}") from error
        ours = {name: found["tasks"][name] | _spread(found["documents"][name]) for name in TASKS}
        theirs, version = _theirs(folder, work, python)
    apart = 0.0
    for task, figures in ours.items():
        if {*_plain(figures)} != {*_plain(theirs[task])}:
            raise Differs(f"{task} has {sorted(figures)} here and {sorted(theirs[task])} there")
        for name, value in _plain(figures).items():
            difference = abs(value - theirs[task][name]) / max(1.0, abs(value))
            if not difference <= BOUND:
                raise Differs(f"{name} of {task} is {value} here and {theirs[task][name]} there")
            apart = max(apart, difference)
    if ours["gesso_written"]["exact_match,none"] != 1:
        raise Differs("our adapter does not write what our generate writes")
    return Figure(
        outcome="measured",
        apart=apart,
        of=f"{sum(len(_plain(each)) for each in ours.values())} figures (relative)",
        versions=f"lm-eval {version}",
    )


def _write(work: Path, written: list[str]) -> None:
    """The tasks as YAML, which JSON is, and their documents."""
    questions = [{"question": q, "written": w} for q, w in zip(_QUESTIONS, written, strict=True)]
    documents: dict[str, list[dict[str, Any]]] = {
        "gesso_rolling": [{"text": text} for text in _TEXTS],
        "gesso_choice": list(_CHOICES),
        "gesso_last_word": [{"text": " ".join(text.split())} for text in _TEXTS],
        "gesso_written": questions,
    }
    for name, task in TASKS.items():
        rows = work / f"{name}.jsonl"
        rows.write_text("".join(json.dumps(each) + "\n" for each in documents[name]))
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}}}
        settings = {"task": name, **data, "test_split": "test", "target_delimiter": "", **task}
        (work / f"{name}.yaml").write_text(json.dumps(settings))


def _theirs(folder: Path, work: Path, python: str) -> tuple[dict[str, dict[str, Any]], str]:
    """{task: its figures, and those of every document}, and the version that made them."""
    command = [
        *(python, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "2"),
        *("--model_args", f"pretrained={folder},dtype=float32"),
        *("--tasks", ",".join(TASKS), "--include_path", str(work)),
        *("--output_path", str(work / "made"), "--log_samples"),
    ]
    done = subprocess.run(command, timeout=900, **outside(work))
    if done.returncode:
        raise RuntimeError(f"lm_eval: {done.stderr.strip()[-600:]}")
    (results,) = (work / "made").rglob("results_*.json")
    record = json.loads(results.read_text())
    found = {}
    for name in TASKS:
        (samples,) = (work / "made").rglob(f"samples_{name}_*.jsonl")
        documents: dict[str, dict[int, float]] = {}
        for line in samples.read_text().splitlines():
            each = json.loads(line)
            for metric in each["metrics"]:
                if isinstance(value := each[metric], bool | int | float):
                    key = f"{metric},{each['filter']}"
                    documents.setdefault(key, {})[each["doc_id"]] = float(value)
        figures = {k: v for k, v in record["results"][name].items() if "," in k}
        found[name] = figures | _spread(
            {key: [values[i] for i in sorted(values)] for key, values in documents.items()}
        )
    return found, record["lm_eval_version"]


def _spread(documents: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {
        f"{metric} of document {number}": value
        for metric, values in documents.items()
        for number, value in enumerate(values)
    }


def _plain(figures: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers; standard errors are drawn by resampling, or "N/A"."""
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and "stderr" not in name
    }
