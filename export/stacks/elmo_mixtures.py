"""Mixtures of ELMo's layers, as a task trained them: bilm-tf's and AllenNLP's names.

A mixture is {"weights": f32[Z + 1], "gamma": f32[]}, the parameters of models.elmo.mix.ScalarMix.
bilm-tf calls them ELMo_W_0 and ELMo_gamma_0, later NAME_ELMo_W and NAME_ELMo_gamma
(https://github.com/allenai/bilm-tf, bilm/elmo.py); AllenNLP NAME.scalar_parameters.0 and so on, one
tensor for each layer, and NAME.gamma (https://github.com/allenai/allennlp, modules/scalar_mix.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gesso.export.files.hdf5 import Hdf5File, write_hdf5
from gesso.export.files.tensors import FolderError, SafetensorsFile, Tensors
from gesso.export.files.torch import TorchFile

Mixture = Mapping[str, np.ndarray]
_LAYER = re.compile(r"(.*)\.scalar_parameters\.(\d+)")
_TENSORFLOW = re.compile(r"(?P<before>.*?)_?ELMo_W(?P<after>_\d+)?")


def read_mixtures(path: str | Path) -> dict[str, Mixture]:
    """{name: mixture} of every mixture in a file, .hdf5, .safetensors or PyTorch's (.bin, .th);
    other tensors are left alone.

    Raises FolderError for a file that is damaged or holds no mixture, and for one without gamma or
    with a layer missing.
    """
    path = Path(path)
    readers = {".hdf5": Hdf5File, ".h5": Hdf5File, ".safetensors": SafetensorsFile}
    source: Tensors = readers.get(path.suffix, TorchFile)(path)
    layers: dict[str, dict[int, str]] = {}
    found: dict[str, Mixture] = {}
    for name in source.specs:
        if each := _LAYER.fullmatch(name):
            layers.setdefault(each[1], {})[int(each[2])] = name
        elif each := _TENSORFLOW.fullmatch(name):
            gamma = name.replace("ELMo_W", "ELMo_gamma")
            title = (each["before"] or "ELMo") + (each["after"] or "")
            found[title] = _mixture(path, source, [name], gamma)
    for title, named in layers.items():
        if sorted(named) != list(range(len(named))):
            raise FolderError(f"{path}: {title} has layers {sorted(named)}; some are missing")
        ordered = [named[i] for i in range(len(named))]
        found[title] = _mixture(path, source, ordered, f"{title}.gamma")
    if not found:
        raise FolderError(f"{path} holds no mixture of layers (scalar_parameters, or ELMo_W)")
    return found


def write_mixtures(path: str | Path, mixtures: Mapping[str, Mixture]) -> None:
    """Write mixtures by AllenNLP's names (.safetensors) or bilm-tf's later ones (.hdf5)."""
    path, tensors = Path(path), dict[str, np.ndarray]()
    for title, each in mixtures.items():
        weights = np.asarray(each["weights"], np.float32)
        gamma = np.asarray(each["gamma"], np.float32).reshape(1)
        if path.suffix == ".hdf5":
            tensors |= {f"{title}_ELMo_W": weights, f"{title}_ELMo_gamma": gamma}
        elif path.suffix == ".safetensors":
            tensors |= {f"{title}.scalar_parameters.{i}": x[None] for i, x in enumerate(weights)}
            tensors[f"{title}.gamma"] = gamma
        else:
            raise FolderError(f"{path}: mixtures are written as .safetensors or .hdf5")
    if path.suffix == ".hdf5":
        write_hdf5(path, tensors.items())
    else:
        from safetensors.numpy import save_file

        save_file(tensors, path)


def _mixture(path: Path, source: Tensors, weights: list[str], gamma: str) -> Mixture:
    if gamma not in source.specs:
        raise FolderError(f"{path}: {weights[0]} has no {gamma} beside it")
    if source.specs[gamma].shape not in ((), (1,)):
        raise FolderError(f"{path}: {gamma} is {source.specs[gamma]}, and a gamma is one number")
    parts = [np.atleast_1d(source.read(name).astype(np.float32)) for name in weights]
    shares = np.concatenate(parts, axis=None)
    scale = source.read(gamma).astype(np.float32).reshape(())
    if any(each.ndim != 1 for each in parts) or not np.isfinite([*shares, scale]).all():
        raise FolderError(
            f"{path}: {weights[0]} {source.specs[weights[0]]} and {gamma} are no mixture: a finite"
            " number for each layer, and one"
        )
    return {"weights": shares, "gamma": scale}
