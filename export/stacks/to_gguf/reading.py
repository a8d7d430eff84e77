"""The model that a GGUF file says, read from its own keys and tensors alone.

The check of what was written runs this config, and not ours, so that a setting of ours that was not
written is seen. A file does not say which gelu: llama.cpp has one, and `activation` is ours.
"""

# The format's package is an extra; this file is checked without it too.
# pyright: reportMissingImports=false

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gesso.export.files.tensors import FolderError, TensorSpec
from gesso.models.bert.config import BERTConfig
from gesso.models.gpt.config import GPTConfig


class GGUFFile:
    """The keys and tensors of a GGUF file, for export.tables.tables."""

    def __init__(self, path: Path) -> None:
        import gguf

        kinds = {
            gguf.GGMLQuantizationType.F32: np.dtype(np.float32),
            gguf.GGMLQuantizationType.F16: np.dtype(np.float16),
            gguf.GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
        }
        reader = gguf.GGUFReader(path)
        self._fields = reader.fields
        self._found = {each.name: each for each in reader.tensors}
        self.specs = {
            # Their shapes count from the innermost dim.
            name: TensorSpec(kinds[each.tensor_type], tuple(map(int, each.shape[::-1])), path.name)
            for name, each in self._found.items()
        }
        self.architecture: str = self._fields["general.architecture"].contents()

    def read(self, name: str) -> np.ndarray:
        spec = self.specs[name]
        x = np.ascontiguousarray(self._found[name].data)
        return x.reshape(-1).view(spec.dtype).reshape(spec.shape)

    def key(self, name: str, *, under: str = "") -> Any:
        """The value of a key of the architecture, or `under` another name. FolderError where the
        file has none."""
        if (whole := f"{under or self.architecture}.{name}") not in self._fields:
            raise FolderError(f"the GGUF file has no key {whole}")
        return self._fields[whole].contents()


def config_of(file: GGUFFile, *, activation: Any) -> GPTConfig | BERTConfig:
    """Our config of the model in a file."""
    sizes: dict[str, Any] = {
        "vocab": file.key("vocab_size"),
        "positions": file.key("context_length"),
        "layers": file.key("block_count"),
        "embed": file.key("embedding_length"),
        "heads": file.key("attention.head_count"),
        "mlp": file.key("feed_forward_length"),
        "epsilon": file.key("attention.layer_norm_epsilon"),
        "activation": activation,
    }
    if file.architecture == "bert":
        if file.key("attention.causal"):
            raise FolderError("the GGUF file says that this encoder is causal")
        typed = "token_types.weight" in file.specs
        types = file.key("token_type_count", under="tokenizer.ggml") if typed else 0
        return BERTConfig(**sizes, token_types=types, outputs=())
    shared = file.architecture == "phi2"
    if file.architecture != "gpt2":
        sizes |= {
            "position_encoding": "rotary",
            "rotary_dims": file.key("rope.dimension_count"),
            "rotary_base": file.key("rope.freq_base"),
            "rotation": "half",
            "block": "parallel_shared_norm" if shared else "sequential",
        }
    if file.architecture == "gptneox" and file.key("use_parallel_residual"):
        sizes["block"] = "parallel"
    return GPTConfig(
        **sizes,
        biases=("qkv", "attention_out", "mlp", *(["head"] if shared else [])),
        head="untied" if "output.weight" in file.specs else "tied",
    )
