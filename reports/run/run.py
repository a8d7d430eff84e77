"""The page of one run: verdict, curves, held-out figures, samples, corpus, model, settings."""

from gesso.reports.facts import RunFacts
from gesso.reports.page import Page, Section, groups
from gesso.reports.run.curves import heldout, training
from gesso.reports.run.evaluations import layers, tasks
from gesso.reports.run.hosts import hosts
from gesso.reports.run.inputs import corpus, environment, model
from gesso.reports.run.labelled import task
from gesso.reports.run.samples import samples
from gesso.reports.run.summary import hero, lede, stats, status, warnings, when
from gesso.reports.run.terms import terms


def run_page(run: RunFacts, version: str) -> Page:
    """The page of one run; sections without facts are left out."""
    sections = (
        training(run),
        task(run),
        heldout(run),
        terms(run),
        tasks(run),
        layers(run),
        samples(run),
        corpus(run),
        model(run),
        hosts(run),
        Section(
            key="experiment",
            title="Experiment",
            text="Every setting, resolved: this record alone says how to run it again.",
            trees=[("", groups(run.experiment))] if run.experiment else [],
        ),
        Section(key="environment", title="Environment", columns=environment(run)),
    )
    return Page(
        title=run.name,
        lede=lede(run),
        when=when(run),
        version=version,
        status=status(run),
        hero=hero(run),
        stats=stats(run),
        warnings=warnings(run),
        sections=[section for section in sections if _says_something(section)],
    )


def _says_something(section: Section) -> bool:
    return any(
        (
            section.figures,
            section.table,
            section.timeline,
            section.columns,
            section.folded,
            section.trees,
        )
    )
