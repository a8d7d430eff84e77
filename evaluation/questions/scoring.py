"""Written answers against references: exact match, token F1, BLEU, ROUGE, as sums per example.

Every function gives arrays of one row per example, which add (evaluation.sums.total) and of which
evaluation.bootstrap gives intervals: also of BLEU, which is not a mean over examples.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gesso.evaluation.sums import ratio

References = Sequence[Sequence[str]]
ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_INSTALL = "install the extra: pip install 'gesso[evaluate]'"


class MissingLibrary(ImportError, ValueError):
    """A missing library. The message names the extra that brings it."""


def normalise(text: str) -> str:
    """In lower case, without ASCII punctuation and English articles, single spaces: SQuAD 1.1."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def match_sums(answers: Sequence[str], references: References) -> dict[str, np.ndarray]:
    """{"exact", "f1", "count"}: per answer, the best over its references of equal normalised texts
    and of the F1 of their words as bags (SQuAD 1.1; two empty texts agree). Raises ValueError for
    an answer without a reference, as all functions here do."""
    rows = []
    for answer, known in _pairs(answers, references):
        given, truths = normalise(answer), [normalise(each) for each in known]
        rows.append((given in truths, max(_token_f1(given, truth) for truth in truths), 1.0))
    return _columns(rows, ("exact", "f1", "count"))


def match(sums: Mapping[str, Any]) -> dict[str, float]:
    """{"exact", "f1"} in 0..1 of added sums."""
    return {name: ratio(sums[name], sums["count"]) for name in ("exact", "f1")}


def bleu_sums(
    answers: Sequence[str], references: References, *, tokenize: str = "13a"
) -> dict[str, np.ndarray]:
    """{"matches", "ngrams": [n, 4], "length", "reference_length": [n]} per answer, the statistics
    of BLEU: how many n-grams are in a reference, how many there are, words, and the words of the
    reference of closest length. tokenize: sacrebleu's names. Raises MissingLibrary."""
    scorer = _sacrebleu().BLEU(tokenize=tokenize, effective_order=True)
    rows = []
    for answer, known in _pairs(answers, references):
        each = scorer.sentence_score(answer, list(known))
        rows.append((each.counts, each.totals, each.sys_len, each.ref_len))
    if not rows:
        return {name: np.zeros((0, 4)) for name in ("matches", "ngrams")} | {
            name: np.zeros(0) for name in ("length", "reference_length")
        }
    return _columns(rows, ("matches", "ngrams", "length", "reference_length"))


def bleu(sums: Mapping[str, Any]) -> float:
    """Corpus BLEU in 0..100 of added sums: equal to sacrebleu's corpus_bleu (exp smoothing)."""
    whole = {name: np.asarray(leaf).round().astype(int).tolist() for name, leaf in sums.items()}
    return (
        _sacrebleu()
        .BLEU.compute_bleu(
            whole["matches"],
            whole["ngrams"],
            sys_len=whole["length"],
            ref_len=whole["reference_length"],
            smooth_method="exp",
        )
        .score
    )


def rouge_sums(
    answers: Sequence[str], references: References, *, kinds: Sequence[str] = ROUGES
) -> dict[str, np.ndarray]:
    """{kind: f64[n], the F-measure of each answer, "count"} by rouge-score, without stemming; of
    several references the best. rougeLsum takes a line for a sentence. Raises MissingLibrary."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingLibrary(f"ROUGE needs rouge-score; {_INSTALL}") from error
    scorer = RougeScorer(list(kinds), use_stemmer=False)
    rows = []
    for answer, known in _pairs(answers, references):
        scores = [scorer.score(reference, answer) for reference in known]
        best = [max(score[kind].fmeasure for score in scores) for kind in kinds]
        rows.append((*best, 1.0))
    return _columns(rows, (*kinds, "count"))


def rouge(sums: Mapping[str, Any]) -> dict[str, float]:
    """{kind: mean F-measure in 0..1} of added sums."""
    return {name: ratio(leaf, sums["count"]) for name, leaf in sums.items() if name != "count"}


def _token_f1(answer: str, reference: str) -> float:
    given, truth = answer.split(), reference.split()
    if not given or not truth:
        return float(given == truth)
    shared = (Counter(given) & Counter(truth)).total()
    return 2 * shared / (len(given) + len(truth))


def _pairs(answers: Sequence[str], references: References) -> list[tuple[str, Sequence[str]]]:
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers and references of {len(references)}")
    for place, known in enumerate(references):
        if isinstance(known, str) or not known:
            raise ValueError(f"references {place} must be a list of at least one text: {known!r}")
    return list(zip(answers, references, strict=True))


def _columns(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> dict[str, np.ndarray]:
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {name: np.array(c, np.float64) for name, c in zip(names, columns, strict=True)}


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise MissingLibrary(f"BLEU needs sacrebleu; {_INSTALL}") from error
    return sacrebleu
