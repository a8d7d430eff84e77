"""gpu_slurm.sh against stand-in SLURM programs: tasks are local processes that really train."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from processes import free_ports

LAUNCH = Path(__file__).parents[2] / "launch"
HOSTILE = ["$(touch pwned)", "`touch pwned`", "; touch pwned", "a b  c", "", "it's", "*", "a\nb"]

# Writes down its options and runs the script as SLURM would on the first node, again when requeued.
SBATCH = """\
import itertools, json, os, pathlib, subprocess, sys
stand = pathlib.Path(os.environ["STAND"])
words = sys.argv[1:]
options = list(itertools.takewhile(lambda each: each.startswith("--"), words))
script = words[len(options):]
(stand / "options").write_text(json.dumps(options))
tasks = next(o for o in options if o.startswith("--ntasks-per-node=")).partition("=")[2]
for count in range(5):
    (stand / "requeue").unlink(missing_ok=True)
    env = os.environ | {"SLURM_JOB_ID": os.environ["JOB"], "SLURM_RESTART_COUNT": str(count),
                        "SLURM_NTASKS": tasks}
    ended = subprocess.run(["bash", *script], env=env).returncode
    if not (stand / "requeue").exists():
        sys.exit(ended)
"""
SRUN = """\
import os, subprocess, sys
command = sys.argv[2:]
started = [
    subprocess.Popen(command, env=os.environ | {
        "SLURM_PROCID": str(i), "SLURM_STEP_NODELIST": "localhost", "SLURM_LOCALID": str(i)})
    for i in range(int(os.environ["SLURM_NTASKS"]))
]
sys.exit(max(each.wait() for each in started))
"""
SCONTROL = """\
import os, pathlib, sys
assert sys.argv[1:] == ["requeue", os.environ["SLURM_JOB_ID"]]
(pathlib.Path(os.environ["STAND"]) / "requeue").touch()
"""


@pytest.fixture
def stand(tmp_path, monkeypatch):
    """A folder with SLURM's programs on PATH and a checkout whose gesso is ours."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(f"#!{sys.executable}\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND", str(tmp_path))
    # The port of the processes' first meeting follows from the job's number: 20000 + 2 * job.
    monkeypatch.setenv("JOB", str((free_ports() - 20000) // 2 % 5000))
    return tmp_path


def slurm(*arguments, stand):
    return subprocess.run(
        [str(LAUNCH / "gpu_slurm.sh"), *arguments],
        capture_output=True, text=True, cwd=stand, timeout=300,
    )  # fmt: skip


def test_arguments_arrive_as_they_are_and_run_nothing(stand):
    done = slurm("--dry-run", "--", "pretrain", *HOSTILE, stand=stand)
    assert done.returncode == 0
    again = f'set -- {done.stdout}\nprintf "%s\\0" "$@"'
    words = subprocess.run(["bash", "-c", again], capture_output=True, text=True, cwd=stand).stdout
    assert words.split("\0")[-len(HOSTILE) - 1 : -1] == HOSTILE
    assert not (stand / "pwned").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nodes", "two"], "whole number"),
        (["--time", "$(date)"], "must be a time"),
        (["--partition", "a b"], "letters, digits"),
        (["--tasks", "core"], "gpu or node"),
        (["--nodse", "2"], "unknown option"),
        (["--setup", "missing.sh"], "is not a file"),
    ],
)
def test_a_wrong_request_is_refused(stand, options, message):
    done = slurm(*options, "--", "list", stand=stand)
    assert done.returncode == 2 and message in done.stderr
    assert not (stand / "options").exists()


def test_nothing_to_run_is_refused(stand):
    assert "say what to run" in slurm("--nodes", "2", stand=stand).stderr


def test_two_tasks_train_one_run_and_a_failure_is_requeued(stand):
    """The first start dies in one task; the second start, a requeue, trains to the end."""
    setup = stand / "setup.sh"
    setup.write_text(
        "export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2\n"
        f"if [[ $SLURM_PROCID == 1 && ! -e {stand}/died ]]; then touch {stand}/died; exit 7; fi\n"
        # A task of a job step that loses another is killed by SLURM.
        f"if [[ $SLURM_PROCID == 0 && $SLURM_RESTART_COUNT == 0 ]]; then exit 143; fi\n"
    )
    settings = {
        "data.store": "embedded:bytes:0.3", "steps": 2, "batch": 8, "length": 32,
        "model.layers": 1, "model.embed": 32, "mesh.data": 4, "evaluation.every-steps": 0,
        "evaluation.sample-every-steps": 0,
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    run = stand / "run"
    done = slurm(
        "--gpus-per-node", "2", "--time", "1:00:00", "--setup", str(setup),
        "--", "pretrain", "debug-gpt2", "--folder", str(run), *options, stand=stand,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "back into the queue" in done.stderr
    submitted = json.loads((stand / "options").read_text())
    assert {"--ntasks-per-node=2", "--requeue", "--signal=TERM@180"} <= set(submitted)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["event"] == "done" and records[-1]["step"] == 2
    assert json.loads((run / "environment.json").read_text())["devices"]["processes"] == 2


def test_an_array_runs_the_line_of_each_job(stand, tmp_path):
    """The trials of a sweep; what stands in a line is words, and nothing runs it."""
    commands = [["gesso", "pretrain", *HOSTILE[:-1], f"--steps={i}"] for i in range(3)]
    (stand / "trials").write_text("".join(shlex.join(each) + "\n" for each in commands))
    done = slurm("--array", "trials", "--at-once", "2", "--dry-run", stand=stand)
    words = shlex.split(done.stdout)
    assert "--array=0-2%2" in words and "--output=gesso-%A_%a.log" in words
    checkout = stand / "checkout/.venv/bin"
    checkout.mkdir(parents=True)
    (checkout / "python").symlink_to(sys.executable)
    (checkout / "gesso").write_text('#!/bin/bash\nprintf \'%s\\0\' "$@" >"$STAND/asked"\n')
    (checkout / "gesso").chmod(0o755)
    job = [str(LAUNCH / "slurm_job.sh"), str(stand / "checkout"), "0", "", "--array", "trials"]
    for i, command in enumerate(commands):
        environ = os.environ | {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_NTASKS": "1"}
        subprocess.run(["bash", *job], check=True, cwd=stand, env=environ)
        assert (stand / "asked").read_text().split("\0")[:-1] == command[1:]
    assert not (stand / "pwned").exists()


def test_an_array_of_nothing_is_refused(stand):
    (stand / "trials").touch()
    assert slurm("--array", "trials", stand=stand).returncode == 2
    assert slurm("--array", "missing", stand=stand).returncode == 2
