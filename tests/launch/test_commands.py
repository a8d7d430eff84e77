"""The commands on a real, tiny run: corpus, pretrain, continue, evaluate, generate, report."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gesso.data.config import BuildConfig
from gesso.launch import cli
from gesso.launch.commands.corpus import Build
from gesso.launch.commands.list import figures
from gesso.launch.commands.pretrain import read
from gesso.launch.console import size
from gesso.pretrain.exits import DONE, FAILED, REFUSED

TINY = [
    *("--model.layers", "1", "--model.embed", "32", "--model.heads", "2", "--model.mlp", "64"),
    *("--length", "64", "--model.positions", "64", "--optimizer.schedule.warmup-steps", "1"),
    *("--evaluation.rows", "0", "--evaluation.sample-tokens", "8"),
    *("--logging.every-steps", "1", "--checkpoint.every-steps", "4"),
]
Gesso = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a run of 6 steps on it."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("Prose", "Code"):
        texts = [f"{name} {n}: " + "the quick brown fox " * (3 + n % 7) for n in range(200)]
        lines = [json.dumps({"text": text, "meta": {"pile_set_name": name}}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join([*lines, "not json"]) + "\n")
    sources = [str(folder / "Prose.jsonl"), str(folder / "Code.jsonl")]
    store = str(folder / "store")
    assert cli.main(["corpus", "build", *sources, "--folder", store, "--holdout", "0.2"]) == DONE
    assert cli.main(pretrain(folder, steps=6)) == DONE
    return folder


def pretrain(folder: Path, *, steps: int) -> list[str]:
    where = ["--folder", str(folder / "runs/tiny"), "--data.store", str(folder / "store")]
    return ["pretrain", "debug-gpt-neo", *where, "--steps", str(steps), *TINY]


@pytest.fixture
def gesso(capsys: pytest.CaptureFixture[str]) -> Gesso:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(each) for each in arguments])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "runs/tiny/metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_corpus_inspect_accounts_for_every_line(workplace: Path, gesso: Gesso) -> None:
    status, out, _ = gesso("corpus", "inspect", workplace / "store", "--json", "--samples", 2)
    found = json.loads(out)
    assert status == DONE
    documents = sum(
        split["documents"] for splits in found["totals"].values() for split in splits.values()
    )
    assert documents == 400
    assert sum(found["rejects"].values()) == 2
    assert [len(each) for each in found["samples"].values()] == [2, 2]
    assert found["samples"]["Prose"][0].startswith("Prose ")
    assert found["tokenizer"]["kind"] == "bytes"


def test_corpus_inspect_shows_a_table(workplace: Path, gesso: Gesso) -> None:
    status, out, _ = gesso("corpus", "inspect", workplace / "store")
    assert status == DONE
    assert all(word in out for word in ("Prose", "Code", "bad_json", "257 ids"))


def test_corpus_verify_finds_a_flipped_bit(workplace: Path, gesso: Gesso) -> None:
    status, out, _ = gesso("corpus", "verify", workplace / "store")
    assert (status, out.strip()) == (DONE, f"whole: {workplace / 'store'}")
    path = next((workplace / "store").rglob("*.tok"))
    intact = path.read_bytes()
    try:
        path.write_bytes(bytes([intact[0] ^ 1]) + intact[1:])
        status, out, _ = gesso("corpus", "verify", workplace / "store", "--json")
        assert status == FAILED
        assert path.name in " ".join(json.loads(out)["problems"])
    finally:
        path.write_bytes(intact)


def test_corpus_build_refuses_sources_that_are_not_there(workplace: Path, gesso: Gesso) -> None:
    status, _, err = gesso(
        "corpus", "build", workplace / "Prsoe.jsonl", "--folder", workplace / "x"
    )
    assert status == REFUSED
    assert "Prsoe.jsonl" in err
    assert not (workplace / "x").exists()


def test_corpus_build_has_every_setting_of_a_build() -> None:
    offered = {field.name for field in fields(Build)} - {"json"}
    assert offered == {field.name for field in fields(BuildConfig)}
    defaults = {field.name: field.default for field in fields(BuildConfig)}
    assert {
        field.name: field.default for field in fields(Build) if field.name in defaults
    } == defaults


def test_the_same_command_again_does_nothing(workplace: Path, gesso: Gesso) -> None:
    before = records(workplace, "train")
    assert [record["step"] for record in before] == [1, 2, 3, 4, 5, 6]
    assert gesso(*pretrain(workplace, steps=6))[0] == DONE
    assert records(workplace, "train") == before


def test_a_run_is_continued_only_as_itself(workplace: Path, gesso: Gesso) -> None:
    other = pretrain(workplace, steps=6)
    other[1] = "debug-gpt-j"
    status, _, err = gesso(*other)
    assert status == REFUSED
    assert "differs from the one asked" in err


def test_pretrain_reads_settings_and_which_were_named() -> None:
    asked = read(
        ["gpt-neo-125m", "--optimizer.learning-rate=1e-3", "--mesh.fsdp", "8", "--folder", "a"]
    )
    assert asked.experiment.optimizer.learning_rate == 1e-3
    assert asked.experiment.mesh.fsdp == 8
    assert asked.experiment.name == "gpt-neo-125m"
    assert asked.folder == Path("a")
    assert asked.named == {"optimizer.learning_rate", "mesh.fsdp"}
    assert read(["gpt-neo-125m"]).folder == Path("runs/gpt-neo-125m")


def test_pretrain_help_says_where_numbers_are_from(gesso: Gesso) -> None:
    status, out, _ = gesso("pretrain", "gpt-j-6b", "--help")
    assert status == DONE
    assert "https://" in out
    assert "--optimizer.learning-rate" in out


def test_evaluate(workplace: Path, gesso: Gesso) -> None:
    run = workplace / "runs/tiny"
    status, out, _ = gesso("evaluate", run, "--json")
    found = json.loads(out)
    assert status == DONE
    assert found["step"] == 6
    assert set(found["components"]) == {"Prose", "Code"}
    assert found["tokens"] == sum(each["tokens"] for each in found["components"].values())
    assert 0 < found["baselines"]["byte_3gram"] < found["baselines"]["unigram"] < 8
    (in_loop,) = (each for each in records(workplace, "evaluation") if each["step"] == 6)
    assert found["tokens"] == in_loop["tokens"]
    # The same sums in another order, in float32.
    assert found["loss"] == pytest.approx(in_loop["loss"], rel=1e-5)
    status, out, _ = gesso(
        "evaluate", run, "--components", "Code", "--rows", 1, "--baselines", "skip"
    )
    assert status == DONE
    assert "Code" in out
    assert "Prose" not in out


def test_evaluate_refuses_a_store_of_another_tokenizer(workplace: Path, gesso: Gesso) -> None:
    source, folder = workplace / "Prose.jsonl", workplace / "tokenizer"
    trained = ["--folder", folder, "--vocab-size", 300]
    assert gesso("tokenizer", "train", source, *trained, "--kind", "bpe")[0] == DONE
    built = ["--folder", workplace / "other", "--tokenizer", folder, "--reject-cap", "0.1"]
    assert gesso("corpus", "build", source, *built)[0] == DONE
    status, _, err = gesso("evaluate", workplace / "runs/tiny", "--store", workplace / "other")
    assert status == REFUSED
    assert "another tokenizer" in err


def test_generate_is_the_same_each_time(workplace: Path, gesso: Gesso) -> None:
    run = workplace / "runs/tiny"
    asked = ["generate", run, "--max-tokens", 8, "--temperature", 0.9, "--top-p", 0.9, "--prompt"]
    status, first, _ = gesso(*asked, "the ", "fox", "--json")
    assert status == DONE
    assert [each["prompt"] for each in json.loads(first)] == ["the ", "fox"]
    assert gesso(*asked, "the ", "fox", "--json")[1] == first
    status, streamed, _ = gesso(*asked, "the ", "--stream")
    assert status == DONE
    assert streamed.rstrip("\n") == "the " + json.loads(first)[0]["text"].rstrip("\n")


@pytest.mark.parametrize(
    "settings",
    [
        ["--top-k", "5"],
        ["--temperature", "1", "--top-p", "1.5"],
        ["--temperature", "-1"],
        ["--max-tokens", "0"],
        ["--stream", "--json"],
    ],
    ids=" ".join,
)
def test_generate_refuses_settings_without_a_meaning(
    workplace: Path, gesso: Gesso, settings: list[str]
) -> None:
    status, out, err = gesso("generate", workplace / "runs/tiny", "--prompt", "the", *settings)
    assert (status, out) == (REFUSED, "")
    assert "Traceback" not in err


def test_report_is_written_where_asked(workplace: Path, gesso: Gesso) -> None:
    page = workplace / "page.html"
    status, out, _ = gesso("report", workplace / "runs/tiny", "--output", page)
    assert (status, out.strip()) == (DONE, str(page))
    assert "debug-gpt-neo" in page.read_text()
    status, _, err = gesso(
        "report", workplace / "runs/tiny", "--output", workplace / "no/page.html"
    )
    assert status == REFUSED
    assert "there is no folder" in err


def test_list_counts_parameters_and_memory(gesso: Gesso) -> None:
    status, out, _ = gesso("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == DONE
    # GPT-2's 124,439,808 parameters; adamw in float32 holds four arrays of them.
    assert rows["gpt2-124m"]["parameters"] == 124_439_808
    assert rows["gpt2-124m"]["state_bytes"] == 16 * 124_439_808
    status, out, _ = gesso("list")
    assert all(name in out for name in rows)


def test_state_follows_the_optimizer_and_the_dtype() -> None:
    asked = ["debug-gpt2", "--optimizer.name", "lion", "--precision.params", "bfloat16"]
    row = figures(read(asked).experiment)
    assert row["state_bytes"] == 2 * 3 * row["parameters"]


@pytest.mark.parametrize(
    ("count", "shown"), [(999, "999 bytes"), (3_700_000, "3.7 MB"), (24_100_000_000, "24.1 GB"),
                         (329e9, "329 GB"), (1.5e12, "1.5 TB")]
)  # fmt: skip
def test_size(count: float, shown: str) -> None:
    assert size(count) == shown
