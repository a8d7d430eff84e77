"""`gesso plan EXPERIMENT --topology T`: does it fit, how fast, what bounds it, which mesh."""

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table

from gesso.launch.console import Figures, Refused, narration, output, parse, print_json
from gesso.launch.help import PLANNED, request
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import Experiment
from gesso.settings.explain import groups

if TYPE_CHECKING:
    from gesso.planning.search import Candidate
    from gesso.planning.topology import Topology

_HELP = """\
usage: gesso plan EXPERIMENT --topology KIND:SHAPE [--search yes] [--SETTING VALUE ...]

Will it fit, how fast will it be, and what bounds it, before any chip is rented. For TPU slices the
real step is compiled on this machine by the TPU's own compiler (pip install -e .[tpu]): its memory
is exact. For GPUs, and with --compile never, formulas estimate it. Times divide FLOPs and bytes by
published peaks: a model, given as a range.

Examples:
  gesso plan gpt-j-6b --topology v5e:16x16 --mesh.fsdp 256
  gesso plan gpt-j-6b --topology v5p:4x4x4 --search yes           ranks meshes, remat, microbatches
  gesso plan gpt-neo-1.3b --topology h200:8 --mesh.fsdp 8 --tokens 26e9 --price 2.5
  gesso plan bert-large --topology v6e:4x4 --slices 2 --mesh.replica 2 --json
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """What `gesso plan` takes beside the experiment's own settings."""

    topology: str
    """Machine as KIND:SHAPE: a TPU slice as libtpu names it (v5e:16x16), or GPUs of a kind
    (h200:8)."""
    slices: int = 1
    """Slices (TPU) joined by the data-centre network; see --mesh.replica."""
    search: Literal["yes", "no"] = "no"
    """Try every mesh, remat policy and number of microbatches, and rank them."""
    finalists: int = 1
    """Fastest candidates of the search to compile, before the fastest of those is named."""
    page: str = ""
    """File (.html) for the plan as a page with pictures; "" = none."""
    compile: Literal["auto", "never"] = "auto"
    """Compile the step for the topology where its compiler is installed, or only estimate."""
    tokens: float = 0.0
    """Tokens to train on, for days and cost; 0 = the experiment's own steps."""
    price: float = 0.0
    """Price of one chip for an hour, in any currency; 0 = no cost is given."""
    json: bool = False
    """Print the plan as JSON."""


def plan(arguments: list[str]) -> int:
    """Entry of `gesso plan`."""
    if not arguments or arguments[0].startswith("-"):
        output().print(_HELP, markup=False)
        if not arguments or arguments[0] not in {"-h", "--help"}:
            raise Refused("say which experiment to plan: gesso plan EXPERIMENT --topology ...")
        return DONE
    experiment, asked = read(arguments)
    _check(asked)
    from gesso.planning.topology import topology

    where = topology(asked.topology, slices=asked.slices)
    ranked: list[Figures] = []
    made: Figures | None = None
    if asked.search == "yes":
        from gesso.planning.search import search, why

        found, tried = search(experiment, where)
        if not found:
            raise Refused(
                f"none of {tried} ways to lay {experiment.name} out fits {where.name}: take a"
                " larger topology, a smaller --batch, or --optimizer.name adafactor"
            )
        experiment = found[0].experiment
        ranked = [{"options": c.name, **_summary(c.estimate)} for c in found[:10]]
        best = found[0]
        if not asked.json:
            _show_ranked(found[:10], tried, len(found))
        if asked.compile == "auto" and where.compiles:
            best, made = _compile_best(found, where, asked.finalists)
            experiment = best.experiment
        if not asked.json:
            output().print("\n".join(f"  {line}" for line in why(best, found)), markup=False)
    if made is None:
        made = _plan(experiment, where, compiles=asked.compile == "auto")
    made["budget"] = _budget(made, experiment, tokens=asked.tokens, price=asked.price)
    if asked.page:
        from gesso.reports.plan.plan import write_plan

        page = write_plan(made | {"search": ranked}, asked.page)
        narration().print(f"page: {page}", markup=False, soft_wrap=True)
    if asked.json:
        print_json(made | ({"search": ranked} if ranked else {}))
    else:
        _show(made)
    return DONE


