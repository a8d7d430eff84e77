"""Tasks known by name: what their fields are called in the files that they come in.

GLUE (https://arxiv.org/abs/1804.07461) and SuperGLUE (https://arxiv.org/abs/1905.00537) as their
own downloads and as the hub's and tfds's copies have them. COPA and ReCoRD choose among texts: they
are rank classification (gesso evaluate --choices).
"""

from dataclasses import dataclass

from gesso.data.labelled.store import Kind


@dataclass(frozen=True, kw_only=True)
class Fields:
    """One way a task's files name its fields: texts (or templates), the label, words of tags."""

    texts: tuple[str, ...] = ()
    label: str = "label"
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A task. fields: the ways its files are, of which the first that a record has is taken.
    labels: names, by id; also what stands for them, beside their numbers and `values` (a tuple per
    label). columns: of tables without a header, with this many columns. empty: a second text may be
    missing."""

    kind: Kind
    fields: tuple[Fields, ...]
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    columns: tuple[str, ...] = ()


def _pair(first: str, second: str, label: str = "label") -> Fields:
    return Fields(texts=(first, second), label=label)


def _one(text: str, label: str = "label") -> Fields:
    return Fields(texts=(text,), label=label)


_TRUTH = (("false", "no"), ("true", "yes"))
_ENTAILED = ("entailment", "not_entailment")
_NLI = (_pair("premise", "hypothesis"), _pair("sentence1", "sentence2"),
        _pair("sentence1", "sentence2", "gold_label"))  # fmt: skip
_TEXT = (_one("text"), _one("sentence"))
_PAIRS = (*_NLI, _pair("question", "sentence"), _pair("question1", "question2"))

SHAPES: dict[str, Shape] = {
    "classify": Shape(kind="classify", fields=(*_PAIRS, *_TEXT)),
    "regress": Shape(
        kind="regress", fields=(_pair("sentence1", "sentence2", "score"), *_PAIRS, *_TEXT)
    ),
    "tag": Shape(
        kind="tag",
        fields=tuple(
            Fields(words=words, label=tags)
            for words in ("words", "tokens")
            for tags in ("tags", "ner_tags", "pos_tags", "labels")
        ),
    ),
    "qa": Shape(kind="qa", fields=(Fields(texts=("question", "context"), label="answers"),)),
    "cola": Shape(
        kind="classify",
        fields=(_one("sentence"),),
        labels=("unacceptable", "acceptable"),
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": Shape(
        kind="classify", fields=(_one("sentence"), _one("text")), labels=("negative", "positive")
    ),
    "mrpc": Shape(
        kind="classify",
        fields=(_pair("#1 String", "#2 String", "Quality"), _pair("sentence1", "sentence2")),
        labels=("not_equivalent", "equivalent"),
    ),
    "qqp": Shape(
        kind="classify",
        fields=(_pair("question1", "question2", "is_duplicate"), _pair("question1", "question2")),
        labels=("not_duplicate", "duplicate"),
    ),
    "stsb": Shape(
        kind="regress",
        fields=(_pair("sentence1", "sentence2", "score"), _pair("sentence1", "sentence2")),
    ),
    "mnli": Shape(
        kind="classify", fields=tuple(reversed(_NLI)),
        labels=("entailment", "neutral", "contradiction"),
    ),
    "snli": Shape(
        kind="classify", fields=tuple(reversed(_NLI)),
        labels=("entailment", "neutral", "contradiction"),
    ),
    "qnli": Shape(kind="classify", fields=(_pair("question", "sentence"),), labels=_ENTAILED),
    "rte": Shape(kind="classify", fields=_NLI, labels=_ENTAILED),
    "wnli": Shape(
        kind="classify", fields=(_pair("sentence1", "sentence2"),), labels=("no", "yes")
    ),
    "boolq": Shape(
        kind="classify",
        fields=(_pair("question", "passage"), _pair("question", "passage", "answer")),
        labels=("no", "yes"),
        values=_TRUTH,
    ),
    "cb": Shape(
        kind="classify", fields=_NLI, labels=("entailment", "contradiction", "neutral")
    ),
    "multirc": Shape(
        kind="classify",
        fields=(_pair("paragraph", "{question} {answer}"), _pair("passage", "{question} {answer}")),
        labels=("wrong", "right"),
        values=_TRUTH,
    ),
    "wic": Shape(
        kind="classify",
        fields=(_pair("{word}: {sentence1}", "sentence2"),),
        labels=("different", "same"),
        values=_TRUTH,
    ),
    "wsc": Shape(
        kind="classify",
        fields=(
            _pair("text", "{target.span2_text}: {target.span1_text}"),
            _pair("text", "{span2_text}: {span1_text}"),
        ),
        labels=("other", "same"),
        values=_TRUTH,
    ),
    "squad": Shape(kind="qa", fields=(Fields(texts=("question", "context"), label="answers"),)),
    "conll": Shape(kind="tag", fields=(Fields(words="words", label="tags"),)),
}  # fmt: skip
