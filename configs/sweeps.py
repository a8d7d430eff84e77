"""The sweeps by name: functions that say what they are for, as experiments are."""

from collections.abc import Callable

from gesso.configs.sweep import Range, Sweep
from gesso.settings.nearest import did_you_mean


def debug_rates() -> Sweep:
    """Learning rates and warmups of the toy GPT-Neo: 6 runs of seconds.

    gesso sweep debug-rates --parallel 2
    """
    return Sweep(
        name="debug-rates",
        experiment="debug-gpt-neo",
        fixed={"steps": 30, "evaluation.every_steps": 15, "evaluation.sample_every_steps": 0},
        space={
            "optimizer.learning_rate": (1e-3, 3e-3, 1e-2),
            "optimizer.schedule.warmup_steps": (2, 10),
        },
    )


def _width(embed: int) -> dict[str, int]:
    return {"model.embed": embed, "model.heads": embed // 16, "model.mlp": 4 * embed}


def debug_sizes() -> Sweep:
    """Twenty-four tiny GPT-2s, eight widths and depths by three lengths of training, for a fit of
    loss against parameters and tokens (https://arxiv.org/abs/2203.15556).

        gesso sweep debug-sizes --parallel 2
    """
    sizes = {
        f"{layers}x{embed}": {**_width(embed), "model.layers": layers}
        for layers, embed in (
            (1, 32), (2, 32), (2, 48), (2, 64), (4, 64), (2, 96), (4, 96), (4, 128),
        )
    }  # fmt: skip
    return Sweep(
        name="debug-sizes",
        experiment="debug-gpt2",
        fixed={"evaluation.sample_every_steps": 0, "optimizer.schedule.kind": "constant"},
        space={"size": sizes, "steps": (50, 100, 200)},
        metric="loss",
    )


def debug_search() -> Sweep:
    """A search that learns: rate, decay and warmup of the toy GPT-J, bad runs stopped early.

    gesso sweep debug-search --parallel 2
    """
    return Sweep(
        name="debug-search",
        experiment="debug-gpt-j",
        fixed={"steps": 60, "evaluation.every_steps": 15, "evaluation.sample_every_steps": 0},
        space={
            "optimizer.learning_rate": Range(low=3e-4, high=3e-2, scale="log"),
            "optimizer.weight_decay": Range(low=0.0, high=0.3),
            "optimizer.schedule.warmup_steps": (2, 5, 10),
        },
        method="tpe",
        trials=12,
        prune="median",
    )


SWEEPS: dict[str, Callable[[], Sweep]] = {
    "debug-rates": debug_rates,
    "debug-sizes": debug_sizes,
    "debug-search": debug_search,
}


def sweep(name: str) -> Sweep:
    """The sweep of that name. ValueError with the nearest ones, or with what contradicts itself."""
    if name not in SWEEPS:
        hint = did_you_mean(name, SWEEPS, most=2, show=str, otherwise=f"known: {', '.join(SWEEPS)}")
        raise ValueError(f"no sweep {name!r}{hint}")
    made = SWEEPS[name]()
    if problems := made.problems():
        raise ValueError(f"sweep {name!r}: {'; '.join(problems)}")
    return made
