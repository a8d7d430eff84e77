"""A language model of film reviews taken to speeches, beside one that begins there, at equal steps:
held-out bits per byte of the speeches on the way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.downstream.commands import Commands, evaluations
from benchmarks.downstream.models import Sizes, quiet

# Each start has the better rate of its first seed, by the same held-out text: the same freedom for
# both. The other seeds are of that rate.
RATES = (1e-3, 4e-3)
SEEDS = 2
EVERY, ROWS = 20, 48
# Updates on the reviews for each one on the speeches, of rows of the same length.
BEFORE = 3
STARTS = ("scratch", "adapted")


def adaptation(commands: Commands, folder: Path, sizes: Sizes, told: Any) -> dict[str, Any]:
    """{"rates": {start: the better one}, "curves": {start: [[[step, bits per byte], ...] of each
    seed]}, "all": {start: {rate: [last bits per byte per seed]}}, "before", "baselines", "source":
    bits per byte of the reviews before and after, ...}. Reads folder/files/speeches."""
    place, files = folder / "adaptation", folder / "files"
    reviews, speeches = (files / name / "train.jsonl" for name in ("movie_reviews", "speeches"))
    tokenizer = place / "tokenizer"
    told("adaptation, stores")
    commands.tokenizer(tokenizer, [reviews], vocab=sizes.vocab)
    stores = {"reviews": (reviews, 0.05), "speeches": (speeches, 0.2)}
    for name, (texts, holdout) in stores.items():
        commands(
            *("corpus", "build", texts, "--folder", place / name, "--component-key", ""),
            *("--tokenizer", tokenizer, "--holdout", holdout),
        )
    shape = {
        **sizes.model,
        "model.positions": sizes.length // 2,
        "length": sizes.length // 2,
        "batch": sizes.batch,
    }
    source = place / "source"
    told("adaptation, reviews")
    steps = sizes.adaptation_steps
    pretraining = {**shape, "data.store": place / "reviews", **quiet(BEFORE * steps)}
    commands.run("pretrain", "debug-gpt2", source, pretraining)
    curves: dict[str, dict[str, list[Any]]] = {start: {} for start in STARTS}

    def measure(start: str, rate: float, seed: int) -> None:
        told(f"adaptation, {start} at {rate:g}, seed {seed}")
        settings = {
            **shape,
            "data.store": place / "speeches",
            **quiet(steps),
            "optimizer.learning-rate": rate,
            "evaluation.every-steps": min(EVERY, steps),
            "evaluation.rows": ROWS,
            "seed": seed,
            "data.seed": seed,
        }
        folder = _run(place, start, rate, seed)
        begin = {"start": source} if start == "adapted" else {}
        commands.run("finetune" if begin else "pretrain", "debug-gpt2", folder, begin | settings)
        curve = [[each["step"], each["bits_per_byte"]] for each in evaluations(folder)]
        curves[start].setdefault(f"{rate:g}", []).append(curve)

    best = {}
    for start in STARTS:
        for rate in RATES:
            measure(start, rate, 0)
        best[start] = min(RATES, key=lambda rate: curves[start][f"{rate:g}"][0][-1][1])
        for seed in range(1, SEEDS):
            measure(start, best[start], seed)
    told("adaptation, evaluations")
    rows = ("--rows", ROWS)
    zero_shot = commands.json("evaluate", source, "--store", place / "speeches", *rows)
    after = _run(place, "adapted", best["adapted"], 0)
    of_source = [
        commands.json(
            *("evaluate", run, "--store", place / "reviews", *rows, "--baselines", "skip")
        )["bits_per_byte"]
        for run in (source, after)
    ]
    return {
        "rates": best,
        "curves": {start: curves[start][f"{best[start]:g}"] for start in STARTS},
        "all": {
            start: {rate: [curve[-1][1] for curve in each] for rate, each in made.items()}
            for start, made in curves.items()
        },
        "before": zero_shot["bits_per_byte"],
        "baselines": zero_shot["baselines"],
        "source": {"before": of_source[0], "after": of_source[1]},
        "bytes": zero_shot["bytes"],
        "steps": steps,
        "tokens_per_step": sizes.batch * sizes.length // 2,
        "steps_before": BEFORE * steps,
    }


def _run(place: Path, start: str, rate: float, seed: int) -> Path:
    return place / f"{start}-{rate:g}-{seed}"


def drawn(found: Mapping[str, Any], path: Path) -> None:
    """The curves as a PNG: a line per seed, and what a byte 3-gram of the speeches has."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=140, layout="constrained")
    looks = {"scratch": ("#b3541e", "from scratch"), "adapted": ("#1f6f8b", "begun with reviews")}
    for start, (color, label) in looks.items():
        for seed, curve in enumerate(found["curves"][start]):
            points = ([[0, found["before"]]] if start == "adapted" else []) + curve
            named = f"{label} (rate {found['rates'][start]:g})" if seed == 0 else None
            axes.plot(*zip(*points, strict=True), color=color, marker="o", ms=4, label=named)
    for name, style in (("unigram", ":"), ("byte_3gram", "--")):
        if name in found["baselines"]:
            bits = found["baselines"][name]
            said = {"unigram": "unigram model", "byte_3gram": "byte 3-gram"}[name]
            axes.axhline(bits, color="#777777", ls=style, lw=1, label=f"{said} of the speeches")
    axes.set(
        xlabel=f"updates on speeches, of {found['tokens_per_step']:,} tokens",
        ylabel="held-out bits per byte",
        title="State-of-the-Union speeches, held out",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
