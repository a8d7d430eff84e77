"""One process of a run that only saves or restores; what it does is in its arguments.

save FOLDER FSDP TENSOR STEP ...: save these steps, in this order. restore FOLDER FSDP TENSOR:
restore the newest one, check every array, and print its step. due FOLDER: print the steps that are
due by the clock, with process clocks that disagree. leak FOLDER: print the memory in use
after 20 and after 60 saves of 16 MB.
"""

import sys
import time

import jax
import psutil
from small_state import abstract_on, assert_is, mesh_of, state_on

from gesso.partitioning.config import HostsConfig
from gesso.partitioning.hosts.processes import start
from gesso.pretrain.checkpoints.checkpoints import Checkpoints
from gesso.pretrain.config import CheckpointConfig
from gesso.pretrain.failures.supervise import Supervisor


def main(action: str, folder: str, *rest: str) -> None:
    config = HostsConfig(start_timeout_seconds=60, peer_timeout_seconds=20)
    hosts = start(config, agreement={})
    with Supervisor(hosts, config):
        minutes = 0.02 if action == "due" else 0.0
        checkpoints = Checkpoints(folder, CheckpointConfig(every_minutes=minutes), hosts=hosts)
        if action == "due":
            hosts.barrier("ready", 60)
            due = []
            for step in range(1, 40):
                time.sleep(0.05 if hosts.process == 0 else 0.01)
                if checkpoints.due(step):
                    due.append(step)
            print("due", due)
            return
        if action == "leak":
            state = {"params": {"x": jax.numpy.ones((4, 1 << 20))}}
            for step in range(1, 61):
                checkpoints.save(step, state, {})
                checkpoints.wait()
                if step in (20, 60):
                    print(f"{psutil.Process().memory_info().rss / 1e6:.1f} MB")
            return
        mesh = mesh_of(int(rest[0]), int(rest[1]))
        if action == "save":
            for step in map(int, rest[2:]):
                checkpoints.save(step, state_on(mesh, step), {"row": step})
                print("started", step, flush=True)
            checkpoints.close()
            print("saved", checkpoints.steps())
        else:
            restored = checkpoints.restore(abstract_on(mesh))
            assert restored is not None
            assert_is(restored.state, restored.step)
            print("restored", restored.step, restored.info)


if __name__ == "__main__":
    main(*sys.argv[1:])
