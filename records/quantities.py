"""Quantities as people read them: 1.23M, 3m 12s, 15.8 MB, 41.0%."""

import math
from typing import Literal

NOT_KNOWN = "n/a"
Unit = Literal["number", "percent", "short"]


def short(number: float) -> str:
    """1234567 -> "1.23M": three significant digits and a power of thousand."""
    if not math.isfinite(number):
        return NOT_KNOWN
    for power, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999,999 is 1.00M, not 1000k: round to the three digits shown before choosing.
        if abs(number) >= power * 0.9995:
            return f"{_three_digits(number / power)}{suffix}"
    return f"{number:.0f}" if number == int(number) else _three_digits(number)


def tick(value: float) -> str:
    """1500 -> "1.5k", as axes show it: `short` without the digits a round number does not need."""
    text = short(value)
    body, suffix = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    return (body.rstrip("0").rstrip(".") if "." in body else body) + suffix


def duration(seconds: float) -> str:
    """3912 -> "1h 05m"; under an hour "3m 12s"; under a minute "12s"; over two days "3d 4h"."""
    if not math.isfinite(seconds):
        return NOT_KNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s" if whole >= 10 or seconds == whole else f"{seconds:.1f}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if hours < 1:
        return f"{minutes}m {whole % 60:02d}s"
    if days < 2:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{days}d {hours % 24}h"


def byte_size(count: float) -> str:
    """15800000 -> "15.8 MB"."""
    text = short(count)
    prefixes = {"k": "k", "M": "M", "B": "G", "T": "T"}
    return f"{text[:-1]} {prefixes[text[-1]]}B" if text[-1:] in prefixes else f"{text} B"


def value_text(value: float, form: Unit) -> str:
    """A value as tables and legends show it."""
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else "∞"
    if form == "percent":
        return f"{value:.2%}" if abs(value) < 0.01 else f"{value:.1%}"
    if form == "short":
        return short(value)
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) < 0.1:
        return f"{value:.4g}"
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def _three_digits(number: float) -> str:
    digits = 0 if abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f}"
