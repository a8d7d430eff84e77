"""`gesso report RUN [RUN ...]`: one HTML page about a run, or comparing several."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from gesso.launch.console import Refused, existing, output
from gesso.pretrain.exits import DONE


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page about a run, or one that compares several.

    It works while the run is still going on: the page shows what there is.

    Example:
      gesso report runs/quickstart
      gesso report runs/low-rate runs/high-rate --output rates.html
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders."""
    output: str = ""
    """Page to write; by default report.html in the run folder, or in the current one when
    comparing."""

    def run(self) -> int:
        if not self.runs:
            raise Refused("say which run: gesso report RUN [RUN ...]")
        folders = [run_folder(each) for each in self.runs]
        default = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
        path = Path(self.output) if self.output else default
        existing(str(path.parent), what="folder")
        from gesso.reports.report import write_report

        output().print(f"{write_report(folders, path)}", markup=False)
        return DONE


def run_folder(path: str) -> Path:
    """The run folder at `path`. Raises Refused where there is none, or something else."""
    folder = existing(path, what="run folder")
    if (folder / "experiment.json").is_file():
        return folder
    inside = sorted(each.parent for each in folder.glob("*/experiment.json"))[:3]
    hint = f"; did you mean {' or '.join(map(str, inside))}?" if inside else ""
    raise Refused(f"{path} is not a run folder: it has no experiment.json{hint}")
