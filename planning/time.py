"""How long a planned step takes: FLOPs and bytes over published peaks, and which of them binds."""

import math
from typing import Any

from gesso.models.layers.settings import FUSED
from gesso.objectives.labelled.config import LabelledConfig
from gesso.partitioning.config import OPTIMIZER_OVER, PARAMETERS_OVER
from gesso.planning.topology import Topology
from gesso.pretrain.experiment import Experiment

# The share of peak that large bfloat16 products reach in practice, measured: 769 to 798 of 989
# TFLOP/s on an H200; a v5e matmul compiles to 93 % of its own.
MATRIX_EFFICIENCY = 0.8
# The same of attention kernels, assumed: the compiler gives no cycles for them.
KERNEL_EFFICIENCY = 0.6
BYTES = {"float32": 4, "bfloat16": 2}
# A TPU's registers are this wide. Products of weights whose split width is less waste the rest: by
# the compiler BERT-large's step on v5e:4x4 has 0.409 s with fsdp 16 (64 wide), 0.330 with 8, 0.334
# with 4 and 0.324 with none, and its products are 0.118 of them.
LANES, NARROW = 128, 1.67
# Seconds that a collective takes however little it sends, assumed: it keeps the search from
# splitting small models.
LATENCY = 1e-5


def step_time(e: Experiment, where: Topology, found: dict[str, Any]) -> dict[str, Any]:
    """{"fits", "memory", "time": {...}} of what `plan` has found so far.

    time: "matrix", "compiler" (the TPU compiler's cycles, where it wrote them), "memory", "links",
    "network": seconds per step of each alone; "fastest" with what is sent behind the rest,
    "slowest" with nothing hidden that the compiler did not make asynchronous; "bound",
    "tokens_per_second", "mfu".
    """
    memory = memory_of(e, found)
    fits = found.get("fits", True)
    if where.chip is None:
        return {"memory": memory, "fits": None if fits else False, "time": None}
    limit = where.chip.memory / where.chip.devices
    memory |= {"limit": limit}
    if fits:
        # Of an estimate the last tenth is not promised.
        fits = memory["total"] <= (limit if memory["exact"] else 0.9 * limit)
    parts = seconds(e, where, found | {"memory": memory})
    # The compiler's cycles know of both; by formulas one comes after the other.
    if parts["compiler"]:
        compute = max(parts["compiler"], parts["memory"])
    else:
        compute = parts["matrix"] + parts["memory"]
    wire = parts["links"] + parts["network"]
    hidden = parts.pop("hidden_links")
    fastest, slowest = max(compute, wire), compute + wire - min(hidden, compute)
    middle = (fastest + slowest) / 2
    bound = max(("matrix", "memory", "links", "network"), key=lambda name: parts[name])
    if parts["compiler"] and parts["compiler"] > max(parts["links"], parts["network"]):
        bound = "matrix" if parts["matrix"] > 0.5 * parts["compiler"] else "memory"
    peak = where.chip.flops * where.chips
    program = found["program"]
    return {
        "memory": memory,
        "fits": bool(fits),
        "time": parts
        | {
            "fastest": fastest,
            "slowest": slowest,
            "bound": bound,
            "tokens_per_second": [program["tokens_per_step"] / t for t in (slowest, fastest)],
            "mfu": [program["model_flops"] / t / peak for t in (slowest, fastest)],
            "middle": middle,
        },
    }


