"""Which host the others wait for, from the spans of all of them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gesso.records.spans import WAIT

_SHARE = 0.05  # of an interval: less is noise
_SLOW = 1.25  # times the median device
_TELL = 0.02  # of the run: less waiting is not worth a word


@dataclass(kw_only=True)
class HostTime:
    """What one process did, over the steps that all processes have on record.

    seconds: by phase. late: intervals in which the others waited for it, of `intervals`. caused:
    seconds the others waited for it, each time that of the one which waited longest. reasons: where
    it spent those seconds, by phase. probes: of its devices, in seconds.
    """

    process: int
    host: str
    seconds: dict[str, float] = field(default_factory=dict)
    intervals: int = 0
    late: int = 0
    caused: float = 0.0
    reasons: dict[str, float] = field(default_factory=dict)
    probes: tuple[float, ...] = ()


def host_times(spans: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[HostTime]:
    """One HostTime per process, from records.spans.read_spans.

    All processes make every step together, so the time of a step is the same on all; who is late
    waits least. Where the devices work while a host goes on (`overlapped`), a host that still waits
    for its devices itself holds nobody up, however long it took. Clocks are never compared.
    """
    made = {
        process: HostTime(process=process, host=str(lines[-1].get("host", "?")))
        for process, lines in spans.items()
    }
    by_step = {process: {line["step"]: line for line in lines} for process, lines in spans.items()}
    for process, lines in by_step.items():
        if 0 in lines:  # before the first step: the probe
            made[process].probes = tuple(lines[0].get("probe", ()))
    every = [set(lines) - {0} for lines in by_step.values()]
    shared = sorted(set.intersection(*every)) if every else []
    for step in shared[1:]:  # the first interval has the compilation in it
        interval = {process: lines[step] for process, lines in by_step.items()}
        for process, line in interval.items():
            host = made[process]
            host.intervals += 1
            for phase, seconds in line["spans"].items():
                host.seconds[phase] = host.seconds.get(phase, 0.0) + seconds
        _find_late(interval, made)
    return list(made.values())


def verdicts(hosts: Sequence[HostTime]) -> list[str]:
    """Sentences about hosts and devices that hold the others up; none when nothing does."""
    told = []
    for host in sorted(hosts, key=lambda each: -each.caused):
        total = sum(host.seconds.values())
        if total and host.caused > _TELL * total:
            phase, _ = max(host.reasons.items(), key=lambda item: item[1])
            told.append(
                f"the others waited {host.caused:.1f} s ({host.caused / total:.0%} of the time) for"
                f" process {host.process} on {host.host}: late in {host.late} of {host.intervals}"
                f" logged intervals, most of it in {phase}"
            )
    probes = [seconds for host in hosts for seconds in host.probes]
    typical = statistics.median(probes) if probes else 0.0
    for host in hosts:
        slow = [i for i, seconds in enumerate(host.probes) if seconds > _SLOW * typical]
        if slow:
            worst = max(host.probes) / typical
            which = f"device{'s' if slow[1:] else ''} {', '.join(map(str, slow))}"
            told.append(
                f"process {host.process} on {host.host}: local {which} took up to {worst:.2f} times"
                " as long as the median device for the same products when the run started"
            )
    return told


def _find_late(interval: Mapping[int, Mapping[str, Any]], made: Mapping[int, HostTime]) -> None:
    if len(interval) < 2:
        return
    waits = {process: line["spans"].get(WAIT, 0.0) for process, line in interval.items()}
    late = min(waits, key=lambda process: waits[process])
    line = interval[late]
    total = sum(line["spans"].values())
    excess = max(waits.values()) - waits[late]
    if excess <= _SHARE * total:
        return
    if line.get("overlapped") and waits[late] > _SHARE * total:
        return
    host = made[late]
    host.late += 1
    host.caused += excess
    others = [each["spans"] for process, each in interval.items() if process != late]
    for phase, seconds in line["spans"].items():
        usual = statistics.median(each.get(phase, 0.0) for each in others)
        if phase != WAIT and seconds > usual:
            host.reasons[phase] = host.reasons.get(phase, 0.0) + seconds - usual
    host.reasons.setdefault("step", 0.0)
