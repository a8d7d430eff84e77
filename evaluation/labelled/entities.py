"""Entity F1: spans of tags that must agree in type, start and end."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gesso.evaluation.labelled.classification import binary_f1
from gesso.evaluation.sums import ratio


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first, last + 1) of the entities in a sentence's tags, in order.

    Tags are O or PREFIX-TYPE with the prefixes B, I, E, S (IOB1, IOB2, IOBES), read as conlleval
    does: an I or E that continues nothing of its type starts an entity. ValueError for another tag.
    """
    spans: list[tuple[str, int, int]] = []
    start, kind, ended = 0, "", True
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, new = tag.partition("-")
        if prefix not in tuple("OBIES") or (prefix == "O") != (not new):
            raise ValueError(
                f"{tag!r} is not a tag; tags are O or one of B-, I-, E-, S- and a type"
            )
        begins = prefix in "BS" or (prefix in "IE" and (ended or new != kind))
        if not ended and (prefix == "O" or begins):
            spans.append((kind, start, place))
            ended = True
        if begins:
            start, kind, ended = place, new, False
        if prefix in "ES":
            spans.append((kind, start, place + 1))
            ended = True
    return spans


def entity_counts(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, Counter[str]]:
    """{"right", "called", "support": entities per type} of one sentence. Add over sentences with
    `add_entities`. ValueError for sentences of unequal length."""
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} target tags and {len(predictions)} predicted ones")
    truth, called = set(entity_spans(targets)), set(entity_spans(predictions))

    def by_type(spans: set[tuple[str, int, int]]) -> Counter[str]:
        return Counter(kind for kind, _, _ in spans)

    return {"right": by_type(truth & called), "called": by_type(called), "support": by_type(truth)}


def add_entities(*parts: Mapping[str, Counter[str]]) -> dict[str, Counter[str]]:
    """The counts of all parts."""
    return {
        name: sum((part[name] for part in parts), Counter())
        for name in ("right", "called", "support")
    }


def entity_f1(counts: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """{"precision", "recall", "f1"} over all entities (micro), "macro_f1" over types, and
    "types": {type: the three and "support"}. 0/0 is 0."""
    right, called, support = counts["right"], counts["called"], counts["support"]
    types = {
        kind: binary_f1(right[kind], called[kind], support[kind]) | {"support": support[kind]}
        for kind in sorted(called.keys() | support.keys())
    }
    return {
        **binary_f1(right.total(), called.total(), support.total()),
        "macro_f1": ratio(sum(each["f1"] for each in types.values()), len(types), empty=0.0),
        "types": types,
    }