def memory_of(e: Experiment, found: dict[str, Any]) -> dict[str, Any]:
    """Bytes per device by class. Exact: parameters, optimizer, other_state, batch, and the total
    where the step was compiled. The parts of the temporaries are estimates."""
    memory, sizes = dict(found["memory"]), _splits(found["mesh"])
    state = sum(memory[name] for name in ("parameters", "optimizer", "other_state", "batch"))
    rows = e.batch / sizes["rows"] / e.microbatches
    tokens = rows * e.length / sizes["sequence"]
    width = BYTES[e.precision.compute]
    letters, layers = e.model.sizes, _layers(e)
    own = 0 if isinstance(e.objective, LabelledConfig) else e.objective.chunk_tokens
    chunk = own or e.batch * e.length / e.microbatches
    logit_tokens = min(tokens, chunk / sizes["rows"] / sizes["sequence"])
    trained = memory["trained"]
    estimates = {
        "gradients": trained / _ways(e, sizes),
        "activations": tokens * layers * _kept_numbers(e, sizes["tensor"]) * width,
        # Without remat every layer's attention keeps its weights; with it one layer at a time has
        # them.
        "attention_weights": tokens
        * (layers if _remat(e) == "none" else 1)
        * _weights_bytes(e)
        / sizes["tensor"],
        "logits": 2 * 4 * logit_tokens * letters["V"] / sizes["tensor"],
        "gathered_parameters": 3 * _layer_bytes(found, layers, width) / sizes["tensor"],
    }
    compiled = memory.get("compiled")
    temporary = compiled["temporary"] if compiled else sum(estimates.values())
    fresh = compiled["new_outputs"] if compiled else 0
    rest = max(0.0, temporary - sum(estimates.values()))
    return memory | {
        "estimates": estimates | {"other": rest},
        "temporary": temporary,
        "total": (compiled["arguments"] if compiled else state) + temporary + fresh,
        "exact": compiled is not None and not memory.get("extrapolated"),
    }


def seconds(e: Experiment, where: Topology, found: dict[str, Any]) -> dict[str, Any]:
    """The step's seconds by what they are spent on, each alone."""
    assert where.chip is not None
    per_device = where.chip.flops / where.chip.devices
    program, memory = found["program"], found["memory"]
    matrix = program["executed_flops"] / where.devices / (per_device * MATRIX_EFFICIENCY)
    if where.chip.cycles and _narrow(e, found):
        matrix *= NARROW
    cycles = found.get("estimated_cycles", 0.0)
    fused = program.get("kernel_flops", 0.0) / where.devices / (per_device * KERNEL_EFFICIENCY)
    # The state is read and written once by the optimizer, weights are read three times per
    # microbatch (the frozen for no gradient of their own), and written where they are gathered.
    trained, sizes = memory["trained"], _splits(found["mesh"])
    moved = 2 * (trained + memory["optimizer"]) + 2 * memory["estimates"]["gradients"]
    passes = 2 + trained / max(1, memory["parameters"]) + (sizes["fsdp"] > 1)
    whole = program["parameters"]["total"] / sizes["tensor"] * BYTES[e.precision.compute]
    moved += e.microbatches * passes * whole
    moved += _passing(e, found)
    links, network = wire_bytes(e, found)
    if "collectives" in found:
        inside = [c for c in found["collectives"] if not c["network"]]
        links = sum(c["wire_bytes"] for c in inside)
        network = sum(c["wire_bytes"] for c in found["collectives"] if c["network"])
        hidden = sum(c["wire_bytes"] for c in inside if c["asynchronous"])
        waits = 0.0
    else:
        hidden, waits = 0.0, LATENCY * _collectives(e, found)
    rate = where.chip.link_rate / where.chip.devices
    return {
        "matrix": matrix,
        "compiler": cycles / where.chip.cycles + fused if cycles and where.chip.cycles else None,
        "memory": moved / (where.chip.memory_rate / where.chip.devices),
        "links": links / rate + waits,
        "hidden_links": hidden / rate,
        "network": network / where.chip.network_rate if where.slices > 1 else 0.0,
    }


def _narrow(e: Experiment, found: dict[str, Any]) -> bool:
    """Whether fsdp leaves less of the width on a device than its registers hold."""
    split = "fsdp" in PARAMETERS_OVER[e.layout]
    return split and e.model.sizes["D"] < LANES * _splits(found["mesh"])["fsdp"]


def _passing(e: Experiment, found: dict[str, Any]) -> float:
    """Bytes of activations that a device writes and reads in a step: products and attention weights
    once forward and once backward, and again what remat makes again. Of attention weights that is
    all under every policy."""
    sizes, s = _splits(found["mesh"]), e.model.sizes
    tokens = e.batch * e.length / sizes["rows"] / sizes["sequence"]
    embed, mlp = s["D"], s.get("F", 4 * s["D"])
    if _remat(e) == "none":  # all that is between products is kept, and so written
        products, passes, of_weights = _kept_numbers(e, sizes["tensor"]), 4, 4
    else:
        products = embed + (4 * embed + 2 * mlp) / sizes["tensor"]
        passes, of_weights = {"full": 6, "save_attention": 5.8}.get(_remat(e), 4.2), 6
    weights = of_weights * _weights_bytes(e) / sizes["tensor"]
    return tokens * _layers(e) * (passes * products * BYTES[e.precision.compute] + weights)


