"""Rows of torch's Linear and of norms, as most decoders since OPT have them."""

from gesso.export.tables.tables import Row


def linear(ours: str, theirs: str, layout: str, has_bias: bool) -> list[Row]:
    """A weight (torch keeps it output x input) and its bias, which is what it makes."""
    weight = Row(ours, f"{theirs}.weight", layout)
    makes = layout[: layout.index(")") + 1] if layout.startswith("(") else layout[0]
    return [weight, Row(f"{ours}_bias", f"{theirs}.bias", makes)] if has_bias else [weight]


def norm(ours: str, theirs: str, *, has_bias: bool = True) -> list[Row]:
    """A layer norm, or without a bias an RMS norm."""
    scale = Row(f"{ours}/scale", f"{theirs}.weight", "D")
    return [scale, Row(f"{ours}/bias", f"{theirs}.bias", "D")] if has_bias else [scale]
