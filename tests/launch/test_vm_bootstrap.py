"""vm_bootstrap.sh against stand-ins for sudo and apt-get; what a container is built of."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
HOSTILE = [
    "$(touch pwned)", "`touch pwned`", "; touch pwned; #", "a b  c", "", "it's", 'say "hi"', "*",
    "~", "a\nb", "back\\slash", "%n", "$HOME", "--nfs=x", "naïve",
]  # fmt: skip
# Root's files land below the stand; everything else that needs root is only written down.
SUDO = """\
#!/usr/bin/env bash
printf '%q ' "$@" >>"$STAND/sudo"; echo >>"$STAND/sudo"
case $1 in
tee) shift; while [[ $1 == -* ]]; do shift; done
     mkdir -p "$STAND/written$(dirname "$1")"; cat >>"$STAND/written$1" ;;
apt-get) [[ $* != *python3.12* ]] ;;
esac
"""


@pytest.fixture
def stand(tmp_path, monkeypatch):
    """A checkout whose installation writes a gesso that notes its words; programs on PATH."""
    for folder in ("bin", "home", "checkout/launch"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(CHECKOUT / "launch/vm_bootstrap.sh", tmp_path / "checkout/launch")
    (tmp_path / "checkout/launch/venv.sh").write_text(
        'echo "$@" >>"$STAND/installs"; mkdir -p "$1/bin"; cp "$STAND/bin/gesso" "$1/bin/gesso"\n'
    )
    programs = {
        "sudo": SUDO,
        "gesso": '#!/usr/bin/env bash\n[[ $1 == doctor ]] || printf "%s\\0" "$@" >"$STAND/asked"\n',
        "nvidia-smi": "#!/bin/sh\nexit 1\n",
        "mountpoint": "#!/bin/sh\nexit 1\n",
        "mount.nfs": "#!/bin/sh\n",
        "python3.11": "#!/bin/sh\nexit 1\n",
        "python3.12": "#!/bin/sh\nexit 1\n",
    }
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def bootstrap(*arguments, stand):
    script = stand / "checkout/launch/vm_bootstrap.sh"
    return subprocess.run(
        ["bash", str(script), *arguments], capture_output=True, text=True, cwd=stand, timeout=60
    )


def test_a_bare_machine_ends_up_with_a_service_that_runs_the_same_words(stand):
    done = bootstrap(
        "--devices", "cuda", "--extras", "sweep", "--nfs", "10.0.0.2:/runs",
        "--", "pretrain", *HOSTILE, stand=stand,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    installs = (stand / "installs").read_text().split()
    assert installs[1:] == ["cuda,sweep"]
    rooted = (stand / "sudo").read_text()
    assert "apt-get install -y -qq python3.11 python3.11-venv" in rooted, "3.12 is not to be had"
    assert "systemctl enable gesso" in rooted and "mount -- /shared" in rooted
    assert "10.0.0.2:/runs /shared nfs" in (stand / "written/etc/fstab").read_text()
    unit = (stand / "written/etc/systemd/system/gesso.service").read_text()
    assert "RestartPreventExitStatus=2\n" in unit and "RequiresMountsFor=/shared\n" in unit
    started = re.search(r"^ExecStart=/usr/bin/env (.*)$", unit, re.MULTILINE)
    assert started is not None
    subprocess.run(started[1].split(), check=True, cwd=stand)
    assert (stand / "asked").read_text().split("\0")[:-1] == ["pretrain", *HOSTILE]
    assert not list(stand.rglob("pwned"))


def test_without_a_command_there_is_no_service(stand):
    assert bootstrap("--devices", "cpu", stand=stand).returncode == 0
    assert "systemctl" not in (stand / "sudo").read_text()
    assert (stand / "installs").read_text().split()[1:] == [], "the CPU needs no extra"


def test_a_dry_run_prints_what_would_run_and_runs_nothing(stand):
    options = ["--devices", "tpu", "--nfs", "10.0.0.2:/runs"]
    told = bootstrap(*options, "--dry-run", "--", "pretrain", *HOSTILE, stand=stand)
    assert told.returncode == 0, told.stderr
    assert not (stand / "sudo").exists() and not (stand / "installs").exists()
    # What was printed, run by a shell, leaves what the script itself leaves.
    again = subprocess.run(["bash", "-c", told.stdout], cwd=stand, text=True, capture_output=True)
    assert again.returncode == 0, again.stderr
    printed = {path: (stand / path).read_text() for path in ("sudo", "installs")}
    script = (stand / "home/gesso-job/gesso.sh").read_text()
    shutil.rmtree(stand / "written")
    for path in (*printed, "home/gesso-job/gesso.sh"):
        (stand / path).unlink()
    assert bootstrap(*options, "--", "pretrain", *HOSTILE, stand=stand).returncode == 0
    assert (stand / "home/gesso-job/gesso.sh").read_text() == script
    # Which Python there is shows only when it is asked for: the dry run stops at the first.
    without = {
        path: [line for line in text.splitlines() if "python3" not in line]
        for path, text in printed.items()
    }
    for path, lines in without.items():
        made = [each for each in (stand / path).read_text().splitlines() if "python3" not in each]
        assert made == lines


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--devices", "gpu"), ("--extras", "a b"), ("--nfs", "$(x):/y"), ("--mount", "shared"),
        ("--service", "a;b"), ("--folder", "/a b"), ("--nope", "x"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_before_anything_runs(stand, option, value):
    done = bootstrap(option, value, "--", "list", stand=stand)
    assert done.returncode == 2 and option in done.stderr
    assert not (stand / "sudo").exists()


def test_a_machine_that_doctor_warns_of_starts_nothing(stand):
    (stand / "bin/gesso").write_text("#!/bin/sh\nexit 2\n")
    done = bootstrap("--devices", "cpu", "--", "list", stand=stand)
    assert done.returncode == 1 and "nothing was started" in done.stderr


# The container.

DOCKERFILE = (CHECKOUT / "docker/Dockerfile").read_text()


def lines(instruction):
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{instruction} +(.*)$", joined, re.MULTILINE)


def test_the_image_is_not_root_and_comes_from_no_particular_registry():
    assert lines("FROM") == ["python:${PYTHON}-slim-bookworm"]
    users = lines("USER")
    assert users == ["1000:1000"]
    assert not re.search(r"https?://|index-url|sudo|chmod 777", DOCKERFILE)


def test_what_enters_the_image_is_what_gesso_runs_from():
    rules = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert "*" in rules, "nothing enters but what is named"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    inner = [name.split(".")[1:] for name in project["tool"]["setuptools"]["packages"]]
    packages = {parts[0] for parts in inner if parts} | {"__init__.py"}
    assert let_in == packages | {"pyproject.toml", "README.md", "LICENSE", "constraints"}
    copied = {word for line in lines("COPY") for word in line.split()[1:-1]} - {"."}
    assert all((CHECKOUT / each).exists() for each in copied)
    assert {each.split("/")[0] for each in copied} <= let_in


@pytest.mark.parametrize(
    ("variant", "extras"),
    [("cpu", "sweep"), ("cuda", "cuda,sweep"), ("tpu", "tpu,sweep"), ("rocm", None)],
)
def test_each_variant_installs_its_own(tmp_path, variant, extras):
    """The RUN instruction, with a stand-in for the installation."""
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/venv.sh").write_text('printf "%s\\n" "$*" >installed\n')
    (tmp_path / "python").symlink_to(sys.executable)
    ran = subprocess.run(
        ["sh", "-c", lines("RUN")[1]], cwd=tmp_path, capture_output=True, text=True,
        env={"VARIANT": variant, "EXTRAS": "sweep", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    if extras is None:
        assert ran.returncode == 2 and "cpu, cuda or tpu" in ran.stderr
        return
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "installed").read_text() == f".venv {extras}\n"
    assert (tmp_path / "pretrain/__init__.py").is_file(), "without it: a namespace package"
