"""Plain lines where there is no terminal, one live line where there is, readable numbers."""

import io

import pytest
from rich.console import Console

from gesso.records.progress import Progress, figures_of
from gesso.records.quantities import duration, short

RECORD = {
    "step": 1,
    "loss": 2.5,
    "tokens_per_second": 18_234.0,
    "mfu": None,
    "data_wait_fraction": 0.0012,
    "seconds_left": 192.0,
}


def test_plain_lines_are_few_and_end_with_the_last(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("gesso.records.progress.time.monotonic", lambda: clock[0])
    out = io.StringIO()
    with Progress(steps=30, name="demo", console=Console(file=out, width=200)) as progress:
        for step in range(1, 31):
            clock[0] += 1.0
            progress.update(RECORD | {"step": step})
        progress.message("saved [bold]step[/bold] 30")
    lines = out.getvalue().splitlines()
    assert [line.split()[2] for line in lines[:-1]] == ["1/30", "11/30", "21/30", "30/30"]
    assert lines[0].endswith("loss 2.5000  18.2k tokens/s  MFU n/a  data wait 0.1%  3m 12s left")
    assert lines[-1] == "saved [bold]step[/bold] 30", "text is never taken for markup"


def test_a_terminal_gets_a_live_line():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160)
    with Progress(steps=10, name="demo", console=console) as progress:
        progress.update(RECORD | {"step": 10})
    assert "10/10" in out.getvalue() and "loss 2.5000" in out.getvalue()


def test_figures_leave_out_what_is_not_there():
    assert figures_of({"step": 1}) == ""
    assert figures_of({"mfu": 0.5, "loss": float("nan")}) == "loss nan  MFU 50.0%"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (7, "7"), (0.5, "0.50"), (999, "999"), (1000, "1.00k"), (18234, "18.2k"),
        (999_499, "999k"), (999_999, "1.00M"), (1.5e9, "1.50B"), (6.05e12, "6.05T"),
        (float("inf"), "n/a"),
    ],
)  # fmt: skip
def test_short_numbers(number, text):
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0.4s"), (5, "5s"), (59, "59s"), (59.6, "1m 00s"), (192, "3m 12s"),
        (3599.7, "1h 00m"), (3912, "1h 05m"), (100_000, "27h 46m"), (273_600, "3d 4h"),
        (float("nan"), "n/a"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text
