"""Tasks of lm-evaluation-harness on a model of ours, in process. Needs the extra `evaluate`."""
# pyright: reportMissingImports=false

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gesso.data.tokenizers.base import Tokenizer
from gesso.evaluation.questions.scoring import MissingLibrary
from gesso.models.model import Model
from gesso.settings.nearest import did_you_mean


def evaluate(
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    include_path: str | os.PathLike[str] = "",
    limit: int = 0,
    *,
    objective: Any = None,
    shots: int | None = None,
    rows: int = 32,
    compute: str = "float32",
) -> dict[str, Any]:
    """{"tasks", "groups": {name: {"acc,none": f, "acc_stderr,none": f | None, ...}}, "documents":
    {task: {metric: [a value per document]}}, "higher_is_better", "shots", "counts": {task:
    {"original", "effective"}}, "versions", "limit", "lm_eval": its version}, names as lm_eval's.

    tasks: names, or patterns of names. include_path: a folder with tasks as YAML, looked at first;
    what is all in there needs no network (a path under data_files is relative to the working
    folder, as lm_eval has it). limit: documents per task; 0 = all. shots: examples in a prompt
    where a task leaves it open. The rest is as HarnessModel says.

    Raises MissingLibrary without lm_eval, ValueError for a task that there is not and for one that
    cannot be read or answered.
    """
    manager, names = known_tasks(tasks, include_path)
    from jinja2 import TemplateError
    from lm_eval import evaluator

    from gesso.evaluation.harness.model import HarnessModel

    lm = HarnessModel(model, params, tokenizer, objective=objective, rows=rows, compute=compute)
    try:
        run: Any = evaluator.simple_evaluate
        found = run(
            lm,
            tasks=names,
            task_manager=manager,
            limit=limit or None,
            num_fewshot=shots,
            bootstrap_iters=1000,
        )
    except (OSError, TemplateError) as error:
        raise ValueError(
            f"{', '.join(names)} could not be read: {error}; data_files are relative to"
            f" {Path.cwd()}, templates name the fields of the data, and a data set of the hub needs"
            " a network"
        ) from error
    assert found is not None  # None is for ranks above 0, and ours all have rank 0
    return _plain(found, limit)


def known_tasks(
    tasks: Sequence[str], include_path: str | os.PathLike[str] = ""
) -> tuple[Any, list[str]]:
    """(lm_eval's manager of tasks, the names asked for, patterns spelled out). Raises ValueError
    for one that there is not, MissingLibrary without lm_eval.

    lm_eval's own tasks, which take seconds to list, are listed only where the folder has not all of
    them, or has groups, whose tasks may be lm_eval's.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingLibrary(
            f"lm-evaluation-harness is not installed ({error}); install the extra: pip install"
            " 'gesso[evaluate]'"
        ) from error
    if not tasks:
        raise ValueError("name at least one task")
    folder = os.fspath(include_path) or None
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"there is no folder of tasks {folder}")
    manager: Any = TaskManager(include_path=folder, include_defaults=False)
    names = {each: _matches(manager, each) for each in tasks}
    found = [name for matches in names.values() for name in matches]
    if not all(names.values()) or set(found) & set(manager.all_groups):
        manager = TaskManager(include_path=folder)
        names = {each: _matches(manager, each) for each in tasks}
        found = [name for matches in names.values() for name in matches]
    if unknown := [each for each, matches in names.items() if not matches]:
        hint = did_you_mean(unknown[0], manager.all_tasks, most=3, show=str)
        raise ValueError(
            f"there is no task {', '.join(unknown)}{hint} (lm-eval ls tasks lists its own; a file"
            " that is not a task in YAML is passed over: lm-eval validate says why)"
        )
    return manager, list(dict.fromkeys(found))


def _matches(manager: Any, task: str) -> list[str]:
    is_file = task.endswith((".yaml", ".yml")) and Path(task).is_file()
    return [task] if is_file else manager.match_tasks([task])


def _plain(found: Mapping[str, Any], limit: int) -> dict[str, Any]:
    groups = found.get("groups") or {}
    tasks = {name: each for name, each in found["results"].items() if name not in groups}
    return {
        "tasks": {name: _figures(each) for name, each in tasks.items()},
        "groups": {name: _figures(each) for name, each in groups.items()},
        "documents": {name: _documents(each) for name, each in found["samples"].items()},
        "higher_is_better": found["higher_is_better"],
        "shots": found["n-shot"],
        "counts": found["n-samples"],
        "versions": found["versions"],
        "limit": limit,
        "lm_eval": version("lm_eval"),
    }


def _figures(each: Mapping[str, Any]) -> dict[str, float | None]:
    """Its numbers; a standard error that lm_eval calls "N/A" is None."""
    return {
        name: float(value) if isinstance(value, int | float) else None
        for name, value in each.items()
        if "," in name
    }


def _documents(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """{"acc,none": a value of every document in order}, of metrics that have one number of each."""
    values: dict[str, dict[int, float]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            if isinstance(value := sample[metric], bool | int | float):
                key = f"{metric},{sample['filter']}"
                values.setdefault(key, {})[sample["doc_id"]] = float(value)
    return {name: [each[place] for place in sorted(each)] for name, each in values.items()}
