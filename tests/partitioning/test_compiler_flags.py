"""Compiler flags: one table, added where the user said nothing, before JAX is imported."""

import os
import subprocess
import sys

import pytest

from gesso.partitioning.machines import compiler_flags
from gesso.partitioning.machines.compiler_flags import FLAGS, apply, here


def test_flags_are_added_and_a_users_own_stay():
    environ = {"XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=false --xla_other=1"}
    assert apply(environ, "gpu") == ["--xla_disable_hlo_passes=rematerialization"]
    assert environ["XLA_FLAGS"].split() == [
        "--xla_gpu_enable_latency_hiding_scheduler=false",
        "--xla_other=1",
        "--xla_disable_hlo_passes=rematerialization",
    ]
    assert apply(environ, "gpu") == [], "a second time there is nothing to add"


@pytest.mark.parametrize("platform", ["cpu", "v2", "tpu7x"])
def test_a_platform_without_flags_is_left_alone(platform):
    environ = {}
    assert apply(environ, platform) == []
    assert environ == {}


def test_they_can_be_refused():
    environ = {"GESSO_COMPILER_FLAGS": "none"}
    assert apply(environ, "v5p") == []
    assert list(environ) == ["GESSO_COMPILER_FLAGS"]


@pytest.mark.parametrize(
    ("environ", "files", "installed", "found"),
    [
        ({}, [], [], "cpu"),
        ({"JAX_PLATFORMS": "cpu"}, ["nvidiactl"], ["jax_cuda12_plugin"], "cpu"),
        ({}, ["nvidiactl"], ["jax_cuda13_plugin"], "gpu"),
        ({}, ["nvidiactl"], [], "cpu"),
        ({"TPU_ACCELERATOR_TYPE": "v5p-128"}, ["accel0"], ["libtpu"], "v5p"),
        ({"TPU_ACCELERATOR_TYPE": "v5litepod-16"}, ["accel0"], ["libtpu"], "v5e"),
        ({}, ["vfio/0"], ["libtpu"], "tpu"),
        ({}, [], ["libtpu"], "cpu"),
    ],
)
def test_the_machine_is_known_without_jax(environ, files, installed, found, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler_flags, "_is_installed", lambda module: module in installed)
    monkeypatch.setattr(compiler_flags, "attribute", lambda name: None)
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert here(environ, devices=tmp_path) == found


def test_a_tpu_that_no_variable_names_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler_flags, "_is_installed", lambda module: module == "libtpu")
    monkeypatch.setattr(compiler_flags, "attribute", {"accelerator-type": "v5p-8"}.get)
    (tmp_path / "accel0").touch()
    assert here({}, devices=tmp_path) == "v5p"
    assert here({"TPU_SKIP_MDS_QUERY": "1"}, devices=tmp_path) == "tpu"


def test_every_flag_is_spelled_as_its_variable_wants_it():
    for variables in FLAGS.values():
        for variable, flags in variables.items():
            assert variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
            assert all(flag.startswith("--") and "=" in flag for flag in flags)


@pytest.mark.slow
def test_this_xla_knows_its_flags():
    """XLA ends a process whose XLA_FLAGS name a flag it does not know, on any backend."""
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    apply(environ, "gpu")
    script = "import jax; print(jax.jit(lambda x: x + 1)(1))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "2", done.stderr[-500:]
