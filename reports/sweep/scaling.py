"""A scaling law through the ends of many runs, with what the runs cannot tell said as such.

    L(N, D) = E + A / N^a + B / D^b

N: parameters that multiply. D: tokens trained on. Fitted as in https://arxiv.org/abs/2203.15556,
approach 3: Huber loss of the logarithms, from a grid of starts. Intervals: bootstrapped over runs.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Form = Literal["irreducible", "none"]  # with an irreducible loss E, or without
_HUBER = 1e-3  # Hoffmann et al.'s, of the logarithm of the loss
_EARNED = 0.9  # E must lower the error at runs left out by a tenth
_NAMES = ("E", "A", "a", "B", "b")


@dataclass(frozen=True, kw_only=True)
class Point:
    """The end of one run. parameters, tokens: N and D. loss: nats per token, held out."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Law:
    """A fitted law. values: {"E", "A", "a", "B", "b"}. samples: the same of bootstraps, [n, 5].
    sizes: the least and the most parameters that `optimum` considers, what was run and up to 4
    times as much; longest: the most tokens, likewise. left_out: mean relative error at runs the fit
    did not see, of each form. error: at those it saw."""

    form: Form
    values: dict[str, float]
    samples: np.ndarray = field(repr=False)
    sizes: tuple[float, float]
    longest: float
    left_out: dict[Form, float]
    error: float

    def loss(self, parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The law's loss, nats per token; arrays broadcast."""
        return _law(np.array([self.values[name] for name in _NAMES]), parameters, tokens)

    def band(
        self, parameters: np.ndarray, tokens: np.ndarray, *, level: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of the bootstrapped laws around `loss`."""
        every = np.stack([_law(each, parameters, tokens) for each in self.samples])
        low, high = np.quantile(every, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def interval(self, name: str, *, level: float = 0.9) -> tuple[float, float]:
        """Where the bootstraps put one of the values."""
        column = self.samples[:, _NAMES.index(name)]
        low, high = np.quantile(column, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def optimum(self, flops: float) -> dict[str, tuple[float, float, float]]:
        """{"parameters", "tokens", "loss": (value, low, high)}: the best use of a budget within
        `sizes` and `longest`, where a token costs 6 FLOPs per parameter."""
        sizes = max(self.sizes[0], flops / 6 / self.longest), self.sizes[1]
        sizes = min(sizes), sizes[1]
        own = _optimum(np.array([self.values[name] for name in _NAMES]), flops, sizes)
        every = np.array([_optimum(each, flops, sizes) for each in self.samples])
        low, high = np.nanquantile(every, [0.05, 0.95], axis=0)
        names = ("parameters", "tokens", "loss")
        return {n: (float(own[i]), float(low[i]), float(high[i])) for i, n in enumerate(names)}


def fit(points: Sequence[Point], *, bootstraps: int = 200, seed: int = 0) -> Law:
    """The law of these runs, with E only where that predicts runs left out clearly better.

    Raises ValueError where the runs cannot carry it: under 8 of them, under 3 sizes, or all of one
    length.
    """
    if wrong := problems(points):
        raise ValueError(f"no scaling law through these runs: {wrong}")
    n, d, loss = _arrays(points)
    forms: tuple[Form, ...] = ("irreducible", "none")
    solved = {form: _best(n, d, loss, form) for form in forms}
    left_out: dict[Form, float] = {
        form: _leave_one_out(n, d, loss, form, solved[form]) for form in forms
    }
    # The simpler form unless E earns its place: within a few percent the two cannot be told apart.
    form: Form = "irreducible" if left_out["irreducible"] < _EARNED * left_out["none"] else "none"
    draw = np.random.default_rng(seed)
    samples = []
    while len(samples) < bootstraps:
        chosen = draw.integers(len(loss), size=len(loss))
        again = [points[i] for i in chosen]
        if not problems(again):
            samples.append(
                _values(_solve(n[chosen], d[chosen], loss[chosen], form, solved[form])[0], form)
            )
    theta = _values(solved[form], form)
    predicted = _law(theta, n, d)
    return Law(
        form=form,
        values={name: float(value) for name, value in zip(_NAMES, theta, strict=True)},
        samples=np.array(samples),
        sizes=(float(n.min()), 4 * float(n.max())),
        longest=4 * float(d.max()),
        left_out=left_out,
        error=float(np.mean(np.abs(predicted / loss - 1))),
    )


def problems(points: Sequence[Point]) -> str:
    """Why no law can be fitted; "" when one can."""
    sizes, lengths = {p.parameters for p in points}, {p.tokens for p in points}
    told = []
    if len(points) < 8:
        told.append(f"{len(points)} finished runs, 8 are needed")
    if len(sizes) < 3:
        told.append(f"{len(sizes)} sizes of model, 3 are needed")
    if len(lengths) < 2:
        told.append("all are of one length, 2 are needed")
    return "; ".join(told)


def variance_shares(
    choices: Sequence[Mapping[str, object]], metric: Sequence[float]
) -> dict[str, float]:
    """{setting: the share of the metric's variance that its values explain alone}, 0 to 1, largest
    first. A setting with more than 8 numbers is cut into quarters. (Eta squared; it is biased
    upwards where there are few runs for each value.)
    """
    y = np.asarray(metric, np.float64)
    total = float(((y - y.mean()) ** 2).sum())
    found = {}
    for name in dict.fromkeys(name for choice in choices for name in choice):
        values = [choice.get(name) for choice in choices]
        if len(set(map(str, values))) > 8 and all(isinstance(v, int | float) for v in values):
            column = np.asarray(values, np.float64)
            groups = np.searchsorted(np.quantile(column, [0.25, 0.5, 0.75]), column).tolist()
        else:
            groups = list(map(str, values))
        within = sum(
            float(((y[members] - y[members].mean()) ** 2).sum())
            for group in set(groups)
            if (members := [i for i, each in enumerate(groups) if each == group])
        )
        found[name] = 1 - within / total if total > 0 else 0.0
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _arrays(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.array([(p.parameters, p.tokens, p.loss) for p in points], np.float64)
    return rows[:, 0], rows[:, 1], rows[:, 2]


def _law(theta: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    e, a, alpha, b, beta = theta
    return e + a * n**-alpha + b * d**-beta


def _optimum(
    theta: np.ndarray, flops: float, sizes: tuple[float, float]
) -> tuple[float, float, float]:
    _, a, alpha, b, beta = np.maximum(theta, 1e-12)
    # In logarithms: where a term hardly falls, its optimum is astronomically far away.
    ratio = np.log(alpha * a / (beta * b)) / (alpha + beta)
    n = np.exp(np.clip(ratio + np.log(flops / 6) * beta / (alpha + beta), *np.log(sizes)))
    d = flops / 6 / n
    return n, d, float(_law(theta, n, d))


def _values(x: np.ndarray, form: Form) -> np.ndarray:
    """What is solved for, logarithms of E, A and B at the middle run, as the law's values."""
    e = np.exp(x[4]) if form == "irreducible" else 0.0
    return np.array([e, np.exp(x[0]), x[1], np.exp(x[2]), x[3]])


def _solve(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, form: Form, start: np.ndarray
) -> tuple[np.ndarray, float]:
    """(solution, cost) from one start. The unknowns: log A, a, log B, b, and log E if any."""
    from scipy.optimize import least_squares

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.log(_law(_values(x, form), n, d)) - np.log(loss)

    def slopes(x: np.ndarray) -> np.ndarray:
        e, a, alpha, b, beta = _values(x, form)
        by_size, by_length = a * n**-alpha, b * d**-beta
        columns = [by_size, -by_size * np.log(n), by_length, -by_length * np.log(d)]
        columns += [np.full_like(n, e)] if form == "irreducible" else []
        return np.stack(columns, axis=1) / (e + by_size + by_length)[:, None]

    low, high = [-20.0, 0.0, -20.0, 0.0, -20.0], [60.0, 3.0, 60.0, 3.0, float(np.log(loss.min()))]
    count = 5 if form == "irreducible" else 4
    bounds = (np.array(low[:count]), np.array(high[:count]))
    inside = np.clip(start[:count], bounds[0] + 1e-9, bounds[1] - 1e-9)
    solved = least_squares(
        residuals,
        inside,
        jac=slopes,  # pyright: ignore[reportArgumentType]  the stubs know names only
        bounds=bounds,
        loss="huber",
        f_scale=_HUBER,
        x_scale="jac",
        max_nfev=300,
    )
    return solved.x, float(solved.cost)


def _best(n: np.ndarray, d: np.ndarray, loss: np.ndarray, form: Form) -> np.ndarray:
    """The best of a grid of starts; each term starts as a share of the middle run's loss."""
    middle = np.exp([np.log(each).mean() for each in (n, d, loss)])
    found = []
    for a, b, least in itertools.product((0.1, 0.4), (0.1, 0.4), (0.1, 0.5)):
        rest = middle[2] * (1 - least if form == "irreducible" else 1) / 2
        first = np.log(rest) + a * np.log(middle[0]), a, np.log(rest) + b * np.log(middle[1]), b
        found.append(_solve(n, d, loss, form, np.array([*first, np.log(least * middle[2])])))
    return min(found, key=lambda each: each[1])[0]


def _leave_one_out(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, form: Form, start: np.ndarray
) -> float:
    errors = []
    for i in range(len(loss)):
        keep = np.arange(len(loss)) != i
        x, _ = _solve(n[keep], d[keep], loss[keep], form, start)
        errors.append(abs(float(_law(_values(x, form), n[i], d[i])) / loss[i] - 1))
    return float(np.mean(errors))
