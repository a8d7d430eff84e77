"""tpu_pod.sh against a stand-in `gcloud`: workers are folders, and ssh is a local bash."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
WHERE = ["--name", "neo", "--zone", "us-east5-a"]
SLICE = [*WHERE, "--type", "v5litepod-16", "--poll-seconds", "0"]
# Everything a shell, gcloud or ssh could take for more than a word.
HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned; #",
    "a b  c",
    "",
    "it's",
    'say "hi"',
    "*",
    "~",
    "line\nbreak",
    "back\\slash",
    "--zone=elsewhere",
    "&& touch pwned",
    "naïve ünïcode",
]

GCLOUD = """\
import json, os, pathlib, shutil, signal, subprocess, sys
stand = pathlib.Path(os.environ["STAND"])
argv = sys.argv[1:]
with (stand / "calls").open("a") as calls:
    calls.write(json.dumps(argv) + "\\n")
state, verb = stand / "state", argv[3]
slices = int((stand / "slices").read_text()) if (stand / "slices").exists() else 1
first = 2 * int(argv[4].rpartition("-")[2]) if slices > 1 and verb == "ssh" else 0
workers = [stand / f"w{first}", stand / f"w{first + 1}"]
if verb == "describe":
    if (stand / "broken").exists():
        sys.exit("ERROR: (gcloud) PERMISSION_DENIED: not yours")
    if not state.exists() or argv[2] == "queued-resources":
        sys.exit("ERROR: (gcloud) NOT_FOUND: no such thing")
    print(state.read_text())
elif verb == "create":
    short = stand / "short"
    if short.exists():
        short.unlink()
        sys.exit("ERROR: no more capacity")
    counts = [each.partition("=")[2] for each in argv if each.startswith("--node-count=")]
    (stand / "slices").write_text(counts[0] if counts else "1")
    for number in range(2 * int(counts[0] if counts else 1)):
        worker = stand / f"w{number}"
        shutil.rmtree(worker, ignore_errors=True)
        worker.mkdir()
    state.write_text("READY")
elif verb == "delete":
    state.unlink()
elif verb == "scp":
    *paths, to = [each for each in argv[4:] if not each.startswith("--")]
    first = 2 * int(to[:-1].rpartition("-")[2]) if slices > 1 else 0
    for path in paths:
        for worker in (stand / f"w{first}", stand / f"w{first + 1}"):
            shutil.copy(path, worker)
elif verb == "ssh":
    which = next(each for each in argv if each.startswith("--worker=")).partition("=")[2]
    command = next(each for each in argv if each.startswith("--command=")).partition("=")[2]
    status = 0
    for worker in workers if which == "all" else [workers[int(which)]]:
        ssh = subprocess.Popen(
            ["bash", "-c", command], cwd=worker, env=os.environ | {"HOME": str(worker)},
            start_new_session=True,
        )
        status = max(status, ssh.wait())
        try:
            os.killpg(ssh.pid, signal.SIGHUP)  # what the end of a session does to what it left
        except ProcessLookupError:
            pass
    sys.exit(status)
"""
# Writes down what it was asked, then ends as the next line of `outcomes` says.
GESSO = """\
import json, os, pathlib, signal, sys, time
home, stand = pathlib.Path(os.environ["HOME"]), pathlib.Path(os.environ["STAND"])
if sys.argv[1:2] != ["report"]:
    with (stand / f"asked-{home.name}").open("a") as asked:
        asked.write(json.dumps(sys.argv[1:]) + "\\n")
starts = len((stand / f"asked-{home.name}").read_text().splitlines())
outcome = (stand / "outcomes").read_text().split()[starts - 1]
if sys.argv[1:2] == ["report"]:
    pathlib.Path(sys.argv[2], "report.html").write_text("as of now")
    sys.exit()
print("working on it", os.environ.get("FROM_SETUP", ""), flush=True)
if outcome == "slow":
    time.sleep(3)
    outcome = "0"
if outcome == "preempt":
    if home.name == "w0":
        (stand / "state").write_text("PREEMPTED")
    os.kill(os.getppid(), signal.SIGKILL)
    outcome = "1"
