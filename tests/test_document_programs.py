"""Every Python block of the pages is run, in order, on small folders of the names it uses.

A block that needs an optional package is run where that is installed; a fragment of definitions is
run among the names of the module it belongs to. Whatever is not run is compiled, and every name in
it must be there.
"""

import builtins
import dis
import importlib.util
import json
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

CHECKOUT = Path(__file__).parents[1]
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
Names = dict[str, Any]


def blocks(text: str) -> list[tuple[int, str]]:
    """(line, program) of every fenced block of Python."""
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text[: each.start()].count("\n") + 2, each[1]) for each in found]


# What a page's programs find in the folder they run in, and the names that its text introduces.


def nothing(folder: Path) -> Names:
    return {}


def a_store(folder: Path) -> Names:
    from gesso.data.store.build import build

    corpus(folder)
    build(sources=["pile/*.jsonl.zst"], folder="stores/pile", tokenizer="gpt2/", workers=1)
    return {}


def corpus(folder: Path) -> Names:
    """Shards as The Pile's, and a tokenizer's folder."""
    from gesso.data import load_tokenizer, save_tokenizer

    save_tokenizer(load_tokenizer("bytes"), folder / "gpt2")
    (folder / "pile").mkdir()
    records = [
        {"text": f"Text {i}. " * (1 + i % 9), "meta": {"pile_set_name": ("Github", "Code")[i % 2]}}
        for i in range(200)
    ]
    lines = "".join(json.dumps(each) + "\n" for each in records)
    packed = zstandard.ZstdCompressor().compress(lines.encode())
    (folder / "pile/00.jsonl.zst").write_bytes(packed)
    return {}


def some_instructions(folder: Path) -> Names:
    from gesso.finetune.instructions.build import build_instructions
    from gesso.finetune.instructions.config import InstructionsConfig, SourceConfig

    nli = [{"premise": f"fact {i}", "hypothesis": f"claim {i}", "label": i % 3} for i in range(60)]
    sums = [
        {"question": f"{i} and {i}?", "reply": f"{2 * i}", "rationale": "twice"} for i in range(60)
    ]
    for name, records in (("nli", nli), ("sums", sums)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    sources = (
        SourceConfig(path="nli.jsonl", family="entailment"),
        SourceConfig(path="sums.jsonl", family="word_problem"),
    )
    build_instructions(InstructionsConfig(sources=sources, holdout=0.1), folder / "my-instructions")
    return {}


def a_run(folder: Path) -> Names:
    (folder / "runs/quickstart").mkdir(parents=True)
    record = {"kind": "train", "step": 1, "loss": 5.0}
    (folder / "runs/quickstart/metrics.jsonl").write_text(json.dumps(record) + "\n")
    return {}


def predictions(folder: Path) -> Names:
    path = folder / "runs/finetune-classify/evaluations/task-sst2-2000.npz"
    path.parent.mkdir(parents=True)
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, 200)
    logits = np.eye(2)[targets] * 2 + random.normal(size=(200, 2)) * 2
    np.savez(path, examples=np.arange(200), logits=logits, targets=targets)
    return {}


def a_model(folder: Path) -> Names:
    import jax

    from gesso.data import load_tokenizer
    from gesso.models import GPTConfig, build

    config = GPTConfig(vocab=264, positions=32, layers=1, embed=16, heads=2, mlp=32)
    model = build(config)
    params = model.init(jax.random.key(0))
    tokenizer = load_tokenizer("bytes")
    return {"model": model, "params": params, "tokenizer": tokenizer, "config": config}


def arrays(folder: Path) -> Names:
    from gesso.partitioning.axes import einsum

    x, q = np.ones((2, 3, 4), np.float32), np.ones((4, 2, 5), np.float32)
    return {"einsum": einsum, "x_BLD": x, "q_DNH": q}


def a_family(folder: Path) -> Names:
    from gesso.models.gpt import config, gpt

    return {**vars(config), **vars(gpt)}


