"""Two workers really train through every launcher; one is killed, and the run goes on exactly."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_gke_jobset as gke
import test_gpu_slurm as slurm
import test_tpu_pod as tpu
from processes import free_ports

LAUNCH = Path(__file__).parents[2] / "launch"
STEPS, KILLED_AT = 40, 4
SETTINGS = {
    "data.store": "embedded:bytes:0.3", "batch": 8, "length": 32, "model.layers": 2, "steps": STEPS,
    "model.embed": 32, "model.window": 16, "mesh.data": 4, "evaluation.every-steps": 0,
    "evaluation.sample-every-steps": 0, "checkpoint.every-steps": 2, "logging.every-steps": 1,
    "hosts.peer-timeout-seconds": 10,
}  # fmt: skip
# gesso, whose second process is killed once, when a checkpoint is complete.
GESSO = """\
#!{python}
import os, pathlib, signal, sys, threading, time
saved = pathlib.Path("{stand}/run/checkpoints/{step}/manifest.json")
once = pathlib.Path("{stand}/killed")
def watch():
    while not saved.exists():
        time.sleep(0.01)
    once.touch()
    os.kill(os.getpid(), signal.SIGKILL)
place = os.environ.get("{variable}") or pathlib.Path.home().name.removeprefix("w")
if place == "1" and not once.exists() and str(saved.parents[1].parent) in sys.argv:
    threading.Thread(target=watch, daemon=True).start()
if __name__ == "__main__":
    from gesso.launch.cli import main
    sys.exit(main())
"""


@pytest.fixture
def stand(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND", str(tmp_path))
    monkeypatch.setenv("COORDINATOR", f"127.0.0.1:{free_ports()}")
    monkeypatch.setenv("JOB", str((free_ports() - 20000) // 2 % 5000))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def killing(path: Path, stand: Path, variable: str) -> None:
    filled = {"python": sys.executable, "stand": stand, "step": KILLED_AT, "variable": variable}
    text = GESSO
    for name, value in filled.items():
        text = text.replace(f"{{{name}}}", str(value))
    program(path, text)


def pretrain(run: Path) -> list[str]:
    options = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    return ["pretrain", "debug-gpt-neo", "--folder", str(run), *options]


def through_jobset(stand: Path, run: Path) -> None:
    program(stand / "bin/kubectl", f"#!{sys.executable}\n{gke.KUBECTL}")
    killing(stand / "bin/gesso", stand, "JOB_COMPLETION_INDEX")
    (stand / "state").unlink(missing_ok=True)
    options = [*gke.ASKED, "--pods", "2", "--restarts", "2", "--poll-seconds", "0"]
    launch([sys.executable, str(LAUNCH / "gke/jobset.py"), "run", *options], stand, run)


def through_slurm(stand: Path, run: Path) -> None:
    for name, text in (
        ("sbatch", slurm.SBATCH), ("srun", slurm.SRUN), ("scontrol", slurm.SCONTROL),
    ):  # fmt: skip
        program(stand / "bin" / name, f"#!{sys.executable}\n{text}")
    checkout = stand / "checkout"
    for script in ("gpu_slurm.sh", "slurm_job.sh"):
        (checkout / "launch").mkdir(parents=True, exist_ok=True)
        shutil.copy(LAUNCH / script, checkout / "launch")
    killing(checkout / ".venv/bin/gesso", stand, "SLURM_PROCID")
    launch(["bash", str(checkout / "launch/gpu_slurm.sh"), "--gpus-per-node", "2"], stand, run)


def through_tpu_pod(stand: Path, run: Path) -> None:
    program(stand / "bin/gcloud", f"#!{sys.executable}\n{tpu.GCLOUD}")
    program(stand / "bin/python3.11", "#!/bin/sh\nexit 0\n")
    checkout = stand / "checkout"
    (checkout / "launch").mkdir(parents=True, exist_ok=True)
    for script in ("tpu_pod.sh", "tpu_worker.sh"):
        shutil.copy(LAUNCH / script, checkout / "launch")
    killing(checkout / "launch/gesso", stand, "NO_SUCH_VARIABLE")
    (checkout / "launch/venv.sh").write_text("mkdir -p .venv/bin && cp launch/gesso .venv/bin\n")
    (checkout / "constraints").mkdir(exist_ok=True)
    (checkout / "constraints/py311.txt").touch()
    (checkout / "pyproject.toml").touch()
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=checkout, check=command[0] == "init")
    setup = stand / "setup.sh"
    setup.write_text(
        'cat >"$HOME/gesso-env.sh" <<EOF\nexport GESSO_PROCESSES=2 GESSO_PROCESS=${HOME##*/w}\n'
        "export GESSO_COORDINATOR=$COORDINATOR\nEOF\n"
    )
    words = ["run", *tpu.SLICE, "--setup", str(setup)]
    launch(["bash", str(checkout / "launch/tpu_pod.sh"), *words], stand, run)


def launch(command: list[str], stand: Path, run: Path) -> None:
    done = subprocess.run(
        [*command, "--", *pretrain(run)], capture_output=True, text=True, cwd=stand, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def losses(run: Path) -> dict[int, tuple[float, int]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: (r["loss"], r["batch_crc32"]) for r in records if r["kind"] == "train"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [through_jobset, through_slurm, through_tpu_pod])
def test_one_of_two_workers_is_killed_and_the_run_goes_on_exactly(launcher, stand):
    launcher(stand, stand / "run")
    assert (stand / "killed").exists()
    log = (stand / "run/log.txt").read_text()
    assert "process 1 on" in log and "its process ended" in log, "the other says the cause"
    assert "continuing after step" in log
    launcher(stand, stand / "whole")
    assert len(losses(stand / "whole")) == STEPS
    assert losses(stand / "run") == losses(stand / "whole")
    devices = json.loads((stand / "run/environment.json").read_text())["devices"]
    assert devices["processes"] == 2
