"""`gesso list`: the experiments there are, with what each would cost."""

from dataclasses import dataclass

from gesso.launch.console import Figures, narration, output, print_json, size
from gesso.pretrain.config import MOMENTS
from gesso.pretrain.exits import DONE
from gesso.pretrain.experiment import Experiment, ExperimentError
from gesso.records.quantities import short

_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class List:
    """List the experiments, with parameters, FLOPs per token and the memory that their state takes.

    FLOPs are those of training (forward and backward; of a frozen model under an adapter without
    the gradients of its weights) at the experiment's own length. State is
    parameters, gradients and optimizer moments over all devices together; activations come on top.

    Example:
      gesso list
      gesso list --json
    """

    json: bool = False
    """Print the table as JSON."""

    def run(self) -> int:
        from gesso.configs import registry

        rows = [figures(registry.experiment(name)) for name in registry.names()]
        added, problems = _others()
        rows += added
        for problem in problems:
            narration().print(problem, markup=False, soft_wrap=True)
        if self.json:
            print_json(rows)
        else:
            _show(rows)
        return DONE


def _others() -> tuple[list[Figures], list[str]]:
    """The rows of other packages' experiments, and one line for each that has none."""
    from gesso.configs import registry

    names, problems = registry.others()
    rows = []
    for name in names:
        try:
            rows.append(figures(registry.experiment(name)))
        except ExperimentError as error:
            problems.append(str(error))
        except Exception as error:  # another package's model may fail to be counted in any way
            problems.append(f"{name!r} cannot be counted: {type(error).__name__}: {error}")
    return rows, problems


def figures(experiment: Experiment) -> Figures:
    """One row of the table: FLOPs of training, bytes of state, tokens of a batch."""
    from gesso.models.count import parameters
    from gesso.planning.plan import plan_flops

    total = parameters(experiment.model)["total"]
    # stored parameters and their gradients in one dtype, moments beside them
    copies = 2 + MOMENTS[experiment.optimizer.name]
    if experiment.adapter.kind != "none":
        copies = 1  # the base is only read; an adapter and its moments are next to nothing
    return {
        "name": experiment.name,
        "parameters": total,
        "flops_per_token": plan_flops(experiment),
        "state_bytes": total * copies * _BYTES[experiment.precision.params],
        "length": experiment.length,
        "batch_tokens": experiment.batch * experiment.length,
        "steps": experiment.steps,
    }


def _show(rows: list[Figures]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("experiment", style="cyan", no_wrap=True)
    for heading in ("parameters", "FLOPs/token", "state", "length", "tokens/step", "steps"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            short(row["parameters"]),
            short(row["flops_per_token"]),
            size(row["state_bytes"]),
            f"{row['length']:,}",
            short(row["batch_tokens"]),
            f"{row['steps']:,}",
        )
    output().print(table)
    output().print("\ngesso pretrain NAME --help says what each is and where its numbers are from")
