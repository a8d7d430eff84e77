"""Is a moved house the same house? What `gesso` computes and writes, as facts to compare.

    python -m benchmarks.unmoved --bin .venv/bin --to before.json       # on the one commit
    python -m benchmarks.unmoved --bin .venv/bin --to after.json        # on the other
    python -m benchmarks.unmoved --compare before.json after.json

Nothing of Gesso is imported: all goes through the command line of the executable in --bin, so that
one script serves commits whose modules have other names. Every debug experiment is trained, each
kind of adapter too, sharded over four virtual devices once, and exported; what these runs log,
hold and write is compared to the bit. About 12 CPU-minutes; the same command after an interruption
goes on where it was. Both commits must run on the same machine with the same packages.

--extras: as `pip install --no-deps --target EXTRAS gguf onnx onnxruntime flatbuffers` makes it.
--compare ends with 1 where a fact differs or is in one file only. LEFT_OUT is what is no fact.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 20
# What a run is exported in, besides hf: every format once for each way its writer takes. GPT-Neo's
# local layers have no gguf or ctranslate2: the refusal is the fact.
FORMATS = {
    "debug-gpt-neo": ("onnx", "gguf", "ctranslate2", "stablehlo", "orbax-params"),
    "debug-gpt-j": ("gguf", "ctranslate2"),
    "debug-gpt2": ("onnx", "gguf", "ctranslate2"),
    "debug-gpt-neox": ("gguf",),
    "debug-bert": ("onnx", "gguf", "ctranslate2", "stablehlo"),
    "debug-t5": ("onnx", "ctranslate2", "stablehlo"),
    "debug-transformer": ("onnx",),
    "debug-elmo": ("elmo", "orbax-params"),
}
# What a run begins with; without, from scratch.
STARTS = {
    "debug-flan": "debug-gpt-neo",
    "debug-ulmfit": "debug-gpt-neo",
    "debug-lora": "debug-gpt-neo",
    "debug-classify": "debug-bert",
}
# Its stages end after updates 10, 20 and 30, which must be below its steps.
OPTIONS = {"debug-ulmfit": ("--steps", "40")}
# Keys of metrics.jsonl that are read off a clock.
_CLOCK = "time seconds seconds_left compile_seconds tokens_per_second mfu data_wait_fraction"
CLOCK = _CLOCK.split()
# Files of a run whose bytes are facts; of all others the names are.
RECORDS = ("experiment.json", "parameters.json", "corpus.json", "start.json", "tokenizer/*")
# Names in which one part is a time, a host or a random number.
RANDOM_NAMES = re.compile(r"[0-9a-f]{32,33}$|events\.out\..*$")
LEFT_OUT = {
    f"metrics.jsonl: {', '.join(CLOCK)}": "read off a clock",
    "RUN/environment.json": "the machine, the commit and the command",
    "RUN/log.txt, events/, report.html": "hold times; their names are compared",
    "files of a checkpoint": "named at random, hold times; the fingerprints of arrays are compared",
    "program.stablehlo: source locations": "paths of the checkout; the program without is compared",
    "orbax-params: params/": "as checkpoints; how far the outputs are apart is compared",
    "experiments other than debug-*": "too large to run; their counts and settings are compared",
    "sweep, plan, quickstart, harness": "need other packages, or are made of what is compared",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run to make. flags: XLA_FLAGS."""

    name: str
    experiment: str
    start: str = ""
    options: tuple[str, ...] = ()
    flags: str = ""


_HEAD = ("--trainable", "classifier/*", "pooler/*")
_ADAPTED = {
    "debug-lora": {"prompt": (), "prefix": (), "ia3": ()},
    # Ids of WordPiece that texts have, and one that they have not.
    "debug-classify": {
        "focus": ("--adapter.marks", "7", "8", *_HEAD),
        "p_tuning": ("--adapter.placeholder", "1", *_HEAD),
    },
}
_MESH = "--mesh.data 1 --mesh.fsdp 2 --mesh.tensor 2 --layout fsdp_tensor --microbatches 2"
VARIANTS = (
    Run(
        name="debug-gpt2-sharded",
        experiment="debug-gpt2",
        options=tuple(_MESH.split()),
        flags="--xla_force_host_platform_device_count=4",
    ),
    *(
        Run(
            name=f"{experiment}-{kind}",
            experiment=experiment,
            start=STARTS[experiment],
            options=("--adapter.kind", kind, *options),
        )
        for experiment, kinds in _ADAPTED.items()
        for kind, options in kinds.items()
    ),
)


