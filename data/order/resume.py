"""Whether a saved data state continues in the order asked for now, field by field."""

from collections.abc import Callable
from typing import Any

# What fixes an order and what it has gone through, as the JSON that a checkpoint keeps.
DataState = dict[str, Any]
# What each field's difference means, in a sentence.
EXPLAINED = {
    "tokenizer": "the store was made with another tokenizer",
    "store": "the store was built from other sources or settings",
    "mixture": "a change of the mixture is possible from the resumed row on: data.mixture.changes",
    "skip": "rows before the resumed one are past; to skip them go back to an earlier checkpoint",
    "consumed": "the mixture is drawn differently than when this was saved",
    "canary": "the store's files, its tokenizer or the code that orders rows have changed",
}


class StateDiffers(ValueError):  # noqa: N818  what happened, not what it is
    """A saved data state belongs to another order of rows."""


def check(
    state: DataState,
    settings: DataState,
    recompute: Callable[[int], DataState],
) -> int:
    """The next row of `state`, when this order agrees with all that lies before it.

    settings: the fields of the state that need no row; recompute(next_row): the others. Raises
    StateDiffers, naming the first field that differs with both values.
    """
    try:
        next_row = int(state["next_row"])
        saved = _past(state, next_row)
    except (KeyError, TypeError, ValueError) as error:
        raise StateDiffers(f"this is not a data state: {error!r}") from error
    _compare(saved, _past(settings, next_row), next_row)
    _compare(saved, _past(recompute(next_row), next_row), next_row)
    return next_row


def _compare(saved: DataState, now: DataState, next_row: int) -> None:
    for field, value in now.items():
        if field not in saved or saved[field] != value:
            hint = f" ({EXPLAINED[field]})" if field in EXPLAINED else ""
            raise StateDiffers(
                f"the data order cannot be continued from row {next_row}: `{field}` was"
                f" {saved.get(field, 'not saved')} and is now {value}{hint}"
            )


def _past(fields: DataState, next_row: int) -> DataState:
    # What of each field concerns the rows before next_row, in a form that compares with ==.
    past = {name: value for name, value in fields.items() if name != "next_row"}
    if "mixture" in past:
        past["mixture"] = [each for each in past["mixture"] if each["at"] < next_row]
    if "skip" in past:
        past["skip"] = [[a, min(b, next_row)] for a, b in past["skip"] if a < next_row]
    if "consumed" in past:
        rows = {name: each["rows"] for name, each in past["consumed"].items()}
        past["consumed"] = {name: n for name, n in rows.items() if n}
    return past