def _check(asked: Planned) -> None:
    if asked.finalists < 1 or (asked.finalists > 1 and asked.search == "no"):
        raise Refused("--finalists is how many of a search's fastest are compiled: at least 1, with"
                      " --search yes")  # fmt: skip
    if asked.finalists > 1 and asked.compile == "never":
        raise Refused("--finalists compiles, and --compile is never: leave out one of them")
    if asked.tokens < 0 or asked.price < 0:
        raise Refused("--tokens and --price cannot be negative")


def _recommendation(name: str) -> str:
    """The options of an experiment's row in docs/pods.md; "" where there is none."""
    path = Path(__file__).parents[2] / "benchmarks/results/recommended.json"
    rows = json.loads(path.read_text()).values() if path.is_file() else ()
    return next(
        (f"--topology {r['topology']} {r['options']}" for r in rows if r["experiment"] == name), ""
    )


def _compile_best(
    found: "list[Candidate]", where: "Topology", count: int
) -> tuple["Candidate", Figures]:
    """The best of a search as the compiler sees it, and its plan."""
    from gesso.planning.finalists import choose

    chosen = choose(
        found, lambda e, depth: _plan(e, where, compiles=True, depth=depth), count=count
    )
    if chosen is None:
        raise Refused(
            f"the compiler refused all that fit {where.name} by formulas: take a larger topology,"
            " a smaller --batch, or --optimizer.name adafactor"
        )
    tell = narration().print
    for each in chosen.refused:
        tell(f"the compiler finds no room for {each.name}", markup=False, soft_wrap=True)
    tell(f"chosen: {chosen.candidate.name}", markup=False, soft_wrap=True)
    if chosen.error:
        spelled = ", ".join(f"{name} {value:+.1%}" for name, value in chosen.error.items())
        tell(f"two shallow models told of the whole one: {spelled}", markup=False)
    return chosen.candidate, chosen.plan


def read(arguments: list[str]) -> tuple[Experiment, Planned]:
    """The experiment with its settings, and what is asked of the plan. Imports no JAX."""
    from gesso.configs import registry

    name, *settings = arguments
    experiment = registry.experiment(name)
    if not request(settings) and not any(each.startswith("--topology") for each in settings):
        known = _recommendation(name)
        raise Refused(
            f"say where: gesso plan {name} {known or '--topology v5e:4x4'}"
            + (" is recommended (docs/pods.md)" if known else "")
        )
    options = dataclasses.make_dataclass(
        "Plan",
        [
            ("asked", Annotated[Planned, tyro.conf.arg(name="")]),
            (
                "experiment",
                Annotated[type(experiment), tyro.conf.arg(name="")],
                dataclasses.field(default_factory=lambda: experiment),
            ),
        ],
        frozen=True,
        kw_only=True,
    )
    found: Any = parse(
        options,
        settings,
        prog=f"gesso plan {name}",
        description=registry.describe(name),
        groups=itertools.chain(groups(Planned), groups(experiment)),
        everyday=(*(each.name for each in dataclasses.fields(Planned)), *PLANNED),
    )
    return found.experiment, found.asked


def _plan(
    experiment: Experiment,
    where: "Topology",
    *,
    compiles: bool,
    depth: Literal["whole", "extrapolated"] = "whole",
) -> Figures:
    """The compiled plan, from the cache where the same one was made before; else the estimate."""
    from gesso.planning.plan import estimate

    rough = estimate(experiment, where)  # refuses what cannot be before a compiler is started
    if not (compiles and where.compiles):
        return rough
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if where.kind == "cpu":
        flag = f"--xla_force_host_platform_device_count={where.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"

    def compile_plan_of() -> Figures:
        narration().print(f"compiling {experiment.name} for {where.name} ...", style="dim")
        from gesso.planning.plan import plan as compile_plan

        return compile_plan(experiment, where, depth=depth)

    from gesso.planning.cache import keep_plan

    return keep_plan(experiment, where, compile_plan_of, depth=depth)


def _budget(made: Figures, e: Experiment, *, tokens: float, price: float) -> Figures | None:
    """Days and cost of a number of tokens, from the slowest to the fastest."""
    if not made["time"]:
        return None
    wanted = tokens or float(e.steps) * e.batch * e.length
    days = [wanted / rate / 86400 for rate in made["time"]["tokens_per_second"]]
    chips = made["topology"]["chips"]
    cost = [price * 24 * chips * each for each in days] if price else None
    return {"tokens": wanted, "days": days, "cost": cost}