class House:
    """One installed Gesso: runs its command in a folder, with the same environment every time."""

    def __init__(self, binaries: Path, *, work: Path, environ: dict[str, str]):
        # Not resolved: bin/python is a link to an interpreter without the packages.
        self.work, self.python, self.gesso = work, binaries / "python", binaries / "gesso"
        if not self.gesso.exists():
            raise SystemExit(f"{self.gesso} is not there; --bin names the folder that has it")
        ours = ("GESSO_", "JAX_", "XLA_", "LIBTPU_", "PYTHON", "TF_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        # A width of 80 gives help in one column.
        self._environ = kept | {"JAX_PLATFORMS": "cpu", "COLUMNS": "80", "NO_COLOR": "1"}
        self._environ |= {"GESSO_CACHE": str(work / "cache")} | environ

    def asked(self, *arguments: str, flags: str = "") -> str:
        """What a command prints. Ends the program, with the command's last words, if it fails."""
        done = self.run(self.gesso, *arguments, flags=flags)
        if done.returncode:
            raise SystemExit(f"gesso {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def run(self, *command: Any, flags: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(each) for each in command],
            cwd=self.work,
            env=self._environ | ({"XLA_FLAGS": flags} if flags else {}),
            capture_output=True,
            text=True,
        )


class Facts:
    """{group: {name: value}}, written whenever a group is complete; a group there is kept."""

    def __init__(self, path: Path, *, about: dict[str, Any]):
        self._path, self._about = path, about
        there = json.loads(path.read_text()) if path.is_file() else {}
        self.groups: dict[str, dict[str, Any]] = there.get("facts", {})
        if there and there["about"] != about:
            raise SystemExit(f"{path} was begun elsewhere, or otherwise; use another --to")

    def add(self, group: str, make: Callable[[], dict[str, Any]]) -> None:
        if group in self.groups:
            return
        began = time.monotonic()
        print(f"{group} ...", end=" ", flush=True)
        self.groups[group] = make()
        record = {"about": self._about, "left_out": LEFT_OUT, "facts": self.groups}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        part.replace(self._path)
        print(f"{len(self.groups[group])} facts, {time.monotonic() - began:.0f} s", flush=True)


def collect(house: House, facts: Facts, *, only: list[str]) -> None:
    """Make every run whose name matches one of `only` and all facts about it."""
    experiments = json.loads(house.asked("list", "--json"))
    facts.add("gesso list", lambda: {each["name"]: each for each in experiments})
    names = [each["name"] for each in experiments]
    facts.add("settings", lambda: {name: settings(house, name) for name in names})
    runs = [of_name(name) for name in names if name.startswith("debug")]
    for run in (*runs, *VARIANTS):
        if not any(fnmatch.fnmatchcase(run.name, pattern) for pattern in only):
            continue
        facts.add(f"{run.name}: metrics", lambda run=run: trained(house, run))
        facts.add(f"{run.name}: state", lambda run=run: state(made(house, run)))
        facts.add(f"{run.name}: files", lambda run=run: files(made(house, run)))
        for format in ("hf", *FORMATS.get(run.name, ())) if run not in VARIANTS else ():
            facts.add(f"{run.name}: {format}", lambda run=run, f=format: exported(house, run, f))
        for group, make in AFTERWARDS.get(run.name, {}).items():
            facts.add(f"{run.name}: {group}", lambda make=make, run=run: make(house, run))


def of_name(name: str) -> Run:
    """The run of an experiment as it is."""
    start, options = STARTS.get(name, ""), OPTIONS.get(name, ())
    return Run(name=name, experiment=name, start=start, options=options)


def settings(house: House, name: str) -> dict[str, str]:
    """{option: its kind and its value} of an experiment, off its help."""
    found = re.findall(
        r"^ +(--\S+) (.*?\])(?:  |$)", house.asked("pretrain", name, "--help-all"), re.M
    )
    return dict(found)


def made(house: House, run: Run) -> Path:
    """The run's folder, trained first where it is not."""
    folder = house.work / "runs" / run.name
    if (folder / "report.html").is_file():  # written last
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    command = ["pretrain", run.experiment]
    if run.start:
        source = made(house, of_name(run.start))
        command = ["finetune", run.experiment, "--start", f"runs/{source.name}"]
    command += ["--folder", f"runs/{run.name}", "--steps", str(STEPS), "--logging.every-steps", "1"]
    house.asked(*command, *run.options, flags=run.flags)
    return folder


def trained(house: House, run: Run) -> dict[str, Any]:
    """{"train 3 loss": value} and so on: every figure of metrics.jsonl that no clock gave."""
    found: dict[str, Any] = {}
    for line in (made(house, run) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        kind = " ".join(str(record.pop(k)) for k in ("kind", "step", "event") if k in record)
        if kind.startswith("sample"):
            kind = f"{kind} {record.pop('prompt')!r}"
        found |= {f"{kind} {k}": v for k, v in record.items() if k not in CLOCK}
    return found


def state(folder: Path) -> dict[str, Any]:
    """{array: dtype, shape and fingerprint} of each checkpoint, and what is noted beside it."""
    found: dict[str, Any] = {}
    for manifest in sorted(folder.glob("checkpoints/*/manifest.json")):
        sealed = json.loads(json.loads(manifest.read_text())["body"])
        for name, leaf in sealed["leaves"].items():
            found[f"{sealed['step']} {name}"] = [leaf[k] for k in ("dtype", "shape", "fingerprint")]
        found |= {f"{sealed['step']} info {key}": value for key, value in sealed["info"].items()}
        found[f"{sealed['step']} format"] = sealed["format"]
    return found


def files(folder: Path) -> dict[str, str]:
    """{file: sha256} of what a run records of itself; of its other files, the names alone."""
    found = {}
    for name, path in within(folder):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in RECORDS):
            found[name] = sha256(path)
        else:
            found[RANDOM_NAMES.sub("*", re.sub("process_[0-9a-f]+", "process_*", name))] = "there"
    return found


def exported(house: House, run: Run, format: str) -> dict[str, Any]:
    """{file: sha256} of an export, and how far its outputs are from the run's; or the refusal."""
    source, to = f"runs/{made(house, run).name}", f"exports/{run.name}/{format}"
    done = house.run(house.gesso, "export", source, to, "--format", format, "--json")
    if done.returncode == 2:
        return {"refused": done.stderr.strip().splitlines()[-1]}
    if done.returncode:
        raise SystemExit(f"export of {run.name} as {format} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = {"agreement": json.loads(done.stdout)["agreement"]}
    for name, path in within(house.work / to):
        if name == "program.stablehlo":
            found[name] = without_locations(house, path)
        elif not (format == "orbax-params" and name.startswith("params/")):
            found[name] = sha256(path)
    return found


def without_locations(house: House, path: Path) -> str:
    """sha256 of a program as text, without the places in source code that it came from."""
    show = "import sys; from jax import export; b = bytearray(open(sys.argv[1], 'rb').read());"
    done = house.run(house.python, "-c", show + "print(export.deserialize(b).mlir_module())", path)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#loc")]
    text = re.sub(r' ?loc\((#\w+|"[^"]*"|unknown)\)', "", "\n".join(lines))
    assert ".py" not in text
    return hashlib.sha256(text.encode()).hexdigest()


def within(folder: Path) -> list[tuple[str, Path]]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path) for path in found]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def merged(house: House, run: Run) -> dict[str, Any]:
    source, to = f"runs/{made(house, run).name}", f"runs/{run.name}-merged"
    shutil.rmtree(house.work / to, ignore_errors=True)
    told = house.asked("adapter", "merge", source, to)
    return {"told": told} | state(house.work / to)


