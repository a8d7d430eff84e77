"""What a compiled program sends between its devices, read from its scheduled HLO text.

`collectives` walks the program from its entry, multiplies by the trip counts of the loops around an
instruction, and counts a collective once however many fused computations repeat it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gesso.planning.replica_groups import axes_of

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
# Bits of an element of each HLO type.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16, "f8e4m3fn": 8, "f8e5m2": 8, "c64": 64}
_BITS |= {f"{kind}{bits}": bits for kind in "sf" for bits in (8, 16, 32, 64)}
_BITS |= {f"u{bits}": bits for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class Instruction:
    """`type`: the result's, as HLO spells it. `rest`: everything after the operands."""

    name: str
    type: str
    opcode: str
    operands: str
    rest: str
    root: bool


@dataclass
class Collective:
    """All collectives of one kind over groups of one size, per step and device.

    axes: the mesh axes along which the devices of a group differ, as in "data x fsdp"; "" where
    they are not known. network: between slices, over the data-centre network.
    payload_bytes: of their results; wire_bytes: what a device sends (ring algorithms).
    """

    kind: str
    group: int
    asynchronous: bool
    axes: str = ""
    network: bool = False
    count: int = 0
    payload_bytes: float = 0.0
    wire_bytes: float = 0.0


@dataclass
class _Found:
    mesh: Mapping[str, int]
    collectives: dict[tuple[str, int, bool, str, bool], Collective] = field(default_factory=dict)
    seen: set[tuple[str, str, str]] = field(default_factory=set)
    cycles: float = 0.0


def collectives(text: str, mesh: Mapping[str, int] | None = None) -> tuple[list[Collective], float]:
    """The collectives of one execution, the largest first, and the TPU compiler's own estimate of
    the cycles of everything else (0.0 where it wrote none). mesh: {axis: size} in its order, to
    name the axes of a collective."""
    computations, entry = parse(text)
    found = _Found(mesh=mesh or {})
    _walk(computations, entry, 1, found)
    ordered = sorted(found.collectives.values(), key=lambda each: -each.wire_bytes)
    return ordered, found.cycles


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """({computation: its instructions}, the entry's name)."""
    computations: dict[str, list[Instruction]] = {}
    name, entry, pending = "", "", ""

    def close() -> None:
        nonlocal pending
        if pending and (made := _instruction(pending)):
            computations[name].append(made)
        pending = ""

    for line in text.splitlines():
        line = re.sub(r"/\*index=\d+\*/", "", line)
        if not name:
            head = re.match(r"(ENTRY )?%?([\w.\-]+) .*->.*\{\s*$", line)
            if head:
                name = head[2]
                computations[name] = []
                entry = name if head[1] else entry
        elif line.rstrip() == "}" or line.startswith("}, execution_thread"):
            close()
            name = ""
        elif re.match(r"\s+(ROOT )?%?[\w.\-]+ = ", line):
            close()
            pending = line
        elif pending:
            # Kernel metadata spreads one instruction over several lines.
            pending += " " + line
    return computations, entry


def type_bytes(spelled: str) -> list[float]:
    """Bytes of each array of an HLO type, "(f32[2,3]{1,0}, bf16[4])" -> [24, 8]."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", spelled)
    return [
        _BITS[kind] / 8 * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in arrays
        if kind in _BITS
    ]


def group_size(rest: str) -> int:
    """How many devices one collective joins, from any of the three spellings of replica_groups."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'?([\w]+)'?=(\d+)", found[1]))
        group = 1
        for axis in found[2].split(","):
            part = re.match(r"\s*'?(\w+)'?(?::\(\d+\)(\d+))?", axis)
            if part:
                group *= int(part[2] or sizes.get(part[1], 1))
        return group
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    return 2


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s*(ROOT )?%?([\w.\-]+) = (.*)$", line)
    if not head:
        return None
    body = head[3]
    end = _closing(body, 0) + 1 if body.startswith("(") else body.find(" ")
    spelled, call = body[:end], body[end:].lstrip()
    opcode = re.match(r"([\w\-]+)\(", call)
    if not opcode:
        return None
    close = _closing(call, opcode.end() - 1)
    return Instruction(
        name=head[2],
        type=spelled,
        opcode=opcode[1],
        operands=call[opcode.end() : close],
        rest=call[close + 1 :],
        root=bool(head[1]),
    )


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text) - 1


def _trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    if found := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest):
        return int(found[1])
    # TPU programs do not say it: the constant that the condition compares with.
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    inside = computations.get(condition[1], []) if condition else []
    constants = {
        each.name: int(each.operands)
        for each in inside
        if each.opcode == "constant" and re.fullmatch(r"-?\d+", each.operands)
    }
    for each in inside:
        if each.root:
            for operand in re.findall(r"%?([\w.\-]+)", each.operands):
                if operand in constants:
                    return constants[operand]
    return max(constants.values(), default=1)


