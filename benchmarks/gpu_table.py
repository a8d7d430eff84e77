"""The results of gpu.sh as Markdown.

python -m benchmarks.gpu_table gpu.json [--page docs/performance.md]
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.page import table, write_section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", type=Path, help="put it into this page instead of printing it")
    asked = parser.parse_args()
    told = markdown(json.loads(asked.results.read_text()))
    if asked.page:
        write_section(asked.page, "gpu", told)
    else:
        print(told)


def markdown(results: Mapping[str, Any]) -> str:
    """All parts that have results, and what failed, was stopped or did not run."""
    e = results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
    parts = [f"{e['card']}; {e['date']}; commit {e['commit']}; {versions}."]
    if any(each["specification"]["tiny"] for each in results["jobs"].values()):
        parts.append("**Tiny shapes: this tried the script out, nothing here is a measurement.**")
    for part, write in (
        ("steps", steps),
        ("attention", attention),
        ("packs", packs),
        ("trace", traces),
    ):
        found = of_part(results, part)
        if found:
            parts.append(f"### {part.capitalize()}\n\n{write(found)}")
    open_jobs = [
        [name, each["status"], " ".join(each.get("log", "").split())[-240:]]
        for name, each in results["jobs"].items()
        if each["status"] != "ok"
    ]
    if open_jobs:
        parts.append("### Without a result\n\n" + table(["job", "status", "last lines"], open_jobs))
    return "\n\n".join(parts)


def of_part(results: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The jobs of one part, by name."""
    start = f"{part}/"
    return {k.removeprefix(start): v for k, v in results["jobs"].items() if k.startswith(start)}


def steps(found: Mapping[str, Any]) -> str:
    """One line per job; the ratio is to the fastest torch job of the same shape."""
    best: dict[str, float] = {}
    for each in found.values():
        figures, shape = each["figures"], each["specification"]["shape"]
        if "torch" in figures and "tokens_per_second" in figures:
            best[shape] = max(best.get(shape, 0.0), figures["tokens_per_second"])
    rows = []
    for name, each in found.items():
        f, shape = each["figures"], each["specification"]["shape"]
        if "tokens_per_second" not in f:
            continue
        rate = f["tokens_per_second"]
        ratio = f"{rate / best[shape]:.2f}" if shape in best else "n/a"
        timing = f["timing"]
        spread = (timing["highest"] - timing["lowest"]) / timing["median"]
        rows.append(
            [
                name,
                f"{1000 * f['seconds_per_step']:.1f}",
                f"{spread:.1%}",
                f"{rate:,.0f}",
                "n/a" if f["mfu"] is None else f"{f['mfu']:.1%}",
                "n/a" if f["peak_gib"] is None else f"{f['peak_gib']:.1f}",
                f.get("compile_seconds", ""),
                ratio,
            ]
        )
    head = [
        "job",
        "ms per step",
        "spread",
        "tokens/s",
        "MFU",
        "peak GiB",
        "compile s",
        "of the best torch",
    ]
    return table(head, rows)


def attention(found: Mapping[str, Any]) -> str:
    """Milliseconds of one layer's attention, forward and forward with backward."""
    rows = []
    for name, each in found.items():
        for variant, f in each["figures"].get("variants", {}).items():
            times = [
                f"{1000 * f[what]['median']:.3f}" if what in f else f.get("failed", "")[:80]
                for what in ("forward", "both")
            ]
            done = f.get("both", {}).get("teraflops", "")
            rows.append([name, each["figures"].get("shape", ""), variant, *times, done])
    head = ["job", "batch x length x heads x dim", "variant", "forward ms", "with backward ms"]
    return table([*head, "TFLOP/s with backward"], rows)


def packs(found: Mapping[str, Any]) -> str:
    """Largest errors against the published implementations' outputs."""
    rows = []
    for name, each in found.items():
        for family, f in each["figures"].get("packs", {}).items():
            if "failed" in f:
                rows.append([name, family, f["failed"][:120], "", "", "failed"])
                continue
            verdict = {True: "yes", False: "NO", None: ""}[f["passes"]]
            errors = [f"{f[key]:.1e}" for key in ("logits", "loss")]
            rows.append([name, family, *errors, f"{f['size']:.1f}", verdict])
    head = ["compute and attention", "family", "logit error", "loss error", "largest logit"]
    return table([*head, "within the pack's tolerance"], rows)


def traces(found: Mapping[str, Any]) -> str:
    """The costliest device operations of one step."""
    rows = [
        [name, each["milliseconds"], each["count"], each["name"]]
        for name, job in found.items()
        for each in job["figures"].get("operations", [])
    ]
    return table(["step", "ms", "times", "operation"], rows)


if __name__ == "__main__":
    main()
