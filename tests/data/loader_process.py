"""One process of a run that loads batches; started by test_loader.py. Prints one line of JSON.

argv: process count, this process, port, store folder, mesh as JSON.
"""

import json
import sys

import jax

count, process = int(sys.argv[1]), int(sys.argv[2])
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{sys.argv[3]}", count, process)

from pathlib import Path  # noqa: E402

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402
from memory_store import make_store  # noqa: E402
from test_loader import next_token  # noqa: E402

from gesso.data.config import OrderConfig  # noqa: E402
from gesso.data.loader import Loader  # noqa: E402
from gesso.data.order.order import Order  # noqa: E402
from gesso.partitioning.config import MeshConfig  # noqa: E402
from gesso.partitioning.mesh import make_mesh  # noqa: E402

mesh = make_mesh(MeshConfig(**json.loads(sys.argv[5])))
order = Order(make_store(Path(sys.argv[4])), OrderConfig(length=65))
made: list[int] = []
take = order.take
order.take = lambda rows, **options: made.extend(rows.tolist()) or take(rows, **options)
whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))
crcs, sums = [], []
with Loader(order, next_token, mesh=mesh, batch=8, prefetch=0) as loader:
    for _, batch in zip(range(3), loader, strict=False):
        crcs += np.asarray(whole(batch.arrays["row_crc"])).tolist()
        # Every place of every array weighs differently, modulo 2**32.
        for name in ("tokens", "targets", "segments", "positions"):
            array = batch.arrays[name].astype(jnp.uint32)
            place = jnp.arange(array.size, dtype=jnp.uint32).reshape(array.shape)
            sums.append(int(whole(jnp.sum(array * (2 * place + 1)))))
print(json.dumps({"crcs": crcs, "sums": sums, "made": made}), flush=True)
