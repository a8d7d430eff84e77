"""A run in phases: its first updates with shorter rows or other batches than its last ones."""

import dataclasses

from pretrain.experiment import Experiment


def phase_ends(experiment: Experiment) -> tuple[int, ...]:
    """The step each phase ends after; the last is the run's own."""
    return (*(phase.until for phase in experiment.phases), experiment.steps)


def phase_experiment(experiment: Experiment, phase: int) -> Experiment:
    """What trains in one phase; of the last, the experiment itself."""
    if phase == len(experiment.phases):
        return experiment
    chosen = experiment.phases[phase]
    return dataclasses.replace(
        experiment,
        length=chosen.length,
        batch=chosen.batch,
        microbatches=chosen.microbatches,
        phases=(),
    )


def phase_of_update(experiment: Experiment, step: int) -> int:
    """The phase that makes update number `step` (from 1)."""
    return next(k for k, end in enumerate(phase_ends(experiment)) if step <= max(end, 1))