PREPARE: dict[str, Callable[[Path], Names]] = {
    "README.md": nothing,
    "docs/add_a_model.md": a_family,
    "docs/alphabet.md": arrays,
    "docs/data_order.md": a_store,
    "docs/evaluation.md": a_model,
    "docs/instructions.md": some_instructions,
    "docs/metrics.md": a_run,
    "docs/other_packages.md": nothing,
    "docs/stacks.md": a_model,
    "docs/tasks.md": predictions,
    "docs/token_store.md": corpus,
}
# page -> (what it says, what is as good for a test)
SMALLER = {
    "README.md": ('"steps": 200', '"steps": 2'),
    "docs/token_store.md": ("workers=8", "workers=1"),
}
OPTIONAL = {"onnxruntime": "onnx", "ctranslate2": "ctranslate2", "flatbuffers": "stablehlo"}


def page_name(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


WITH_PROGRAMS = [path for path in PAGES if blocks(path.read_text())]


def test_every_page_with_a_program_is_prepared() -> None:
    assert {page_name(path) for path in WITH_PROGRAMS} == PREPARE.keys()


def unresolved(program: types.CodeType, names: Names) -> list[str]:
    """The global names that the code and its functions read and nobody has."""
    codes = [program]
    read: set[str] = set()
    for code in codes:
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        local = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_NAME"}
        read |= {
            each.argval
            for each in dis.get_instructions(code)
            if each.opname in ("LOAD_GLOBAL", "LOAD_NAME") and each.argval not in local
        }
    return sorted(
        read
        - names.keys()
        - vars(builtins).keys()
        - {"__module__", "__qualname__", "__annotations__"}
    )


def needs(program: str) -> str:
    """The optional package that a block is about; "" for none."""
    words = {"deserialize": "flatbuffers", "harness": "lm_eval"}
    words |= {name: name for name in ("onnxruntime", "ctranslate2")}
    return next((package for word, package in words.items() if word in program), "")


def write_for(package: str, folder: Path, names: Names) -> None:
    """The export, or the task, that the block of an optional package reads."""
    if package in OPTIONAL:
        from gesso.export.stacks.stacks import write_stack

        if (folder / "folder").exists():
            (folder / "folder").rename(folder / f"before {package}")
        write_stack(
            folder / "folder", names["config"], names["params"], names["tokenizer"],
            format=OPTIONAL[package],  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
    if package == "lm_eval":
        (folder / "tasks").mkdir()
        (folder / "tasks/my_task.yaml").write_text(TASK)
        example = {"text": "the sky is", "options": ["blue", "green"], "label": 0}
        (folder / "tasks/examples.jsonl").write_text(json.dumps(example) + "\n")


TASK = """\
task: my_task
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/examples.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}]
"""


def run_page(path: Path, folder: Path) -> Iterator[tuple[int, str]]:
    """Run a page's blocks in the folder, which is the working one; yield those only compiled."""
    page = page_name(path)
    names: Names = {"__name__": "program", **PREPARE[page](folder)}
    said, smaller = SMALLER.get(page, ("", ""))
    assert said in path.read_text()
    for line, text in blocks(path.read_text()):
        program = "\n" * (line - 1) + (text.replace(said, smaller) if said else text)
        code = compile(program, page, "exec")
        package = needs(text)
        if package and importlib.util.find_spec(package) is None:
            imported = re.findall(r"^import (\w+)", text, re.MULTILINE)
            assert not unresolved(code, names | dict.fromkeys(imported))
            yield line, package
            continue
        write_for(package, folder, names)
        exec(code, names)
        assert not unresolved(code, names)


@pytest.mark.parametrize("path", WITH_PROGRAMS, ids=page_name)
def test_the_programs_of_a_page_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line, package in run_page(path, tmp_path):
        print(f"line {line} was not run: no {package}")
    if path.name == "README.md":
        assert (tmp_path / "runs/mine/checkpoints/2").is_dir()


@pytest.mark.parametrize(
    "program", ["experimnt()", "def f():\n    return experimnt", "class C:\n    x = experimnt"]
)
def test_a_name_that_nobody_has_is_found(program: str) -> None:
    assert unresolved(compile(program, "page", "exec"), {}) == ["experimnt"]
