"""The named layouts: for each, which mesh axes split which letters, at rest, in use, in update."""

from gesso.partitioning.axes import Layout

_BATCH = {"B": ("replica", "data", "fsdp"), "L": "sequence"}
_HEADS = {"N": "tensor", "K": "tensor", "F": "tensor", "V": "tensor"}

LAYOUTS = {
    # Every device holds everything; only the batch (and the length of its rows) is split.
    "replicated": Layout(at_rest={}, in_flight=_BATCH),
    # ZeRO-3 (https://arxiv.org/abs/1910.02054): split at rest along embed, gathered while used.
    "fsdp": Layout(at_rest={"D": "fsdp"}, in_flight=_BATCH),
    # Megatron (https://arxiv.org/abs/1909.08053): heads, mlp and vocab stay split while used.
    "tensor": Layout(at_rest=_HEADS, in_flight=_BATCH | _HEADS),
    "fsdp_tensor": Layout(at_rest={"D": "fsdp"} | _HEADS, in_flight=_BATCH | _HEADS),
    # ZeRO-1 (the same paper): parameters whole, what the optimizer keeps of them split; gradients
    # are scattered to it as they are made, updated parameters gathered once per update.
    "fsdp_optimizer": Layout(at_rest={}, updated={"D": "fsdp"}, in_flight=_BATCH),
}
