#!/usr/bin/env python3
"""Runs one gesso command as a Kubernetes JobSet: a pod per machine, every machine of every slice.

Python's standard library and kubectl are all it needs; nothing of Gesso is imported.
"""

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

REPLICATED = "worker"  # the one replicated job of a JobSet; part of the pods' host names
LABEL = "jobset.sigs.k8s.io/"
EXAMPLES = """\
The image holds Gesso (docker/Dockerfile). The run folder must be on a volume that all pods share:
checkpoints are written there, and a restart continues from them.

Examples:
  launch/gke/jobset.py run --name neo --image IMAGE --volume runs:/shared \\
    --tpu tpu-v5-lite-podslice --topology 4x4 --queue training \\
    -- pretrain gpt-neo-1.3b --folder /shared/runs/neo --mesh.fsdp 16
  launch/gke/jobset.py run --name j --image IMAGE --volume runs:/shared \\
    --gpu nvidia-h100-80gb --devices-per-pod 8 --pods 4 \\
    -- pretrain gpt-j-6b --folder /shared/runs/j --mesh.fsdp 32

Exit status: 0 done; 1 the JobSet has failed, or kubectl; 2 the request is wrong.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """One call of the script; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = words.index("--") if "--" in words else len(words)
    asked = parser().parse_args(words[:split])
    command = words[split + 1 :]
    check(asked, command)
    try:
        return {
            "manifest": lambda: print_manifest(asked, command),
            "run": lambda: run(asked, command),
            "follow": lambda: follow(asked),
            "status": lambda: kubectl(asked, *_all(asked, "get", "jobset,pods", "-o", "wide")),
            "delete": lambda: kubectl(asked, "delete", "jobset", asked.name, "--ignore-not-found"),
        }[asked.action]()
    except KeyboardInterrupt:
        say(f"the job goes on; launch/gke/jobset.py follow --name {asked.name} attaches again")
        return 130


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="launch/gke/jobset.py",
        usage="launch/gke/jobset.py run|manifest|follow|status|delete --name NAME [options]"
        " -- GESSO-ARGUMENTS...",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("action", choices=["run", "manifest", "follow", "status", "delete"],
        help="run: create the JobSet, or attach to the one there is, and follow it to its end; one"
        " that failed is replaced. manifest: print it. follow: process 0's log. delete: pods are"
        " told to stop, and save first")  # fmt: skip
    add("--name", default="", help="of the JobSet: lower-case letters, digits and -")
    add("--namespace", default="", help="default: kubectl's own")
    add("--context", default="", help="kubectl's context; default: the current one")
    add("--image", default="", help="made of docker/Dockerfile")
    add("--tpu", default="", metavar="KIND", help="GKE's name, such as tpu-v5-lite-podslice")
    add("--topology", default="", help="of a TPU slice, such as 4x4")
    add("--slices", type=int, default=1, help="TPU slices, one job each (default 1)")
    add("--gpu", default="", metavar="KIND", help="GKE's name, such as nvidia-h100-80gb")
    add("--pods", type=int, default=0, help="machines; of TPUs the topology says how many")
    add("--devices-per-pod", type=int, default=4, help="chips of a machine (default 4)")
    add("--cpu", default="", help="cores a pod asks for, such as 8")
    add("--memory", default="", help="a pod asks for, such as 64Gi")
    add("--volume", action="append", default=[], metavar="CLAIM:/PATH",
        help="a persistent volume claim all pods mount; may be given more than once")  # fmt: skip
    add("--env", action="append", default=[], metavar="NAME=VALUE")
    add("--secret", action="append", default=[], metavar="NAME",
        help="a Kubernetes secret whose entries become environment variables")  # fmt: skip
    add("--queue", default="", help="a Kueue local queue; the JobSet waits there for its quota")
    add("--priority", default="", help="a Kueue workload priority class")
    add("--spot", action="store_true", help="on spot machines")
    add("--restarts", type=int, default=100, help="of the whole JobSet (default 100)")
    add("--save-seconds", type=int, default=180, help="between SIGTERM and SIGKILL (default 180)")
    add("--poll-seconds", type=float, default=10, help="between looks at the JobSet (default 10)")
    add("--dry-run", action="store_true", help="print every command instead of running it")
    return made


_NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"  # 40 at most: pods' host names are longer by 23
_ANY_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_PATTERNS = {
    "name": (_NAME, "at most 40 lower-case letters, digits and -, a letter first"),
    "namespace": (f"({_ANY_NAME})?", "a namespace's name"),
    "context": (r"([A-Za-z0-9][\w.:@/-]*)?", "a context's name"),
    "image": (r"([a-z0-9][\w./:@-]*)?", "an image, such as REGISTRY/gesso:TAG"),
    "tpu": (r"([a-z0-9][-a-z0-9]*)?", "a label such as tpu-v5-lite-podslice"),
    "gpu": (r"([a-z0-9][-a-z0-9]*)?", "a label such as nvidia-h100-80gb"),
    "topology": (r"(\d+x\d+(x\d+)?)?", "chips such as 4x4 or 2x2x4"),
    "cpu": (r"(\d+(\.\d+)?m?)?", "a number of cores"),
    "memory": (r"(\d+(\.\d+)?([KMGT]i?)?)?", "an amount such as 64Gi"),
    "queue": (f"({_ANY_NAME})?", "a queue's name"),
    "priority": (f"({_ANY_NAME})?", "a priority class's name"),
    "volume": (rf"{_ANY_NAME}:/[^:\n]+", "CLAIM:/PATH"),
    "env": (r"[A-Za-z_]\w*=[\s\S]*", "NAME=VALUE"),
    "secret": (_ANY_NAME, "a secret's name"),
}