def _walk(computations: dict[str, list[Instruction]], name: str, times: int, found: _Found) -> None:
    for each in computations.get(name, []):
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', each.rest):
            found.cycles += int(estimate[1]) * times
        called = re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", each.rest)
        if each.opcode == "while":
            for body in called:
                _walk(computations, body, times * _trips(each, computations), found)
        elif each.opcode in ("call", "conditional"):
            branches = re.findall(r"(?:branch_computations=\{|, )%([\w.\-]+)", each.rest)
            for body in dict.fromkeys(called + branches):
                _walk(computations, body, times, found)
        elif each.opcode in ("fusion", "async-start", "call-start"):
            for body in called:
                for inner in _inside(computations, body):
                    # Asynchronous collective fusion repeats one in several steps of a computation.
                    # Channels do not tell them apart alone: a shard_map's own are all number 1. Nor
                    # do layouts: a part may go to another memory.
                    channel = re.search(r"channel_id=(\d+)", inner.rest)
                    shape = re.sub(r"\{[^}]*\}", "", inner.type)
                    key = (name, channel[1], shape) if channel else (name, inner.name, "")
                    if key in found.seen:
                        continue
                    found.seen.add(key)
                    # XLA:TPU spells a reduce-scatter as a fused all-reduce and slice.
                    scatters = "reduce-scatter" in each.name or "reduce-scatter" in body
                    hidden = each.opcode != "fusion" or "async" in body or "async" in each.name
                    _add(inner, times, hidden, scatters, found)
        elif each.opcode.removesuffix("-start") in KINDS:
            _add(each, times, each.opcode.endswith("-start"), False, found)
        elif each.opcode == "send" and "_xla_megascale_transfer_type" in each.rest:
            _add_network(each, times, found)


def _inside(computations: dict[str, list[Instruction]], name: str) -> Iterator[Instruction]:
    for each in computations.get(name, []):
        if each.opcode.removesuffix("-start") in KINDS:
            yield each
        elif each.opcode in ("fusion", "call", "async-start"):
            for body in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", each.rest):
                yield from _inside(computations, body)


def _add(each: Instruction, times: int, hidden: bool, scatters: bool, found: _Found) -> None:
    kind, group = each.opcode.removesuffix("-start"), group_size(each.rest)
    if group < 2:
        return
    arrays = type_bytes(each.type)
    payload = sum(arrays)
    if each.opcode.endswith("-start"):  # its type names the operands too
        payload /= {"all-gather": 1 + 1 / group, "reduce-scatter": 1 + group, "all-to-all": 2}.get(
            kind, 1
        )
        payload = arrays[0] if kind == "collective-permute" else payload
    share = (group - 1) / group
    wire = {"all-gather": share, "all-reduce": 2 * share, "reduce-scatter": group - 1.0}.get(
        kind, share if kind == "all-to-all" else 1.0
    )
    if kind == "all-reduce" and scatters:
        kind, wire, payload = "reduce-scatter", share, payload
    _count(kind, group, hidden, axes_of(each.rest, found.mesh), payload, wire, times, found)


def _add_network(each: Instruction, times: int, found: _Found) -> None:
    """Between slices XLA:TPU leaves the collective to the hosts: a program only sends its share."""
    said = re.search(r'_xla_megascale_transfer_type="(\w+)"', each.rest)
    slices = re.search(r'_xla_megascale_target="\{([\d,:]+)\}', each.rest)
    assert said is not None
    kind = said[1].lower().replace("_", "-").replace("one-to-one", "collective-permute")
    group = _length(slices[1]) if slices else 2
    share = (group - 1) / group
    wire = {"all-reduce": 2 * share, "all-gather": group - 1.0, "collective-permute": 1.0}.get(
        kind, share
    )
    payload = type_bytes(each.type)[0]
    _count(kind, group, True, "replica", payload, wire, times, found, network=True)


def _count(
    kind: str,
    group: int,
    hidden: bool,
    axes: str,
    payload: float,
    wire: float,
    times: int,
    found: _Found,
    *,
    network: bool = False,
) -> None:
    entry = found.collectives.setdefault(
        (kind, group, hidden, axes, network),
        Collective(kind=kind, group=group, asynchronous=hidden, axes=axes, network=network),
    )
    entry.count += times
    entry.payload_bytes += payload * times
    entry.wire_bytes += payload * wire * times


def _length(spelled: str) -> int:
    """How many numbers "0:2,5" lists: 4."""
    ends = [[int(n) for n in part.split(":")] for part in spelled.split(",")]
    return sum(each[-1] - each[0] + 1 for each in ends)
