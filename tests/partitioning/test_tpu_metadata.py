"""TPU VMs without a scheduler: the metadata server's answers, old and new."""

import pytest

from gesso.partitioning.hosts.scheduler import Scheduler, detect
from gesso.partitioning.machines.tpu_metadata import tpu_environment

TWO_SLICES = """ACCELERATOR_TYPE: 'v5litepod-16'
MEGASCALE_COORDINATOR_ADDRESS: '10.1.0.9:8080'
MEGASCALE_NUM_SLICES: '2'
MEGASCALE_SLICE_ID: '1'
"""


@pytest.mark.parametrize("endpoints", ["10.0.0.4,10.0.0.5", "a:1:10.0.0.4,b:2:10.0.0.5"])
def test_one_slice(endpoints):
    answers = {"agent-worker-number": "1\n", "worker-network-endpoints": endpoints}
    found = tpu_environment({}, fetch=answers.get)
    expected = Scheduler(name="tpu", process=1, count=2, coordinator="10.0.0.4:8470")
    assert detect(found) == expected


def test_two_slices():
    answers = {
        "agent-worker-number": "0",
        "worker-network-endpoints": "10.0.0.4,10.0.0.5",
        "tpu-env": TWO_SLICES,
    }
    expected = Scheduler(name="tpu", process=2, count=4, coordinator="10.1.0.9:8470")
    assert detect(tpu_environment({}, fetch=answers.get)) == expected


def test_no_answer_and_no_tpu_is_nothing():
    assert tpu_environment({}, fetch=lambda attribute: None) == {}
    assert tpu_environment({"JAX_PLATFORMS": "cpu"}) == {}
    assert tpu_environment({"TPU_WORKER_HOSTNAMES": "a,b"}) == {}
