"""Eight virtual CPU devices, a compilation cache and a corpus cache, set before JAX is imported."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the time of these tests, and code of CPUs that is compiled in haste gives the
# same figures; GESSO_TEST_OPTIMIZED=1 (make test-slow) compiles as users do.
HASTE = "" if os.environ.get("GESSO_TEST_OPTIMIZED") else " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8" + HASTE
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("GESSO_CACHE", str(Path(__file__).parents[1] / ".cache/gesso"))