def wire_bytes(e: Experiment, found: dict[str, Any]) -> tuple[float, float]:
    """(bytes a device sends inside its slice, and to other slices) per step, by the layout: two
    gathers of what fsdp splits and one scatter of its gradient, an all-reduce of gradients over
    data and replica, and four of the residual stream per layer over tensor."""
    sizes, width = _splits(found["mesh"]), BYTES[e.precision.compute]
    whole = found["program"]["parameters"]["total"] / sizes["tensor"]
    local = whole / sizes["fsdp"]
    gathers = 3 if _remat(e) == "full" else 2
    trained = found["memory"]["trained"] / max(1, found["memory"]["parameters"])
    # Gathered once after the update where only the optimizer's state is split.
    gathered = e.microbatches * gathers * width
    if "fsdp" not in PARAMETERS_OVER[e.layout]:
        gathered = trained * BYTES[e.precision.params]
    inside = (gathered + e.microbatches * trained * width) * whole * _share(sizes["fsdp"])
    inside += e.microbatches * 2 * local * trained * width * _share(sizes["data"])
    tokens = e.batch * e.length / sizes["rows"] / sizes["sequence"]
    letters = e.model.sizes
    stream = tokens * letters["D"] * _layers(e) * width
    passes = 6 if _remat(e) == "full" else 4
    inside += passes * 2 * stream * _share(sizes["tensor"])
    return inside, 2 * local * trained * 4 * _share(sizes["replica"])


def _collectives(e: Experiment, found: dict[str, Any]) -> float:
    sizes, layers = _splits(found["mesh"]), _layers(e)
    each = 3 * (sizes["fsdp"] > 1) + 6 * (sizes["tensor"] > 1)
    return e.microbatches * layers * each + 1


def _ways(e: Experiment, sizes: dict[str, int]) -> int:
    """How many times finer gradients are split than parameters."""
    finer = {*OPTIMIZER_OVER[e.layout]} - {*PARAMETERS_OVER[e.layout]}
    return math.prod(sizes[axis] for axis in finer)


def _share(ways: int) -> float:
    return (ways - 1) / ways


def _splits(mesh: dict[str, int]) -> dict[str, int]:
    sizes = {axis: mesh.get(axis, 1) for axis in ("replica", "data", "fsdp", "sequence", "tensor")}
    return sizes | {"rows": math.prod(sizes[axis] for axis in ("replica", "data", "fsdp"))}


def _layer_bytes(found: dict[str, Any], layers: int, width: int) -> float:
    return found["program"]["parameters"]["matmul"] / layers * width


def _layers(e: Experiment) -> int:
    """Of all stacks together."""
    sides = e.model.encoder_layers + e.model.decoder_layers
    return max(1, e.model.sizes.get("Z", 0), sides)


def _weights_bytes(e: Experiment) -> float:
    """Bytes per token of one layer's attention weights, kept for the backward pass: in float32, and
    as the compute type multiplies them; after dropout again, with its mask."""
    heads = e.model.sizes.get("N", 0)
    if not heads or e.model.attention in FUSED:
        return 0.0
    seen = 0.5 if e.model.architecture == "decoder" else 1.0
    width = BYTES[e.precision.compute]
    return heads * e.length * seen * (4 + width + (1 + width if e.model.drops else 0))


def _kept_numbers(e: Experiment, tensor: int) -> float:
    """Numbers per token and layer that the backward pass keeps, about: the residual stream, and by
    the remat policy the products inside. Without remat every element-wise value between them too,
    and the keys and values that each block of queries read."""
    s = e.model.sizes
    embed, mlp = s["D"], s.get("F", 4 * s["D"])
    named = {
        "full": 0.0,
        "save_attention": embed,
        "save_qkv_attention_mlp": 4 * embed + mlp,
        "dots": 5 * embed + mlp,
    }
    # Twice and a half as many, and the blocks: GPT-J was refused at 97 GiB of temporaries where
    # its products alone are 31, BERT-large at 23 with 10.
    decoder = e.model.architecture == "decoder"
    blocks = e.length / 128 if decoder and e.model.attention == "blocks" else 0
    everything = 2.5 * (4 * embed + 2 * mlp) + embed * blocks
    return embed + named.get(_remat(e), everything) / tensor


def _remat(e: Experiment) -> str:
    return e.model.remat