def peft(house: House, run: Run) -> dict[str, Any]:
    source, to = f"runs/{made(house, run).name}", f"exports/{run.name}/peft"
    house.asked("adapter", "export", source, to, "--base-name", "base")
    return {name: sha256(path) for name, path in within(house.work / to)}


def imported(house: House, run: Run) -> dict[str, Any]:
    """A published folder taken over: the run's own export."""
    source, to = f"exports/{run.name}/hf", f"runs/{run.name}-imported"
    shutil.rmtree(house.work / to, ignore_errors=True)
    if not (house.work / source).is_dir():
        exported(house, run, "hf")
    house.asked("import", source, to)
    return state(house.work / to)


def evaluated(house: House, run: Run) -> dict[str, Any]:
    source = f"runs/{made(house, run).name}"
    return json.loads(house.asked("evaluate", source, "--rows", "4", "--json"))


def generated(house: House, run: Run) -> dict[str, Any]:
    source = f"runs/{made(house, run).name}"
    ways = {"greedy": (), "drawn": ("--temperature", "0.8"), "beams": ("--beams", "2")}
    most = ("--max-tokens", "24", "--json")
    return {
        way: json.loads(house.asked("generate", source, "--prompt", "def ", *most, *options))
        for way, options in ways.items()
    }


def store(house: House, run: Run) -> dict[str, Any]:
    """The tokenized corpus that a run read, but for where it lies."""
    spec = json.loads((made(house, run) / "experiment.json").read_text())["data"]["store"]
    found = json.loads(house.asked("corpus", "inspect", spec, "--json"))
    found |= {"verified": json.loads(house.asked("corpus", "verify", spec, "--json"))["problems"]}
    return {key: value for key, value in found.items() if key != "folder"}


