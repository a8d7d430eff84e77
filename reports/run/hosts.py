"""A report's section about a run's processes: where their time went, who held the others up."""

from gesso.records.quantities import duration, value_text
from gesso.records.spans import WAIT, read_spans
from gesso.records.stragglers import host_times, verdicts
from gesso.reports.facts import RunFacts
from gesso.reports.page import Row, Section, Table

_ROWS = 64  # processes shown; those that cost the most


def hosts(run: RunFacts) -> Section:
    """Empty for a run of one process."""
    times = host_times(read_spans(run.folder))
    if len(times) < 2 or not times[0].intervals:
        return Section(key="hosts", title="Hosts")
    told = verdicts(times)
    phases = list(dict.fromkeys(phase for each in times for phase in each.seconds))
    ordered = [phase for phase in phases if phase != WAIT] + [WAIT]
    shown = sorted(times, key=lambda each: (-each.caused, each.process))[:_ROWS]
    rows = []
    for each in shown:
        total = sum(each.seconds.values())
        shares = [value_text(each.seconds.get(p, 0.0) / (total or 1.0), "percent") for p in ordered]
        late = f"{each.late} of {each.intervals}"
        rows.append(Row(cells=[f"{each.process}", each.host, *shares, late, duration(each.caused)]))
    text = (
        ". ".join(each[0].upper() + each[1:] for each in told) + "."
        if told
        else "No host held the others up."
    )
    left_out = len(times) - len(shown)
    return Section(
        key="hosts",
        title="Hosts",
        text=text + (f" The {len(shown)} of {len(times)} that cost most." if left_out else ""),
        table=Table(
            heads=(
                "Process",
                "Host",
                *(f"in {phase}" for phase in ordered),
                "Late",
                "Others waited",
            ),
            rows=rows,
            text=(1,),
        ),
    )