def _summary(found: Figures) -> Figures:
    return {
        "seconds": found["time"]["middle"],
        "mfu": found["time"]["mfu"],
        "bytes": found["memory"]["total"],
        "bound": found["time"]["bound"],
    }


def _show_ranked(found: "list[Candidate]", tried: int, fitting: int) -> None:
    table = Table(
        title=f"{fitting} of {tried} ways fit (estimates); the fastest", title_justify="left"
    )
    for head in ("s / step", "MFU", "GiB / device", "bound by", "options"):
        table.add_column(head, justify="left" if head in ("options", "bound by") else "right")
    for each in found:
        time, memory = each.estimate["time"], each.estimate["memory"]
        table.add_row(
            f"{each.seconds:.3g}",
            _range(time["mfu"], "{:.0%}"),
            f"{memory['total'] / 2**30:.1f}",
            time["bound"],
            each.name,
        )
    output().print(table)


def _show(made: Figures) -> None:
    memory, time, where = made["memory"], made["time"], made["topology"]
    e, gib = made["experiment"], 2.0**30
    axes = " x ".join(f"{axis} {n}" for axis, n in made["mesh"].items()) or "one device"
    how = "compiled for it" if memory["exact"] else "estimated by formulas"
    output().print(
        f"{e['name']} on {where['slices']} x {where['name']} ({where['chips']} chips): {axes},"
        f" layout {e['layout']}; {how}",
        markup=False,
    )
    if made.get("refused"):
        output().print(f"does NOT fit: {made['refused']}", markup=False)
        return
    table = Table(title="bytes per device", title_justify="left")
    table.add_column("class")
    table.add_column("GiB", justify="right")
    table.add_column("")
    for name in ("parameters", "optimizer", "batch"):
        table.add_row(name, f"{memory[name] / gib:.3f}", "exact" if memory["exact"] else "estimate")
    for name, size in memory["estimates"].items():
        table.add_row(name.replace("_", " "), f"{size / gib:.3f}", "estimate")
    table.add_row("temporaries in all", f"{memory['temporary'] / gib:.3f}", _exactly(memory))
    table.add_row("total", f"{memory['total'] / gib:.3f}", _exactly(memory))
    if "limit" in memory:
        share = memory["total"] / memory["limit"]
        verdict = "fits" if made["fits"] else "does NOT fit"
        table.add_row("of the chip's", f"{memory['limit'] / gib:.2f}", f"{verdict}: {share:.0%}")
    output().print(table)
    for each in made.get("collectives", [])[:6]:
        hidden = "asynchronous" if each["asynchronous"] else "synchronous"
        hidden = "between slices" if each["network"] else hidden
        axes = f"{each['axes']}, " if each["axes"] else ""
        output().print(
            f"  {each['kind']} over {axes}{each['group']} devices: {each['count']:,.0f} of them"
            f" send {each['wire_bytes'] / 1e9:.3g} GB per device, {hidden}",
            markup=False,
        )
    if time:
        parts = {name: time[name] for name in ("matrix", "compiler", "memory", "links", "network")}
        spelled = ", ".join(f"{name} {s * 1e3:.0f} ms" for name, s in parts.items() if s)
        output().print(f"a step, each alone: {spelled}; bound by {time['bound']}", markup=False)
        output().print(
            f"together {_range([time['fastest'], time['slowest']], '{:.3g}')} s,"
            f" {_range(time['tokens_per_second'], '{:,.0f}')} tokens/s,"
            f" MFU {_range(time['mfu'], '{:.0%}')} (a model, not a measurement)",
            markup=False,
        )
    if budget := made.get("budget"):
        cost = f", costing {_range(budget['cost'], '{:,.0f}')}" if budget["cost"] else ""
        output().print(
            f"{budget['tokens']:.3g} tokens: {_range(budget['days'], '{:.3g}')} days{cost}",
            markup=False,
        )


def _exactly(memory: Figures) -> str:
    return "exact" if memory["exact"] else "estimate"


def _range(values: list[float], form: str) -> str:
    low, high = sorted(values)
    return (
        form.format(low)
        if form.format(low) == form.format(high)
        else (f"{form.format(low)} to {form.format(high)}")
    )