AFTERWARDS = {
    "debug-gpt-neo": {"evaluate": evaluated, "generate": generated, "store": store},
    "debug-gpt-j": {"import": imported},
    "debug-bert": {"store": store, "import": imported},
    "debug-transformer": {"generate": generated},
    "debug-elmo": {"store": store},
    "debug-lora": {"merge": merged, "peft": peft},
    "debug-lora-ia3": {"merge": merged},
    "debug-lora-prompt": {"peft": peft},
}


def compare(a: Path, b: Path, *, most: int = 5) -> int:
    """Print which facts are the same in both files; 1 where one is not."""
    ours, theirs = (json.loads(path.read_text()) for path in (a, b))
    total, wrong = 0, 0
    print(f"{'facts':42} {'equal':>6} {'differ':>6} {'only A':>6} {'only B':>6}")
    for group in sorted(ours["facts"].keys() | theirs["facts"].keys()):
        x, y = (each["facts"].get(group, {}) for each in (ours, theirs))
        differ = sorted(name for name in x.keys() & y.keys() if x[name] != y[name])
        alone = (sorted(x.keys() - y.keys()), sorted(y.keys() - x.keys()))
        counts = (len(x.keys() & y.keys()) - len(differ), len(differ), *map(len, alone))
        print(f"{group:42}", *(f"{count or '-':>6}" for count in counts))
        for name in differ[:most]:
            print(f"    {name}: {json.dumps(x[name]):.60} in A, {json.dumps(y[name]):.60} in B")
        for where, names in zip("AB", alone, strict=True):
            print(*(f"    only in {where}: {name}\n" for name in names[:most]), sep="", end="")
        total, wrong = total + sum(counts), wrong + sum(counts[1:])
    if ours["about"] != theirs["about"]:
        print("\nmade with other packages or on another machine: see `about` in both")
    print("\nno facts, by rule:", *(f"  {what}: {why}" for what, why in LEFT_OUT.items()), sep="\n")
    print(f"\n{wrong} of {total} facts differ" if wrong else f"\nall {total} facts are equal")
    return 1 if wrong else 0


def about(house: House) -> dict[str, Any]:
    listed = house.run(house.python, "-m", "pip", "list", "--format", "freeze").stdout.split()
    packages = [each for each in listed if not each.startswith("gesso")]
    return {"packages": packages, "cores": len(os.sched_getaffinity(0)), "of": os.uname().machine}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, help="the folder of gesso and python: .venv/bin")
    parser.add_argument("--to", type=Path, help="the JSON to write or go on with")
    parser.add_argument("--work", type=Path, help="where runs are made; TO.work by default")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of runs' names")
    parser.add_argument("--extras", type=Path, help="a folder of packages that bin's Python lacks")
    parser.add_argument("--compiled", type=Path, help="a cache of compiled programs for all")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"))
    asked = parser.parse_args()
    if asked.compare:
        return compare(*asked.compare)
    if not (asked.bin and asked.to):
        parser.error("--bin and --to, or --compare A B")
    work = (asked.work or asked.to.with_suffix(".work")).absolute()
    work.mkdir(parents=True, exist_ok=True)
    folders = {"PYTHONPATH": asked.extras, "JAX_COMPILATION_CACHE_DIR": asked.compiled}
    environ = {name: str(path.absolute()) for name, path in folders.items() if path}
    house = House(asked.bin.absolute(), work=work, environ=environ)
    collect(house, Facts(asked.to, about=about(house)), only=asked.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