def check(asked: argparse.Namespace, command: Sequence[str]) -> None:
    """Ends the program with status 2 for whatever cannot be meant, before kubectl is called."""
    for name, (pattern, meant) in _PATTERNS.items():
        given = getattr(asked, name)
        for value in given if isinstance(given, list) else [given]:
            if not re.fullmatch(pattern, value, re.ASCII):
                refuse(f"--{name} {shlex.quote(value)} must be {meant}")
    if asked.action not in ("run", "manifest"):
        return
    counts = {"slices": 1, "pods": 0, "devices-per-pod": 1, "restarts": 0, "save-seconds": 1}
    for name, least in counts.items():
        if getattr(asked, name.replace("-", "_")) < least:
            refuse(f"--{name} must be at least {least}")
    if not asked.image:
        refuse("--image is needed: which container holds Gesso? (docker/Dockerfile makes one)")
    if not command:
        refuse("say what to run after --, for instance: -- pretrain gpt-neo-125m")
    if asked.tpu and asked.gpu:
        refuse("--tpu and --gpu exclude each other")
    if bool(asked.tpu) != bool(asked.topology):
        refuse("--tpu and --topology go together")
    if asked.slices > 1 and not asked.tpu:
        refuse("--slices is of TPUs; of others say --pods")
    chips = math.prod(map(int, asked.topology.split("x"))) if asked.tpu else 0
    if chips % asked.devices_per_pod:
        refuse(f"{asked.topology} has {chips} chips, which --devices-per-pod does not divide")
    if asked.tpu and asked.pods not in (0, chips // asked.devices_per_pod):
        refuse(f"--pods {asked.pods} contradicts {chips} chips; leave it out")
    asked.pods = chips // asked.devices_per_pod if asked.tpu else max(asked.pods, 1)


def manifest(asked: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """The JobSet of a checked request, as a nested dict.

    All pods or none: one that fails ends its job, and that starts the whole set again, which
    continues from the newest checkpoint. Exit status 2 (the request is wrong) ends it for good.
    (https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2)
    """
    labels = {"kueue.x-k8s.io/queue-name": asked.queue}
    labels |= {"kueue.x-k8s.io/priority-class": asked.priority}
    metadata: dict[str, Any] = {"name": asked.name}
    if chosen := {key: value for key, value in labels.items() if value}:
        metadata["labels"] = chosen
    if asked.namespace:
        metadata["namespace"] = asked.namespace
    if asked.tpu:  # one slice, one node pool
        topology = {f"alpha.{LABEL}exclusive-topology": "cloud.google.com/gke-nodepool"}
        metadata["annotations"] = topology
    refused = {"containerName": "gesso", "operator": "In", "values": [2]}
    job = {
        "parallelism": asked.pods,
        "completions": asked.pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": refused}]},
        "template": {"spec": pod(asked, command)},
    }
    wrong = {"name": "refused", "action": "FailJobSet"}
    wrong |= {"onJobFailureReasons": ["PodFailurePolicy"]}
    # Blocking: no pod of the next start meets one of the last, which may be saving still.
    failures = {"maxRestarts": asked.restarts, "restartStrategy": "BlockingRecreate"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": failures | {"rules": [wrong]},
            "replicatedJobs": [
                {"name": REPLICATED, "replicas": asked.slices, "template": {"spec": job}}
            ],
        },
    }


def pod(asked: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """One machine's pod: the same command in each, told apart by its labels."""
    labels = {"JOBSET_NAME": "jobset-name", "REPLICATED_JOB_NAME": "replicatedjob-name"}
    labels |= {"JOB_INDEX": "job-index"}
    env: list[dict[str, Any]] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{LABEL}{key}']"}}}
        for name, key in labels.items()
    ]
    said = {"GESSO_PODS_PER_JOB": str(asked.pods), "GESSO_JOBS": str(asked.slices)}
    said |= dict(each.split("=", 1) for each in asked.env)
    env += [{"name": name, "value": escape(value)} for name, value in said.items()]
    resources = {"cpu": asked.cpu, "memory": asked.memory}
    requests = {key: value for key, value in resources.items() if value}
    limits: dict[str, Any] = {}
    selector: dict[str, str] = {}
    if asked.tpu:
        limits["google.com/tpu"] = asked.devices_per_pod
        selector["cloud.google.com/gke-tpu-accelerator"] = asked.tpu
        selector["cloud.google.com/gke-tpu-topology"] = asked.topology
    if asked.gpu:
        limits["nvidia.com/gpu"] = asked.devices_per_pod
        selector["cloud.google.com/gke-accelerator"] = asked.gpu
    if asked.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    claims = [each.split(":", 1) for each in asked.volume]
    container = {
        "name": "gesso",
        "image": asked.image,
        "command": ["gesso", *map(escape, command)],
        "env": env,
        "envFrom": [{"secretRef": {"name": name}} for name in asked.secret],
        "resources": {"requests": requests | limits, "limits": limits},
        "volumeMounts": [
            {"name": f"volume-{i}", "mountPath": path} for i, (_, path) in enumerate(claims)
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the last lines hold the cause
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "shareProcessNamespace": True,  # process 1 would not hear SIGTERM while it still starts
        "terminationGracePeriodSeconds": asked.save_seconds,
        "securityContext": {"fsGroup": 1000},  # the group of the image's user: it owns the volumes
        "containers": [container],
        "volumes": [
            {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": claim}}
            for i, (claim, _) in enumerate(claims)
        ],
        "nodeSelector": selector,
    }
    if asked.spot:
        taint = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
        spec["tolerations"] = [taint | {"effect": "NoSchedule"}]
    return spec


def escape(word: str) -> str:
    """Kubernetes replaces $(NAME) in commands and variables, and reads $$ as one $."""
    return word.replace("$", "$$")


def run(asked: argparse.Namespace, command: Sequence[str]) -> int:
    state = "none" if asked.dry_run else jobset_state(asked)
    if state == "Failed":
        say("the JobSet of that name has failed; replacing it")
        if code := kubectl(asked, "delete", "jobset", asked.name):
            return code
    if state in ("none", "Failed"):
        text = json.dumps(manifest(asked, command))
        if code := kubectl(asked, "create", "-f", "-", stdin=text):
            return code
        say(f"created; process 0 is pod {asked.name}-{REPLICATED}-0-0")
    while True:
        follow(asked)
        state = "Completed" if asked.dry_run else jobset_state(asked)
        if state == "Completed":
            say("done")
            return 0
        if state in ("Failed", "none"):
            say(f"the JobSet is {state.lower()}: kubectl describe jobset {asked.name} says why")
            return 1
        time.sleep(asked.poll_seconds)


def follow(asked: argparse.Namespace) -> int:
    """Process 0's log, to the end of its pod."""
    first = [f"{LABEL}jobset-name={asked.name}", f"{LABEL}job-index=0"]
    first.append("batch.kubernetes.io/job-completion-index=0")
    options = ["--follow", "--tail=-1", "--pod-running-timeout=5m"]
    return kubectl(asked, "logs", *options, f"--selector={','.join(first)}", "--container=gesso")


def jobset_state(asked: argparse.Namespace) -> str:
    """Completed or Failed, or running (waiting too), or none."""
    words = words_of(asked, "get", "jobset", asked.name, "--ignore-not-found", "-o", "json")
    try:
        answer = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        refuse("kubectl is not on PATH")
    if answer.returncode:
        sys.stderr.write(answer.stderr)
        say("kubectl cannot say how the JobSet is (see above)")
        raise SystemExit(1)
    if not answer.stdout.strip():
        return "none"
    conditions = json.loads(answer.stdout).get("status", {}).get("conditions", [])
    ended = [each["type"] for each in conditions if each["status"] == "True"]
    return next((each for each in ended if each in ("Completed", "Failed")), "running")


def print_manifest(asked: argparse.Namespace, command: Sequence[str]) -> int:
    print(json.dumps(manifest(asked, command), indent=2))
    return 0


def kubectl(asked: argparse.Namespace, *arguments: str, stdin: str = "") -> int:
    """Run kubectl, or with --dry-run print it in a form a shell reads back. Its exit status."""
    words = words_of(asked, *arguments)
    if asked.dry_run:
        piped = f"printf %s {shlex.quote(stdin)} | " if stdin else ""
        print(piped + shlex.join(words))
        return 0
    try:
        return subprocess.run(words, input=stdin or None, text=True).returncode
    except FileNotFoundError:
        refuse("kubectl is not on PATH")


def words_of(asked: argparse.Namespace, *arguments: str) -> list[str]:
    where = [f"--context={asked.context}"] if asked.context else []
    where += [f"--namespace={asked.namespace}"] if asked.namespace else []
    return ["kubectl", *where, *arguments]


def _all(asked: argparse.Namespace, *words: str) -> list[str]:
    return [*words, f"--selector={LABEL}jobset-name={asked.name}"]


def say(text: str) -> None:
    print(f"{time.strftime('%T')} jobset: {text}", file=sys.stderr)


def refuse(text: str) -> NoReturn:
    print(f"jobset.py: {text} (--help explains)", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
