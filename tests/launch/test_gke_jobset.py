"""The JobSet script against a stand-in `kubectl`: pods are local processes that really train."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from processes import free_ports

SCRIPT = Path(__file__).parents[2] / "launch/gke/jobset.py"
HOSTILE = [
    "$(touch pwned)", "$(JOBSET_NAME)", "$$(JOBSET_NAME)", "`touch pwned`", "; touch pwned; #",
    "a b  c", "", "it's", 'say "hi"', "*", "~", "a\nb", "back\\slash", "$HOME", "--image=x", "{}",
]  # fmt: skip
ASKED = ["--name", "neo", "--image", "registry.example/gesso:1"]

# Creates what a controller would: the pods of every job, all of them again when one has failed,
# until maxRestarts, or at once the end where a pod's status is one that fails the set.
KUBECTL = """\
import json, os, pathlib, re, signal, subprocess, sys, time
stand = pathlib.Path(os.environ["STAND"])
words = [each for each in sys.argv[1:] if not each.startswith(("--context=", "--namespace="))]
with (stand / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
state = stand / "state"

def expanded(word, env):  # Kubernetes' own: $(NAME), and $$ for one $
    return re.sub(r"\\$\\$|\\$\\((\\w+)\\)",
                  lambda m: "$" if m[0] == "$$" else env.get(m[1], m[0]), word)

def pods(job_set):
    (job,) = job_set["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    labels = {"jobset-name": job_set["metadata"]["name"], "replicatedjob-name": job["name"]}
    for number in range(job["replicas"]):
        for index in range(spec["completions"]):
            env = {}
            for each in container["env"]:
                if "valueFrom" in each:
                    path = each["valueFrom"]["fieldRef"]["fieldPath"]
                    key = re.fullmatch(r"metadata.labels\\['jobset.sigs.k8s.io/(.*)'\\]", path)[1]
                    env[each["name"]] = (labels | {"job-index": str(number)})[key]
                else:
                    env[each["name"]] = expanded(each["value"], env)
            env["JOB_COMPLETION_INDEX"] = str(index)
            yield container, env

def once(job_set, count):
    started = []
    for container, env in pods(job_set):
        name = f"{env['JOB_INDEX']}-{env['JOB_COMPLETION_INDEX']}"
        log = (stand / f"pod-{name}.{count}.log").open("w")
        command = [expanded(each, env) for each in container["command"]]
        started.append(subprocess.Popen(
            command, env=os.environ | {"GESSO_COORDINATOR": os.environ["COORDINATOR"]} | env,
            stdout=log, stderr=subprocess.STDOUT, cwd=stand))
        (stand / f"pid-{name}").write_text(str(started[-1].pid))
    return [each.wait() for each in started]

if words[0] == "create":
    job_set = json.load(sys.stdin)
    (stand / "manifest").write_text(json.dumps(job_set))
    state.write_text("running")
    if os.fork() == 0:  # the controller
        os.setsid()
        policy = job_set["spec"]["failurePolicy"]
        (job,) = job_set["spec"]["replicatedJobs"]
        (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
        assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
        for count in range(policy["maxRestarts"] + 1):
            ended = once(job_set, count)
            if not any(ended) or set(ended) & set(rule["onExitCodes"]["values"]):
                break
        state.write_text("Failed" if any(ended) else "Completed")
        os._exit(0)
elif words[0] == "get":
    told = state.read_text() if state.exists() else ""
    ended = [{"type": told, "status": "True"}] if told != "running" else []
    print(json.dumps({"status": {"conditions": ended}}) if told else "")
elif words[0] == "logs":
    while state.exists() and state.read_text() == "running":
        time.sleep(0.05)
    for log in sorted(stand.glob("pod-0-0.*.log")):
        print(log.read_text())
elif words[0] == "delete":
    state.unlink(missing_ok=True)
"""


@pytest.fixture
def stand(tmp_path, monkeypatch):
    """A folder with kubectl, and this environment's gesso, on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").write_text(f"#!{sys.executable}\n{KUBECTL}")
    (programs / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND", str(tmp_path))
    monkeypatch.setenv("COORDINATOR", f"127.0.0.1:{free_ports()}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    return tmp_path


def jobset(*arguments, stand):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True, text=True, cwd=stand, timeout=300,
    )  # fmt: skip


def calls(stand):
    return [json.loads(line) for line in (stand / "calls").read_text().splitlines()]


def echoing(stand):
    """A gesso that writes down its words and its place."""
    (stand / "bin/gesso").write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "place = [os.environ[n] for n in ('JOBSET_NAME', 'JOB_INDEX', 'JOB_COMPLETION_INDEX')]\n"
        "with open('asked-' + '-'.join(place), 'w') as f:\n"
        "    json.dump([sys.argv[1:], os.environ.get('TOLD')], f)\n"
        "print('working on it')\n"
        "sys.exit(int(os.environ.get('ENDS', 0)))\n"
    )
    (stand / "bin/gesso").chmod(0o755)


def test_the_same_words_arrive_in_every_pod_and_run_nothing(stand):
    echoing(stand)
    told = "$(JOBSET_NAME) $x"
    done = jobset(
        "run", *ASKED, "--tpu", "tpu-v5-lite-podslice", "--topology", "2x4", "--slices", "2",
        "--env", f"TOLD={told}", "--poll-seconds", "0", "--", "pretrain", *HOSTILE, stand=stand,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "working on it" in done.stdout
    asked = sorted(stand.glob("asked-neo-*"))
    assert [each.name for each in asked] == [f"asked-neo-{s}-{p}" for s in (0, 1) for p in (0, 1)]
    assert all(json.loads(each.read_text()) == [["pretrain", *HOSTILE], told] for each in asked)
    assert not (stand / "pwned").exists()


def test_a_dry_run_prints_what_reads_back_and_runs_nothing(stand):
    done = jobset("run", *ASKED, "--dry-run", "--", "pretrain", *HOSTILE, stand=stand)
    assert done.returncode == 0 and not (stand / "calls").exists()
    echo = stand / "bin/kubectl"
    echo.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdin.isatty() or print(sys.stdin.read())"
    )
    lines, _, _ = done.stdout.partition("kubectl logs")
    ran = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, cwd=stand)
    plain = jobset("manifest", *ASKED, "--", "pretrain", *HOSTILE, stand=stand)
    assert json.loads(ran.stdout) == json.loads(plain.stdout)
    assert "kubectl logs --follow" in done.stdout


def test_what_the_manifest_asks_of_the_cluster(stand):
    done = jobset(
        "manifest", *ASKED, "--tpu", "tpu-v5-lite-podslice", "--topology", "4x4", "--slices", "2",
        "--volume", "runs:/shared", "--queue", "training", "--spot", "--secret", "keys",
        "--restarts", "7", "--save-seconds", "60", "--", "list", stand=stand,
    )  # fmt: skip
    made = json.loads(done.stdout)
    assert made["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "training"}
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 7
    (job,) = made["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 4 and spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 60
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["volumeMounts"] == [{"name": "volume-0", "mountPath": "/shared"}]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "$(x)"], "--name"),
        (["--name", "a" * 41], "at most 40"),
        (["--image", "a b"], "--image"),
        (["--volume", "runs"], "CLAIM:/PATH"),
        (["--env", "1A=x"], "NAME=VALUE"),
        (["--tpu", "tpu-v5-lite-podslice"], "go together"),
        (["--tpu", "tpu-v4-podslice", "--topology", "3x3"], "does not divide"),
        (["--gpu", "nvidia-l4", "--tpu", "t", "--topology", "2x2"], "exclude"),
        (["--slices", "2"], "of TPUs"),
        (["--pods", "two"], "invalid int"),
        (["--nmae", "x"], "unrecognized"),
    ],
)
def test_a_wrong_request_is_refused_before_kubectl_is_called(stand, options, message):
    done = jobset("run", *ASKED, *options, "--", "list", stand=stand)
    assert done.returncode == 2 and message in done.stderr
    assert not (stand / "calls").exists()


