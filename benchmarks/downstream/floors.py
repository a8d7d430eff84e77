"""What needs no pretraining: the commonest label, and TF-IDF, fitted to the same training files.

Needs scikit-learn: pip install 'gesso[bench]'.
"""

# pyright: reportMissingImports=false

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def classification_floors(train: Path, heldout: Path, *, texts: Sequence[str]) -> dict[str, float]:
    """{"majority", "tfidf": accuracies, "tfidf_macro_f1"} of held-out records (jsonl with `texts`
    and "label").

    tfidf: words and pairs of words seen twice in training, logarithmic counts, logistic regression
    with scikit-learn's own strength; of two texts, features of each apart.
    """
    from scipy.sparse import hstack
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    known, asked = read(train), read(heldout)
    features = []
    for key in texts:
        vectorizer = _vectorizer(ngrams=2, least=2)
        fitted = vectorizer.fit_transform([each[key] for each in known])
        features.append((fitted, vectorizer.transform([each[key] for each in asked])))
    model = LogisticRegression(max_iter=2000)
    model.fit(hstack([each for each, _ in features]), [each["label"] for each in known])
    said = model.predict(hstack([each for _, each in features]))
    truth = np.array([each["label"] for each in asked])
    commonest, _ = Counter(each["label"] for each in known).most_common(1)[0]
    return {
        "majority": float(np.mean(truth == commonest)),
        "tfidf": float(np.mean(truth == said)),
        "tfidf_macro_f1": float(f1_score(truth, said, average="macro")),
    }


def choice_floors(texts: Sequence[str], questions: Path) -> dict[str, float]:
    """{"majority", "tfidf": accuracies} of questions as `gesso evaluate --choices` reads them.

    majority: always the same place, the best one. tfidf: the option most like the prompt, by the
    cosine of their words, which `texts` (of the training split) weigh; ties share.
    """
    asked = read(questions)
    vectorizer = _vectorizer(ngrams=1, least=1).fit(texts)
    prompts = vectorizer.transform([each["prompt"] for each in asked])
    options = vectorizer.transform([option for each in asked for option in each["options"]])
    right, at = [], 0
    for number, each in enumerate(asked):
        count = len(each["options"])
        alike = (options[at : at + count] @ prompts[number].T).toarray()[:, 0]
        at += count
        best = np.isclose(alike, alike.max())
        right.append(best[each["right"]] / best.sum())
    places = Counter(each["right"] for each in asked)
    return {"majority": max(places.values()) / len(asked), "tfidf": float(np.mean(right))}


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _vectorizer(*, ngrams: int, least: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Every run of word characters and every mark: "!" and "?" say something about a review.
    return TfidfVectorizer(
        ngram_range=(1, ngrams), min_df=least, sublinear_tf=True, token_pattern=r"\w+|[^\w\s]"
    )
