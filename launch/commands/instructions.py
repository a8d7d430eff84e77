"""`gesso instructions templates|inspect|build`: see how examples are asked, then make a store."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from gesso.launch.console import Figures, Refused, existing, narration, output, print_json
from gesso.pretrain.exits import DONE
from gesso.settings.nearest import did_you_mean

if TYPE_CHECKING:
    from gesso.data.instructions.store import InstructionStore
    from gesso.finetune.instructions.config import InstructionsConfig
    from gesso.finetune.instructions.templates import Family


@dataclass(frozen=True, kw_only=True)
class Templates:
    """Show the families of tasks: their fields, their labels, their templates.

    Example:
      gesso instructions templates
      gesso instructions templates entailment translation
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Families to show in full; without any, one line for each."""
    templates: tuple[str, ...] = ()
    """Files of families of your own, beside ours."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        return run_templates(self)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show examples as a model will see them, before it is trained: predicted text is coloured.

    Of a recipe the first examples of every source are rendered; of a store made by `gesso
    instructions build` whole packed rows are shown, from the first one on.

    Example:
      gesso instructions inspect recipe.toml --examples 2
      gesso instructions inspect my-instructions --length 512
    """

    path: tyro.conf.Positional[str]
    """Recipe (.toml), or the folder of a store."""
    examples: int = 2
    """Examples of each source; of a store, rows."""
    length: int = 1024
    """Tokens of a store's rows."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        return run_inspect(self)


@dataclass(frozen=True, kw_only=True)
class Build:
    """Render and tokenize the examples of a recipe, once, into a store that runs train on.

    docs/instructions.md says what a recipe may hold. The same recipe and files give the same store;
    a second call returns at once. Records that are not examples are kept in rejects.jsonl.

    Example:
      gesso instructions build recipe.toml --folder my-instructions
    """

    recipe: tyro.conf.Positional[str]
    """Recipe (.toml)."""
    folder: str
    """Folder of the store to write."""
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        return run_build(self)


def read_recipe(path: str) -> "InstructionsConfig":
    """An InstructionsConfig out of a TOML file. Raises Refused, naming the setting that does not
    fit."""
    import cattrs

    from gesso.finetune.instructions.config import InstructionsConfig

    file = existing(path, what="recipe")
    try:
        record = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: {error}") from None
    converter = cattrs.Converter(forbid_extra_keys=True)
    try:
        config = converter.structure(record, InstructionsConfig)
    except (cattrs.BaseValidationError, TypeError) as error:
        problems = "; ".join(cattrs.transform_error(error, path="recipe"))
        raise Refused(f"{path} is no recipe: {problems}") from None
    return config


def run_templates(options: Templates) -> int:
    from rich.table import Table
    from rich.text import Text

    from gesso.finetune.instructions.templates import families, read_families

    known = families() | read_families(options.templates)
    for name in options.names:
        if name not in known:
            raise Refused(f"there is no family {name!r}{did_you_mean(name, known)}")
    chosen = {name: known[name] for name in options.names or sorted(known)}
    if options.json:
        print_json({name: _describe(family) for name, family in chosen.items()})
        return DONE
    console = output()
    if not options.names:
        table = Table(box=None)
        for title in ("cluster", "family", "fields", "templates", "inverted"):
            table.add_column(title, justify="right" if title[-1] == "s" != "fields" else "left")
        for family in sorted(chosen.values(), key=lambda each: (each.cluster, each.name)):
            fields = ", ".join(f.name + "?" * f.optional for f in family.fields.values())
            turned = sum(each.inverted for each in family.templates)
            counts = (str(len(family.templates)), str(turned))
            table.add_row(family.cluster, family.name, fields, *counts)
        console.print(table)
        return DONE
    for family in chosen.values():
        console.print(Text(f"\n{family.cluster} / {family.name}", style="bold"))
        for field in family.fields.values():
            console.print(f"  {field.name}: {field.type}{'?' * field.optional}", markup=False)
        if family.labels:
            console.print(f"  labels: {', '.join(family.labels)}", markup=False)
        for each in family.templates:
            turned = " (inverted)" if each.inverted else ""
            console.print(Text(f"\n{each.name}{turned}", style="cyan"))
            console.print(Text(each.prompt), Text(each.target, style="green"), sep="\n")
    return DONE