def test_what_gesso_refuses_is_not_repeated_and_a_failed_set_is_replaced(stand):
    echoing(stand)
    options = [*ASKED, "--poll-seconds", "0"]
    refused = jobset("run", *options, "--env", "ENDS=2", "--", "list", stand=stand)
    assert refused.returncode == 1 and "describe jobset neo" in refused.stderr
    assert len(list(stand.glob("pod-0-0.*.log"))) == 1
    again = jobset("run", *options, "--", "list", stand=stand)
    assert again.returncode == 0, again.stderr
    assert ["delete", "jobset", "neo"] in calls(stand)
    attached = jobset("run", *options, "--", "list", stand=stand)
    assert attached.returncode == 0
    assert [each[0] for each in calls(stand)].count("create") == 2, (
        "a set that is complete is not created again"
    )


def test_the_pods_find_each_other(stand):
    """What partitioning.hosts.scheduler makes of the manifest's variables."""
    from gesso.partitioning.hosts.scheduler import detect

    done = jobset("manifest", *ASKED, "--pods", "3", "--", "list", stand=stand)
    (job,) = json.loads(done.stdout)["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    labels = {"jobset-name": "neo", "replicatedjob-name": job["name"], "job-index": "0"}
    environ = {
        each["name"]: each.get("value")
        or labels[each["valueFrom"]["fieldRef"]["fieldPath"].split("/")[1].removesuffix("']")]
        for each in container["env"]
    }
    found = detect(environ | {"JOB_COMPLETION_INDEX": "2"})
    assert (found.process, found.count) == (2, 3)
    assert found.coordinator == "neo-worker-0-0.neo:8470"
    assert shlex.join(container["command"]) == "gesso list"
