"""ELMo's reference packs: their HDF5 files, and their words as batches."""
# pyright: reportMissingImports=false

import numpy as np
from pack_reader import Pack

from gesso.export.files.hdf5 import Hdf5File

PAD, BEGIN, END = 260, 258, 259


class ELMoPack(Pack):
    """A pack of ELMo's, "open" or "tf_fixture"."""

    def __init__(self, variant):
        super().__init__("elmo", variant)

    def tensors(self, name):
        file = Hdf5File(self.folder / f"{name}.hdf5")
        return {name: file.read(name) for name in file.specs}


def with_bounds(char_ids):
    """AllenNLP's ids (one higher, 0 = padded word) -> ours with <S> and </S>, and segments."""
    rows, length, width = char_ids.shape
    characters = np.full((rows, length + 2, width), PAD, np.int32)
    segments = np.zeros((rows, length + 2), np.int32)
    lengths = (char_ids.sum(-1) > 0).sum(-1)
    for row, n in enumerate(lengths):
        characters[row, 1 : n + 1] = char_ids[row, :n].astype(np.int32) - 1
        for place, sentinel in ((0, 256), (n + 1, 257)):
            characters[row, place, :3] = BEGIN, sentinel, END
        segments[row, : n + 2] = 1
    return {"characters": characters, "segments": segments}
