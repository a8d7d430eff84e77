"""The nearest of the known names to a mistyped one, for "did you mean"."""

import difflib
from collections.abc import Callable, Iterable


def nearest(
    asked: str, known: Iterable[object], *, most: int = 1, cutoff: float = 0.6
) -> list[str]:
    """Up to `most` of the known names that resemble `asked`, the nearest first.

    known: names (or what str makes one of). cutoff: difflib's ratio, from 0 to 1 (equal).
    """
    return difflib.get_close_matches(asked, list(map(str, known)), n=most, cutoff=cutoff)


def did_you_mean(
    asked: str,
    known: Iterable[object],
    *,
    most: int = 1,
    cutoff: float = 0.6,
    show: Callable[[str], str] = repr,
    otherwise: str = "",
) -> str:
    """`; did you mean 'x' or 'y'?`, to follow what is wrong; "; " and `otherwise` where no known
    name is near, and nothing where that is empty too. show: how a name is written."""
    if near := nearest(asked, known, most=most, cutoff=cutoff):
        return f"; did you mean {' or '.join(map(show, near))}?"
    return f"; {otherwise}" if otherwise else ""
