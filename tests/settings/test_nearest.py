"""The nearest known names to a mistyped one, and how "did you mean" is said."""

from pathlib import Path

from gesso.settings.nearest import did_you_mean, nearest

KNOWN = ("pretrain", "report", "finetune")


def test_the_nearest_come_first_and_far_ones_not_at_all():
    assert nearest("pretrian", KNOWN) == ["pretrain"]
    assert nearest("zzz", KNOWN) == []
    assert nearest("aab", ("aaa", "aab", "aabb"), most=2) == ["aab", "aabb"]
    assert nearest("12", (1, 12, None)) == ["12"]


def test_a_hint_follows_what_is_wrong_or_is_nothing():
    assert did_you_mean("pretrian", KNOWN) == "; did you mean 'pretrain'?"
    assert did_you_mean("zzz", KNOWN) == ""
    assert did_you_mean("zzz", KNOWN, otherwise="known: none") == "; known: none"
    assert did_you_mean("reportt", ("report", "reports"), most=2, show=str) in (
        "; did you mean report or reports?",
        "; did you mean reports or report?",
    )
    shown = did_you_mean("a.jsonl", ["b.jsonl"], show=lambda name: str(Path("in", name)))
    assert shown == "; did you mean in/b.jsonl?"