sys.exit(int(outcome))
"""


@dataclass
class Stand:
    """A checkout with a stand-in gcloud, and what happened to it."""

    folder: Path
    checkout: Path

    def pod(self, *arguments: str, outcomes: str = "0") -> subprocess.CompletedProcess[str]:
        (self.folder / "outcomes").write_text(outcomes)
        return subprocess.run(
            ["bash", str(self.checkout / "launch/tpu_pod.sh"), *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "STAND": str(self.folder)}

    def calls(self, verb: str = "") -> list[list[str]]:
        log = self.folder / "calls"
        made = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [each for each in made if not verb or each[3] == verb]

    def asked(self, worker: int = 0) -> list[list[str]]:
        log = self.folder / f"asked-w{worker}"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    made = Stand(folder=tmp_path, checkout=tmp_path / "checkout")
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs / "gcloud", f"#!{sys.executable}\n{GCLOUD}")
    program(programs / "python3.11", "#!/bin/sh\nexit 0\n")
    program(programs / "sudo", "#!/bin/sh\nexit 1\n")  # nothing here may need it
    (made.checkout / "launch").mkdir(parents=True)
    (made.checkout / "constraints").mkdir()
    (made.checkout / "constraints/py311.txt").write_text("jax\n")
    (made.checkout / "pyproject.toml").write_text("")
    for script in ("tpu_pod.sh", "tpu_worker.sh"):
        shutil.copy(LAUNCH / script, made.checkout / "launch")
    gesso = f"#!{sys.executable}\n{GESSO}"
    (made.checkout / "launch/gesso.py").write_text(gesso)
    (made.checkout / "launch/venv.sh").write_text(
        "mkdir -p .venv/bin && cp launch/gesso.py .venv/bin/gesso && chmod +x .venv/bin/gesso\n"
        'echo "$@" >>"$STAND/installs"\n'
    )
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "checkout"]):
        subprocess.run(["git", *command], cwd=made.checkout, check=True)
    return made


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_runs_the_same_command_on_every_worker(stand: Stand) -> None:
    done = stand.pod("run", *SLICE, "--", "pretrain", "debug-gpt-neo", "--steps", "3")
    assert done.returncode == 0, done.stderr
    assert stand.asked(0) == stand.asked(1) == [["pretrain", "debug-gpt-neo", "--steps", "3"]]
    assert "working on it" in done.stdout
    assert (stand.folder / "installs").read_text().splitlines() == [".venv tpu"] * 2
    created = stand.calls("create")
    assert len(created) == 1
    assert {"--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite"} <= set(created[0])
    assert not stand.calls("delete")


def test_hostile_arguments_arrive_as_they_are(stand: Stand) -> None:
    done = stand.pod("run", *SLICE, "--", "pretrain", *HOSTILE)
    assert done.returncode == 0, done.stderr
    assert stand.asked(0) == stand.asked(1) == [["pretrain", *HOSTILE]]
    assert not list(stand.folder.rglob("pwned"))


@pytest.mark.parametrize("option", ["--name", "--zone", "--type", "--project", "--version"])
@pytest.mark.parametrize("value", [*HOSTILE[:3], "-x", "a b", "A\nb"])
def test_hostile_names_are_refused_before_gcloud_is_called(
    stand: Stand, option: str, value: str
) -> None:
    done = stand.pod("run", *SLICE, option, value, "--", "pretrain", "x")
    assert done.returncode == 2
    assert option in done.stderr
    assert not stand.calls()
    assert not list(stand.folder.rglob("pwned"))


def test_dry_run_prints_commands_that_read_back_and_runs_none(stand: Stand) -> None:
    done = stand.pod("run", *SLICE, "--dry-run", "--", "pretrain", *HOSTILE)
    assert done.returncode == 0, done.stderr
    assert not stand.calls()
    only_gcloud = "\n".join(line for line in done.stdout.splitlines() if line.startswith("gcloud"))
    verbs = [line.split()[4] for line in only_gcloud.splitlines()]
    assert verbs[:2] == ["create", "scp"]
    assert set(verbs[2:]) == {"ssh"}
    start = next(line for line in only_gcloud.splitlines() if "start" in line)
    words = f"{start}\n".replace("gcloud", "printf '%s\\0'", 1)
    printed = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    command = next(
        word for word in printed.stdout.split("\0") if word.startswith("--command=")
    ).removeprefix("--command=")
    echo = command.replace("bash gesso-worker.sh start", "printf '%s\\0'", 1)
    arrived = subprocess.run(["bash", "-c", echo], capture_output=True, text=True, check=True)
    assert arrived.stdout.split("\0")[:-1] == ["pretrain", *HOSTILE]


def test_recreates_a_preempted_slice_and_goes_on(stand: Stand) -> None:
    done = stand.pod(
        "run", *SLICE, "--capacity", "spot", "--", "pretrain", "x", outcomes="preempt 0"
    )
    assert done.returncode == 0, done.stderr
    verbs = [call[3] for call in stand.calls() if call[3] in ("create", "delete")]
    assert verbs == ["create", "delete", "create"]
    assert all("--spot" in call for call in stand.calls("create"))
    assert len(stand.asked(0)) == len(stand.asked(1)) == 2


@pytest.mark.parametrize("status", [1, 70, 71, 75])
def test_starts_again_after_a_failure(stand: Stand, status: int) -> None:
    done = stand.pod("run", *SLICE, "--", "pretrain", "x", outcomes=f"{status} 0")
    assert done.returncode == 0, done.stderr
    assert f"ended {status}" in done.stderr
    assert len(stand.asked()) == 2
    assert len(stand.calls("create")) == 1  # the slice itself was well


def test_does_not_repeat_a_request_that_gesso_refused(stand: Stand) -> None:
    done = stand.pod("run", *SLICE, "--", "pretrain", "x", outcomes="2")
    assert done.returncode == 2
    assert len(stand.asked()) == 1


def test_gives_up_after_the_restarts_allowed(stand: Stand) -> None:
    done = stand.pod("run", *SLICE, "--restarts", "1", "--", "pretrain", "x", outcomes="1 1 1")
    assert done.returncode == 1
    assert len(stand.asked()) == 2
    assert "given up" in done.stderr


def test_waits_for_capacity(stand: Stand) -> None:
    (stand.folder / "short").touch()
    done = stand.pod("run", *SLICE, "--", "pretrain", "x")
    assert done.returncode == 0, done.stderr
    assert len(stand.calls("create")) == 2


def test_reuses_a_slice_and_its_environment(stand: Stand) -> None:
    for _ in range(2):
        assert stand.pod("run", *SLICE, "--", "pretrain", "x", outcomes="0 0").returncode == 0
    assert len(stand.calls("create")) == 1
    assert len((stand.folder / "installs").read_text().splitlines()) == 2  # one per worker


def test_the_job_outlives_its_session_and_a_second_call_attaches(stand: Stand) -> None:
    first = subprocess.Popen(
        ["bash", str(stand.checkout / "launch/tpu_pod.sh"), "run", *SLICE, "--", "pretrain", "x"],
        cwd=stand.folder,
        env=stand.environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    (stand.folder / "outcomes").write_text("slow")
    assert first.stdout is not None
    for line in first.stdout:
        if "working on it" in line:
            break
    os.killpg(first.pid, 9)  # the laptop is closed
    first.stdout.close()
    first.wait()
    second = stand.pod("run", *SLICE, "--", "pretrain", "x", outcomes="slow")
    assert second.returncode == 0, second.stderr
    assert len(stand.asked(0)) == len(stand.asked(1)) == 1
    assert "start 1" not in second.stderr


def test_stop_ends_the_job_on_every_worker(stand: Stand) -> None:
    (stand.folder / "outcomes").write_text("slow")
    assert stand.pod("run", *SLICE, "--", "pretrain", "x").returncode == 0
    assert stand.pod("stop", *WHERE).returncode == 0
    status = stand.pod("status", *WHERE)
    assert status.stdout.splitlines() == ["ended 0"] * 2
    assert "READY" in status.stderr


def test_setup_script_runs_on_every_worker_before_the_command(stand: Stand) -> None:
    setup = stand.folder / "my setup; touch pwned.sh"
    setup.write_text('echo "export FROM_SETUP=mounted" >"$HOME/gesso-env.sh"\n')
    done = stand.pod("run", *SLICE, "--setup", str(setup), "--", "pretrain", "x")
    assert done.returncode == 0, done.stderr
    assert "working on it mounted" in done.stdout


def test_queued_capacity_asks_for_a_queued_resource(stand: Stand) -> None:
    done = stand.pod("run", *SLICE, "--capacity", "queued-spot", "--", "pretrain", "x")
    assert done.returncode == 0, done.stderr
    (created,) = stand.calls("create")
    assert created[2] == "queued-resources"
    assert {"--node-id=neo", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"} <= set(created)


def test_several_slices_run_the_same_command_and_come_and_go_together(stand: Stand) -> None:
    several = ["--slices", "2", "--capacity", "queued-spot"]
    done = stand.pod("run", *SLICE, *several, "--", "pretrain", *HOSTILE, outcomes="preempt 0")
    assert done.returncode == 0, done.stderr
    assert all(stand.asked(worker) == [["pretrain", *HOSTILE]] * 2 for worker in range(4))
    created = stand.calls("create")
    assert len(created) == 2, "one slice was preempted: all of them are made anew"
    assert {"--node-count=2", "--node-prefix=neo", "--spot"} <= set(created[0])
    assert [each[2] for each in stand.calls("delete")] == ["queued-resources"]
    status = stand.pod("status", *WHERE, *several)
    assert sorted(status.stdout.splitlines()) == ["ended 0"] * 4
    alone = stand.pod("run", *SLICE, "--slices", "2", "--", "pretrain", "x")
    assert alone.returncode == 2 and "queued" in alone.stderr


def test_fetches_the_report_and_the_records(stand: Stand) -> None:
    assert stand.pod("run", *SLICE, "--", "pretrain", "x").returncode == 0
    run = stand.folder / "w0/gesso-job/runs/a b; touch pwned"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/big").touch()
    (run / "metrics.jsonl").write_text("{}\n")
    fetch = ["fetch", *WHERE, "--folder", "runs/a b; touch pwned"]
    assert stand.pod(*fetch).returncode == 0
    here = stand.folder / "a b; touch pwned"
    assert {each.name for each in here.iterdir()} == {"metrics.jsonl", "report.html"}
    assert (here / "report.html").read_text() == "as of now"
    assert stand.pod(*fetch, "--to", "there").returncode == 0
    assert (stand.folder / "there/report.html").exists()
    assert stand.pod("fetch", *WHERE).returncode == 2
    assert not (stand.folder / "w0/gesso-job/pwned").exists()


def test_deletes_on_request(stand: Stand) -> None:
    done = stand.pod("run", *SLICE, "--when-done", "delete", "--", "pretrain", "x")
    assert done.returncode == 0, done.stderr
    assert [call[4:] for call in stand.calls("delete")] == [["neo", "--zone=us-east5-a", "--quiet"]]


def test_an_unexplained_gcloud_failure_creates_nothing(stand: Stand) -> None:
    (stand.folder / "broken").touch()
    done = stand.pod("run", *SLICE, "--", "pretrain", "x")
    assert done.returncode == 2
    assert "PERMISSION_DENIED" in done.stderr
    assert not stand.calls("create")


def test_takes_uncommitted_changes_along_and_leaves_the_checkout_alone(stand: Stand) -> None:
    changed = stand.checkout / "launch/gesso.py"
    changed.write_text(changed.read_text().replace("working on it", "changed"))

    def git(*words: str) -> str:
        return subprocess.check_output(["git", *words], cwd=stand.checkout, text=True)

    before = git("status", "--porcelain"), git("stash", "list")
    done = stand.pod("run", *SLICE, "--", "pretrain", "x")
    assert "changed" in done.stdout
    assert (git("status", "--porcelain"), git("stash", "list")) == before


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run", *WHERE], ["run", *SLICE], ["run", *SLICE, "--nmae", "x"]]
)
def test_an_incomplete_request_is_refused(stand: Stand, arguments: list[str]) -> None:
    done = stand.pod(*arguments)
    assert done.returncode == 2
    assert "tpu_pod.sh: " in done.stderr
    assert not stand.calls()


def test_help_teaches(stand: Stand) -> None:
    done = stand.pod("--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout
