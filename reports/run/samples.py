"""What the model wrote as training went on: a run's samples as a timeline."""

import math

import numpy as np

from gesso.reports.facts import RunFacts, number
from gesso.reports.page import Moment, Sample, Section, Timeline

_MOMENTS = 6  # sampled steps seen at once; the others unfold


def samples(run: RunFacts) -> Section:
    by_step: dict[int, list[Sample]] = {}
    for record in run.samples:
        sample = Sample(prompt=str(record.get("prompt", "")), text=str(record.get("text", "")))
        by_step.setdefault(int(record["step"]), []).append(sample)
    bits = {int(r["step"]): number(r, "bits_per_byte") for r in run.evaluations}
    steps = sorted(by_step)
    moments = []
    for step in steps:
        known = math.isfinite(bits.get(step, math.nan))
        note = f"{bits[step]:.3f} bits per byte" if known else ""
        moments.append(
            Moment(title=f"Step {step:,}", note=note, samples=by_step[step], last=step == steps[-1])
        )
    chosen = set(np.linspace(0, len(steps) - 1, min(_MOMENTS, len(steps))).round().astype(int))
    timeline = [Timeline(moments=[moments[i] for i in sorted(chosen)])] if moments else []
    if len(steps) > _MOMENTS:
        timeline.append(Timeline(moments=moments, folded=f"All {len(steps)} sampled steps"))
    return Section(
        key="samples",
        title="Samples over training",
        text="The same text, and what the model made of it at each stage." if moments else "",
        timeline=timeline,
    )
