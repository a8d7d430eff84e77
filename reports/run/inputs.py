"""What a run was made of: its corpus, the arrays of its model, and where it ran."""

import math
from typing import Any

from gesso.records.quantities import byte_size, short
from gesso.reports.facts import RunFacts, number, parameters
from gesso.reports.page import Row, Section, Share, Table, setting_text
from gesso.reports.plots import component_colors

_LETTERS = "V vocab, D embed, Z layers, N heads, K key/value heads, H head dim, F mlp, S positions"


def corpus(run: RunFacts) -> Section:
    colors = component_colors(run)
    totals = run.corpus.get("components")
    totals = totals if isinstance(totals, dict) else {}
    tokens = {name: run.tokens_of(name) for name in colors if name in totals}
    every = sum(tokens.values()) or math.nan

    def cells(name: str, get: Any) -> list[str]:
        train, size = get("train", "tokens"), get("train", "bytes")
        return [
            name,
            f"{get('train', 'documents'):,.0f}",
            short(train),
            f"{train / every:.1%}" if math.isfinite(every) else "n/a",
            byte_size(size),
            f"{size / train:.2f}" if train else "n/a",
            f"{get('holdout', 'documents'):,.0f}",
            short(get("holdout", "tokens")),
        ]

    def of(name: str) -> Any:
        return lambda *path: number(totals, name, *path, default=0.0)

    rows = [Row(cells=cells(name, of(name)), color=colors[name]) for name in tokens]
    whole = cells("All", lambda *path: sum(of(name)(*path) for name in tokens))
    heads = (
        "Component", "Documents", "Tokens", "Share", "Text", "Bytes / token", "Held-out documents",
        "Held-out tokens",
    )  # fmt: skip
    shares = [
        Share(label=f"{name}: {n / every:.1%} of tokens", weight=n / every, color=colors[name])
        for name, n in tokens.items()
        if n
    ]
    about = corpus_facts(run)
    return Section(
        key="corpus",
        title="Corpus",
        shares=shares,
        table=Table(heads=heads, rows=[*rows, Row(cells=whole, total=True)]) if rows else None,
        columns=about,
    )


def corpus_facts(run: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """[(title, facts)]: how well rows are filled and what was turned away; tokenizer and store."""
    padding, duplicates = (number(run.corpus, key) for key in ("padding", "duplicates"))
    rejects = run.corpus.get("rejects")
    quality, identity = [], []
    if math.isfinite(padding):
        quality.append(("Packing efficiency", f"{1 - padding:.2%} (padding {padding:.2%})"))
    if math.isfinite(duplicates):
        quality.append(("Duplicate documents", f"{duplicates:.2%}"))
    if isinstance(rejects, dict):
        total = sum(n for n in rejects.values() if isinstance(n, int))
        quality.append(("Lines set aside", f"{total:,}"))
        quality += [(f"· {reason}", setting_text(n)) for reason, n in rejects.items()]
    tokenizer = run.corpus.get("tokenizer")
    if isinstance(tokenizer, dict):
        identity += [
            (f"Tokenizer {key.replace('_', ' ')}", setting_text(value))
            for key, value in tokenizer.items()
        ]
    if "store" in run.corpus:
        identity.append(("Store fingerprint", setting_text(run.corpus["store"])))
    made = [("Packing and cleaning", quality), ("Tokenizer and store", identity)]
    return [(title, pairs) for title, pairs in made if pairs]


def model(run: RunFacts) -> Section:
    total = parameters(run)
    rows = [
        Row(
            cells=[
                setting_text(row.get("name")),
                setting_text(row.get("letters")),
                " × ".join(setting_text(n) for n in row.get("shape") or []) or "scalar",
                f"{number(row, 'count', default=0.0):,.0f}",
                f"{number(row, 'count', default=0.0) / total:.1%}" if total else "n/a",
            ]
        )
        for row in run.parameters
    ]
    rows.append(Row(cells=["All", "", "", f"{total:,.0f}", ""], total=True))
    table = Table(heads=("Parameter", "Dims", "Shape", "Count", "Share"), rows=rows, text=(0, 1))
    return Section(
        key="model",
        title="Model",
        text=f"{total:,.0f} parameters in {len(run.parameters)} arrays. Dims: {_LETTERS}."
        if run.parameters
        else "",
        folded=[("Parameter table", table)] if run.parameters else [],
    )


def environment(run: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """[(title, facts)]: where it ran, and with which versions."""
    place, versions = [], []
    for key, value in run.environment.items():
        if key == "versions" and isinstance(value, dict):
            versions += [(str(name), setting_text(number_)) for name, number_ in value.items()]
        elif isinstance(value, dict):
            place += [
                (f"{key} {name}".replace("_", " "), setting_text(v)) for name, v in value.items()
            ]
        elif value:
            text = (
                " ".join(map(str, value))
                if key == "command" and isinstance(value, list)
                else setting_text(value)
            )
            place.append((key.replace("_", " "), text))
    made = [("Where", place), ("Versions", versions)]
    return [(title, pairs) for title, pairs in made if pairs]
