"""Records that do not become documents: why one is refused, and how many are tolerated.

A bad record never stops a build silently and never disappears: it is counted in its part's commit
record and kept, with its place and its first bytes, in the part's `.rejects.jsonl`.
"""

from collections import Counter
from typing import Literal, NamedTuple

HEAD_BYTES = 200

# Nothing is lost with these, so they count as accounted for but not against the cap.
HARMLESS = frozenset({"blank_record", "empty_text"})

REASONS = {
    "blank_record": "nothing but white space",
    "empty_text": "the text is empty",
    "oversize": "longer than max_document_bytes",
    "invalid_utf8": "not UTF-8",
    "bad_json": "not JSON",
    "not_an_object": "JSON, but not an object",
    "missing_key": "no text under text_key",
    "wrong_type": "text or component is not a string",
    "lone_surrogate": "half of a UTF-16 pair, which UTF-8 cannot hold",
    "not_encodable": "the tokenizer refused the text",
}

# A shard is judged on all its records so far, this often and at its end. Bad records come in runs,
# so judging earlier would stop shards that are fine as a whole.
JUDGE_EVERY = 10_000


class BuildError(ValueError):
    """A build that cannot go on. The message names the file and the place, and what to do."""


class Reject(NamedTuple):
    """A refused record. reason: a key of REASONS; head: its first bytes, for a person."""

    reason: str
    detail: str
    head: str


def reject(reason: str, detail: str, raw: bytes) -> Reject:
    """A Reject with the head of the raw record."""
    assert reason in REASONS, reason
    return Reject(reason, detail[:500], raw[:HEAD_BYTES].decode("utf-8", "replace"))


class RejectPolicy:
    """Judges one shard's rejects. It sees every record in order: its verdict is reproducible."""

    def __init__(
        self,
        source: str,
        *,
        on_bad_input: Literal["quarantine", "error"],
        cap: float,
        records: int,
        counts: dict[str, int],
    ) -> None:
        self.source = source
        self.on_bad_input = on_bad_input
        self.cap = cap
        self.records = records
        self.counts = Counter(counts)
        self.examples: list[str] = []

    def accept(self) -> None:
        """Count a document."""
        self._count_record()

    def refuse(self, reject: Reject, *, line: int) -> None:
        """Count a reject. Raises BuildError where the policy or the cap says so."""
        place = f"{self.source}:{line}: {reject.reason}: {reject.detail}"
        if self.on_bad_input == "error" and reject.reason not in HARMLESS:
            raise BuildError(
                f"{place}; repair the source, or set on_bad_input to 'quarantine' in a new folder"
            )
        if reject.reason not in HARMLESS and len(self.examples) < 3:
            self.examples.append(place)
        self.counts[reject.reason] += 1
        self._count_record()

    def judge(self) -> None:
        """Raises BuildError when the shard's rate of rejects is over the cap."""
        bad = sum(n for reason, n in self.counts.items() if reason not in HARMLESS)
        if bad <= self.cap * self.records:
            return
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in self.counts.most_common())
        examples = "; ".join(self.examples) or "see the .rejects.jsonl files of the store"
        raise BuildError(
            f"{self.source}: {bad:,} of {self.records:,} records are bad "
            f"({bad / self.records:.1%}), more than reject_cap {self.cap:.1%} allows "
            f"({reasons}). First ones: {examples}. Repair the source, correct text_key, "
            "or raise reject_cap; the build then continues"
        )

    def _count_record(self) -> None:
        self.records += 1
        if self.records % JUDGE_EVERY == 0:
            self.judge()
