"""What the schedulers' environments say, each as its documentation gives it."""

import pytest

from gesso.partitioning.hosts.scheduler import Scheduler, SchedulerError, detect, expand_nodes

SLURM = {
    "SLURM_JOB_ID": "12345",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NODELIST": "node[07-08]",
}
JOBSET = {
    "JOBSET_NAME": "train",
    "REPLICATED_JOB_NAME": "workers",
    "JOB_INDEX": "1",
    "JOB_COMPLETION_INDEX": "2",
    "GESSO_PODS_PER_JOB": "4",
    "GESSO_JOBS": "2",
}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Scheduler(name="single")),
        (
            {"GESSO_COORDINATOR": "a:99", "GESSO_PROCESS": "1", "GESSO_PROCESSES": "2"},
            Scheduler(name="env", process=1, count=2, coordinator="a:99"),
        ),
        (
            {"GESSO_COORDINATOR": "a", "GESSO_PROCESS": "0", "GESSO_PROCESSES": "2"},
            Scheduler(name="env", process=0, count=2, coordinator="a:8470"),
        ),
        (SLURM, Scheduler(name="slurm", process=3, count=4, coordinator="node07:24690")),
        (
            SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"},
            Scheduler(
                name="slurm", process=3, count=4, coordinator="node07:24690", local_devices=(1,)
            ),
        ),
        (
            SLURM | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
            Scheduler(name="slurm", process=1, count=2, coordinator="node07:24690"),
        ),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Scheduler(name="slurm")),
        ({k: v for k, v in SLURM.items() if "STEP" not in k}, Scheduler(name="single")),
        (
            JOBSET,
            Scheduler(
                name="jobset", process=6, count=8, coordinator="train-workers-0-0.train:8470"
            ),
        ),
        (TPU, Scheduler(name="tpu", process=1, count=4, coordinator="10.0.0.1:8470")),
        (
            TPU
            | {
                "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": "1",
                "MEGASCALE_COORDINATOR_ADDRESS": "slice-0-worker-0:8081",
            },
            Scheduler(name="tpu", process=5, count=8, coordinator="slice-0-worker-0:8470"),
        ),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, Scheduler(name="single")),
        (SLURM | JOBSET | {"GESSO_PROCESSES": "1"}, None),
    ],
)
def test_environments(environ, expected):
    if expected is None:  # our own variables win, and are then needed in full
        with pytest.raises(SchedulerError, match="GESSO_PROCESS is not set"):
            detect(environ)
    else:
        assert detect(environ) == expected


@pytest.mark.parametrize(
    ("environ", "name", "told"),
    [
        ({}, "slurm", "SLURM_STEP_NODELIST is not set"),
        ({}, "env", "GESSO_PROCESS is not set"),
        (SLURM | {"SLURM_PROCID": "four"}, "auto", "SLURM_PROCID='four' is not a number"),
        (SLURM | {"SLURM_PROCID": "4"}, "auto", "process 4 of 4 makes no sense"),
        (
            {k: v for k, v in JOBSET.items() if "PODS" not in k} | {"GESSO_PROCESSES": "7"},
            "jobset",
            "GESSO_PROCESSES=7 does not divide over GESSO_JOBS=2",
        ),
    ],
)
def test_incomplete_environments_are_refused(environ, name, told):
    with pytest.raises(SchedulerError, match=told):
        detect(environ, name=name)


def test_single_may_be_insisted_on():
    assert detect(SLURM, name="single") == Scheduler(name="single")


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a", ["a"]),
        ("a,b-1", ["a", "b-1"]),
        ("node[07-10]", ["node07", "node08", "node09", "node10"]),
        ("a[1,3-4],b[098-101]c", ["a1", "a3", "a4", "b098c", "b099c", "b100c", "b101c"]),
        ("r[1-2]n[01-02],x", ["r1n01", "r1n02", "r2n01", "r2n02", "x"]),
    ],
)
def test_short_node_lists(nodes, expected):
    assert expand_nodes(nodes) == expected