def run_inspect(options: Inspect) -> int:
    from gesso.data.instructions.store import is_instruction_store

    if is_instruction_store(existing(options.path, what="recipe or store")):
        return _inspect_store(options)
    from gesso.finetune.instructions.build import preview

    config, records = read_recipe(options.path), []
    for source in config.sources:
        for task, example, renderings in preview(config, source, examples=options.examples):
            for number, each in enumerate(renderings):
                # A chat's rendering is its spans.
                spans = (
                    [(span.text, span.predicted) for span in each]
                    if isinstance(each, list)
                    else [(each.prompt, False), (each.target, True)]
                )
                how = {} if isinstance(each, list) else {"form": each.form, "name": each.template}
                title = {"task": task.name, "place": example.place, "rendering": number, **how}
                records.append({**title, "spans": spans})
    if options.json:
        print_json(records)
    else:
        for record in records:
            spans = record.pop("spans")
            _show(" / ".join(str(value) for value in record.values()), spans)
    return DONE


def run_build(options: Build) -> int:
    from gesso.finetune.instructions.build import build_instructions

    config = read_recipe(options.recipe)
    store = build_instructions(
        config, options.folder, say=lambda line: narration().print(line, markup=False)
    )
    facts = {
        "folder": store.folder,
        "fingerprint": store.fingerprint,
        "components": store.totals(),
        "rejects": store.rejects(),
        "duplicates": store.duplicates(),
        "counts": store.record["counts"],
    }
    if options.json:
        print_json(facts)
    else:
        _show_store(store)
    return DONE


def _inspect_store(options: Inspect) -> int:
    import numpy as np

    from gesso.data.config import OrderConfig
    from gesso.data.instructions.order import InstructionOrder
    from gesso.data.instructions.store import InstructionStore

    store = InstructionStore(options.path)
    order = InstructionOrder(store, OrderConfig(length=options.length + 1))
    tokenizer, made, records = store.tokenizer(), order.rows(0, options.examples), []
    for row in range(options.examples):
        segments, weights = made["segments"][row], made["lm_weight"][row]
        for segment in range(1, int(segments.max()) + 1):
            here = np.flatnonzero(segments == segment)
            runs = np.split(here, np.flatnonzero(np.diff(weights[here] > 0)) + 1)
            spans = [
                (tokenizer.decode(made["tokens"][row, run]), bool(weights[run[0]] > 0))
                for run in runs
            ]
            cluster = order.components[made["component"][row]]
            records.append({"row": row, "cluster": cluster, "tokens": len(here), "spans": spans})
    if options.json:
        print_json({"rows": records, "cut": order.cut, "padding": order.padding()})
        return DONE
    _show_store(store)
    lost = order.cut
    output().print(
        f"at {options.length} tokens: {lost['prompts']:,} prompts and {lost['targets']:,} targets"
        f" of {lost['pieces']:,} renderings are cut; {order.padding():.1%} of a row is padding"
    )
    for record in records:
        _show(f"row {record['row']}, {record['cluster']}, {record['tokens']}", record["spans"])
    return DONE


def _show(title: str, spans: "Iterable[tuple[str, bool]]") -> None:
    from rich.text import Text

    console = output()
    console.print(Text(f"\n{title}", style="bold cyan"))
    console.print(Text.assemble(*((text, "green" if said else "") for text, said in spans)))


def _show_store(store: "InstructionStore") -> None:
    from rich.table import Table

    table = Table(title=str(store.folder), title_justify="left", box=None)
    for title in ("cluster", "examples", "held out", "tokens", "predicted"):
        table.add_column(title, justify="left" if title == "cluster" else "right")
    for name, splits in store.totals().items():
        train, held = splits["train"], splits["holdout"]
        cells = (train["documents"], held["documents"], train["tokens"], train["targets"])
        table.add_row(name, *(f"{each:,}" for each in cells))
    output().print(table)
    refused = store.rejects()
    if refused:
        listed = ", ".join(f"{reason} {n:,}" for reason, n in refused.items())
        output().print(f"refused (see {store.folder}/rejects.jsonl): {listed}", markup=False)


def _describe(family: "Family") -> Figures:
    return {
        "cluster": family.cluster,
        "fields": {f.name: f.type + "?" * f.optional for f in family.fields.values()},
        "labels": family.labels,
        "templates": [
            {"name": t.name, "prompt": t.prompt, "target": t.target, "inverted": t.inverted}
            for t in family.templates
        ],
    }
