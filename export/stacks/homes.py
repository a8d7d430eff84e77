"""Where the writer of each format is that is not a folder of transformers."""

from typing import Literal

Stack = Literal["onnx", "gguf", "ctranslate2", "stablehlo", "elmo", "orbax-params"]
HOMES: dict[Stack, str] = {
    "onnx": "gesso.export.stacks.to_onnx.model",
    "gguf": "gesso.export.stacks.to_gguf.model",
    "ctranslate2": "gesso.export.stacks.to_ctranslate2.model",
    "stablehlo": "gesso.export.stacks.stablehlo",
    "elmo": "gesso.export.stacks.elmo_folder",
    "orbax-params": "gesso.export.stacks.orbax_params",
}
