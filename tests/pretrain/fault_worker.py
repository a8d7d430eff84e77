"""One process of a run that steps, saves when told to stop, and fails as asked.

fault_worker.py FOLDER FAULT PROCESS STEP: FAULT is none, error, refused, kill, hang, term,
freeze, replace or interrupt, in process PROCESS before step STEP. Every step is a sum over all
processes.
"""

import os
import signal
import sys
import time

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from small_state import mesh_of, state_on

from gesso.partitioning.config import HostsConfig
from gesso.partitioning.hosts.processes import start
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.config import CheckpointConfig
from gesso.pretrain.exits import DONE, PREEMPTED
from gesso.pretrain.failures.preemption import Preemption
from gesso.pretrain.failures.supervise import Supervisor


def fail(fault: str) -> None:
    match fault:
        case "error":
            raise RuntimeError("injected")
        case "refused":
            raise ValueError("a wrong setting")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(1000)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        case "replace":
            signal.signal(signal.SIGTERM, lambda number, frame: None)


def main(folder: str, fault: str, process: str, at: str) -> int:
    config = HostsConfig(
        start_timeout_seconds=60,
        peer_timeout_seconds=10,
        hang_timeout_seconds=6 if fault == "hang" else 60,
        phase_timeout_seconds={"start": 60},
    )
    hosts = start(config, agreement={"experiment": "one"})
    with Supervisor(hosts, config) as supervisor:
        preemption = Preemption(hosts)
        checkpoints = Checkpoints(folder, CheckpointConfig(), hosts=hosts)
        devices = jax.devices()
        mesh = Mesh(np.array(devices), ("data",))
        add = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))
        rows = jax.make_array_from_callback(
            (len(devices),),
            NamedSharding(mesh, P("data")),
            lambda index: np.arange(float(len(devices)))[index],
        )
        for step in range(1, 60):
            supervisor.progress("data")
            if step == int(at) and hosts.process == int(process):
                print(f"fault at {time.time()}", flush=True)
                fail(fault)
            supervisor.progress("step")
            add(rows).block_until_ready()
            if preemption.must_stop(step):
                supervisor.progress("save")
                checkpoints.save(step, state_on(mesh_of(len(devices), 1), step), {})
                checkpoints.wait()
                print(f"stopped at {step}", flush=True)
                return PREEMPTED
            time.sleep(0.02)
        print("went through", flush=True)
    return DONE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
