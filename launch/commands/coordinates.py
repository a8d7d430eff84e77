"""`gesso coordinates EXPERIMENT`: does muP hold, so that rates found narrow are right wide?"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro
from rich.table import Table

from gesso.launch.console import Refused, narration, output, print_json
from gesso.pretrain.exits import DONE, FAILED

if TYPE_CHECKING:
    from gesso.reports.sweep.coordinates import Coordinates as Found
    from gesso.reports.sweep.coordinates import Parametrisation


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Check muP for a GPT experiment: train models of several widths for a few updates, in the
    standard parametrisation and in muP, and see whose activations grow with the width.

    muP is a setting of a model: --model.mup-base WIDTH --model.head untied. A rate found at that
    width then serves wider models too (widen by --model.heads, with the same head dim).

    Writes coordinates.html and coordinates.json; in a sweep's folder its page shows them too.
    Exit status 1 where muP's activations are not flat.

    Example:
      gesso coordinates debug-gpt2 --widths 32 64 128 256
      gesso coordinates debug-gpt2 --learning-rate 0.01 --folder sweeps/debug-sizes
    """

    experiment: tyro.conf.Positional[str]
    """Experiment that is widened."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Widths (embed) to compare; the narrowest is muP's base."""
    steps: int = 4
    """Updates before the activations are compared."""
    seeds: int = 2
    """Initialisations that are averaged."""
    learning_rate: float = 0.0
    """Learning rate of every model; 0 = the experiment's."""
    batch: int = 0
    """Rows per update; 0 = the experiment's."""
    length: int = 0
    """Tokens per row; 0 = the experiment's."""
    folder: str = ""
    """Folder of the page; coordinates/EXPERIMENT by default."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        from gesso.configs import registry

        if len(set(self.widths)) < 2 or min(self.steps, self.seeds) < 1:
            raise Refused("a coordinate check needs two --widths, and --steps and --seeds above 0")
        changes = {"batch": self.batch, "length": self.length}
        changes |= {"optimizer.learning_rate": self.learning_rate}
        asked = registry.experiment(
            self.experiment, {name: value for name, value in changes.items() if value}
        )
        from gesso.planning.coordinates import coordinates, widen
        from gesso.pretrain.open import store_of
        from gesso.reports.sweep.coordinates import is_flat, slopes, write_coordinates

        for width in self.widths:
            widen(asked, width, base=0, steps=self.steps)
        found = coordinates(
            asked,
            widths=self.widths,
            steps=self.steps,
            seeds=self.seeds,
            store=store_of(asked),
            told=lambda text: narration().print(text, markup=False),
        )
        page = write_coordinates(asked.name, found, self.folder or f"coordinates/{asked.name}")
        flat = is_flat(found)
        if self.json:
            figures = [dataclasses.asdict(each) for each in found]
            print_json({"flat": flat, "slopes": slopes(found), "coordinates": figures})
        else:
            _print(found, slopes(found))
            word = "flat" if flat else "NOT flat"
            output().print(f"muP is {word} over these widths. Page: {page}", markup=False)
        return DONE if flat else FAILED


def _print(found: "list[Found]", slopes: "dict[Parametrisation, dict[str, float]]") -> None:
    table = Table(title="change of activations (root mean square)", title_justify="left")
    for head in ("parametrisation", "width", *found[0].change):
        table.add_column(head, justify="left" if head == "parametrisation" else "right")
    for each in found:
        cells = (f"{value:.3g}" for value in each.change.values())
        table.add_row(each.parametrisation, str(each.width), *cells)
    for kind, powers in slopes.items():
        table.add_row(kind, "power", *(f"{power:+.2f}" for power in powers.values()))
    output().print(table)
