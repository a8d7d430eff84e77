"""ELMo as AllenNLP and bilm-tf read it: options.json, weights.hdf5 and softmax.hdf5.

The names are those that bilm-tf's dump_weights gives, in the shapes of its TensorFlow variables:
W_0 holds what a cell reads and its own output, one below the other, and the gates i, j, f, o side
by side. Published files leave the softmax out; ours have it in a file beside them, under its name
in TensorFlow, as further training needs it.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from gesso.export.families import elmo_options
from gesso.export.files.hdf5 import Hdf5File
from gesso.export.files.tensors import FolderError
from gesso.export.files.weights import Weights, export_record, read_json
from gesso.export.tables.fields import Fields
from gesso.export.tables.format import Format
from gesso.export.tables.tables import Row
from gesso.models.elmo.config import ELMoConfig

OPTIONS, WEIGHTS, SOFTMAX = "options.json", "weights.hdf5", "softmax.hdf5"
_CELL = "RNN_{U}/RNN/MultiRNNCell/Cell{Z}/LSTMCell"


def table(config: ELMoConfig) -> list[Row]:
    """The rows of one model."""
    rows = [
        Row("layers/{read,recur}", f"{_CELL}/W_0", "(*D)(GF)"),
        Row("layers/bias", f"{_CELL}/B", "(GF)"),
        Row("layers/project", f"{_CELL}/W_P_0", "FD"),
    ]
    if config.reads == "words":
        rows.append(Row("embed", "embedding", "VD"))
    else:
        rows += _characters(config)
    if config.head == "shared":
        rows.append(Row("head_table", "softmax/W", "VD"))
    if config.head in ("shared", "tied"):
        rows.append(Row("head_bias", "softmax/b", "V"))
    return rows


def _characters(config: ELMoConfig) -> list[Row]:
    ours, high = "characters", "CNN_high_{Z}"
    rows = [Row(f"{ours}/embed", "char_embed", "XE")]
    for i in range(len(config.filters)):
        # TensorFlow's two-dimensional convolution, one character high.
        rows.append(Row(f"{ours}/filters_{i}/weight", f"CNN/W_cnn_{i}", "()WEA"))
        rows.append(Row(f"{ours}/filters_{i}/bias", f"CNN/b_cnn_{i}", "A"))
    if config.highways:
        for part in ("carry", "transform"):
            rows.append(Row(f"{ours}/highways/{part}", f"{high}/W_{part}", "AO"))
            rows.append(Row(f"{ours}/highways/{part}_bias", f"{high}/b_{part}", "O"))
    return [
        *rows,
        Row(f"{ours}/projection", "CNN_proj/W_proj", "AD"),
        Row(f"{ours}/projection_bias", "CNN_proj/b_proj", "D"),
    ]


def _settle(config: ELMoConfig, names: Collection[str]) -> ELMoConfig:
    """No softmax where the files have none."""
    there = {"softmax/W", "softmax/b"} & set(names)
    return config if there else dataclasses.replace(config, head="none")


FORMAT = Format(
    model_type="elmo",
    family="elmo",
    expresses=elmo_options.EXPRESSES,
    read=elmo_options.read,
    write=elmo_options.write,
    table=table,
    canonical=lambda name: name,
    settle=_settle,
)


def options_in(folder: Path) -> Fields | None:
    """The fields of a folder's options file; None where it has none. FolderError for several."""
    found = sorted(folder.glob(f"*{OPTIONS}"))
    if len(found) > 1:
        raise FolderError(f"{folder} holds {len(found)} options files; keep one model's files")
    return Fields(read_json(found[0]), source=str(found[0])) if found else None


def weights_in(folder: Path) -> Weights:
    """The tensors of a folder: *weights.hdf5 and, where it is there, *softmax.hdf5."""
    found = sorted(folder.glob(f"*{WEIGHTS}"))
    if len(found) != 1:
        there = ", ".join(sorted(each.name for each in folder.iterdir())[:8])
        raise FolderError(
            f"{folder} holds {len(found)} files *{WEIGHTS}, and a model is one; there are {there}"
        )
    files = [Hdf5File(path) for path in (*found, *sorted(folder.glob(f"*{SOFTMAX}")))]
    return Weights([*files], export_record(folder).get("tensors", {}))
