"""A run in parts: phases, with rows and batches of their own, or stages, which train other
parameters at other rates. One compiled step each."""

import dataclasses

from gesso.pretrain.experiment import Experiment


def phase_ends(experiment: Experiment) -> tuple[int, ...]:
    """The step each part ends after; the last is the run's own."""
    return (*(part.until for part in experiment.phases or experiment.stages), experiment.steps)


def phase_experiment(experiment: Experiment, phase: int) -> Experiment:
    """What trains in one part; of the last, the experiment itself."""
    if phase == len(phase_ends(experiment)) - 1:
        return experiment
    if experiment.stages:
        stage = experiment.stages[phase]
        rate = stage.learning_rate or experiment.optimizer.learning_rate
        return dataclasses.replace(
            experiment,
            trainable=stage.trainable,
            first_layer=stage.first_layer,
            optimizer=dataclasses.replace(
                experiment.optimizer, learning_rate=rate, schedule=stage.schedule
            ),
        )
    chosen = experiment.phases[phase]
    return dataclasses.replace(
        experiment,
        length=chosen.length,
        batch=chosen.batch,
        microbatches=chosen.microbatches,
        phases=(),
    )


def phase_of_update(experiment: Experiment, step: int) -> int:
    """The part that makes update number `step` (from 1)."""
    return next(k for k, end in enumerate(phase_ends(experiment)) if step <= max(end, 1))


def schedule_range(experiment: Experiment, phase: int) -> range:
    """The updates (from 0) that the learning rate of a part is scheduled over: of a stage its own,
    of a phase those of the whole run."""
    ends = phase_ends(experiment)
    if not experiment.stages:
        return range(experiment.steps)
    return range(ends[phase - 1] if phase else 0, ends[phase])
