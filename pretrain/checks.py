"""What the settings of an experiment must agree on: with each other, the mesh, the tokenizer.

What is wrong with one component alone, its own config says: `problems()`. Here is what only the
whole experiment can tell. Imports no JAX: the number of devices is an argument.
"""

from gesso.objectives.config import BiLMConfig
from gesso.pretrain.experiment import Experiment, ExperimentError


def validate(experiment: Experiment, *, devices: int, tokenizer_vocab: int | None = None) -> None:
    """Every check that needs no device, at once. Raises ExperimentError listing all that fails."""
    e = experiment
    problems = [
        *_counts(e),
        *_phases(e),
        *_stages(e),
        *e.start.problems(),
        *_start(e),
        *_adapter(e),
        *_streams(e),
        *e.model.problems(),
        *e.objective.problems(),
        *_model(e, tokenizer_vocab),
        *e.optimizer.problems(),
        *_optimizer(e),
        *e.evaluation.problems(),
    ]
    try:
        sizes = e.mesh.sizes(devices)
    except ValueError as error:
        problems.append(str(error))
    else:
        problems += _mesh(e, sizes)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise ExperimentError(f"experiment {e.name!r} cannot run:{listed}")


def _counts(e: Experiment) -> list[str]:
    positive = {
        "steps": e.steps,
        "batch": e.batch,
        "length": e.length,
        "microbatches": e.microbatches,
        "logging.every_steps": e.logging.every_steps,
        "data.prefetch": e.data.prefetch,
    }
    problems = [f"{name} must be at least 1, not {n}" for name, n in positive.items() if n < 1]
    if e.microbatches > 1 and e.batch % e.microbatches:
        problems.append(
            f"batch {e.batch} does not divide into {e.microbatches} microbatches;"
            f" try {_near(e.batch, e.microbatches)}"
        )
    return problems


def _phases(e: Experiment) -> list[str]:
    ends = [phase.until for phase in e.phases]
    if _rise(ends, e.steps):
        return []
    return [f"phases end after updates {ends}: these must rise, from 1 to below steps {e.steps}"]


def _stages(e: Experiment) -> list[str]:
    if not e.stages:
        return []
    ends = [stage.until for stage in e.stages]
    problems = []
    if not _rise(ends, e.steps):
        problems.append(
            f"stages end after updates {ends}: these must rise, from 1 to below steps {e.steps}"
        )
    if e.phases:
        problems.append("stages and phases in one run: leave out one; a stage keeps its rows")
    if e.optimizer.name in ("adafactor", "muon"):
        problems.append(
            f"optimizer {e.optimizer.name} has no rule for parameters that begin to be trained in"
            " the middle of a run; use adamw, adamw_bert, lion or adagrad with stages"
        )
    problems += [problem for stage in e.stages for problem in stage.problems()]
    return list(dict.fromkeys(problems))


def _rise(ends: list[int], steps: int) -> bool:
    return all(a < b for a, b in zip([0, *ends], [*ends, steps], strict=True))


def _start(e: Experiment) -> list[str]:
    if (e.start.encoder or e.start.decoder) and not e.model.has_sides:
        return [
            f"start.encoder and start.decoder are the sides of a model of the family"
            f" encoder_decoder, not of {e.model.family}: use start.source"
        ]
    return []


def _adapter(e: Experiment) -> list[str]:
    problems = [*e.adapter.problems(), *e.adapter.misfits(e.model)]
    if e.adapter.kind == "none" or problems:
        return problems
    if e.stages or e.first_layer:
        problems.append("an adapter is trained whole: leave out stages and first_layer")
    longest = e.model.longest
    if longest is not None and e.length + e.adapter.front > longest:
        problems.append(
            f"length {e.length} and {e.adapter.front} virtual tokens in front of every document are"
            f" over the model's {longest} positions; lower --length or --adapter.tokens"
        )
    return problems


def _streams(e: Experiment) -> list[str]:
    carries = isinstance(e.objective, BiLMConfig) and e.objective.state == "carried"
    problems = []
    if carries != (e.data.packing == "stream"):
        problems.append(
            f"data.packing {e.data.packing} and an objective that"
            f" {'carries its state on' if carries else 'starts every row anew'}: a carried state"
            " needs packing stream, and nothing else does"
        )
    if carries and e.phases:
        problems.append("phases: a state that is carried on has the rows of one batch size only")
    return problems


def _model(e: Experiment, tokenizer_vocab: int | None) -> list[str]:
    problems = []
    if e.model.longest is not None and e.length > e.model.longest:
        problems.append(
            f"length {e.length} is over the model's {e.model.longest} positions;"
            f" lower --length or raise --model.positions"
        )
    if tokenizer_vocab is not None and tokenizer_vocab > e.model.vocab:
        problems.append(
            f"the store's tokenizer has {tokenizer_vocab} ids but the model's vocab is"
            f" {e.model.vocab}; set --model.vocab {tokenizer_vocab} or more"
        )
    return problems


def _optimizer(e: Experiment) -> list[str]:
    problems = []
    schedule, mup = e.optimizer.schedule, e.model.mup_base
    planned = schedule.warmup_steps + schedule.decay_steps
    if schedule.kind == "wsd" and schedule.decay_steps and planned > e.steps:
        problems.append(
            f"warmup {schedule.warmup_steps} + decay {schedule.decay_steps} steps are more than"
            f" {e.steps} steps"
        )
    if mup and e.optimizer.multipliers:
        problems.append("optimizer.multipliers and model.mup_base: muP sets the multipliers itself")
    if mup and e.optimizer.name not in ("adamw", "adamw_bert", "lion"):
        problems.append(
            f"model.mup_base: muP's rates are Adam's and Lion's, not {e.optimizer.name}'s"
        )
    return problems


# What the letters that layouts split are called in a model's settings, and over which mesh axis.
_FIELDS = {"D": "embed", "N": "heads", "K": "key_heads", "F": "mlp", "V": "vocab"}
_AXES = {"D": "fsdp", "N": "tensor", "K": "tensor", "F": "tensor", "V": "tensor"}


def _mesh(e: Experiment, sizes: dict[str, int]) -> list[str]:
    return [
        *_split(e, sizes),
        *_sequence(e, sizes["sequence"]),
        *(
            f"mesh axis {axis}={sizes[axis]} splits nothing in layout {e.layout!r};"
            f" use --layout fsdp_tensor or {axis}, or --mesh.{axis} 1"
            for axis in ("fsdp", "tensor")
            if sizes[axis] > 1 and axis not in e.layout
        ),
    ]


def _split(e: Experiment, sizes: dict[str, int]) -> list[str]:
    """What a mesh axis splits, but does not divide."""
    problems = []
    rows = sizes["replica"] * sizes["data"] * sizes["fsdp"]
    if e.batch % (rows * e.microbatches):
        spelled = f"replica {sizes['replica']} x data {sizes['data']} x fsdp {sizes['fsdp']}"
        parts = f" in {e.microbatches} microbatches" if e.microbatches > 1 else ""
        problems.append(
            f"batch {e.batch} does not divide over {rows} rows of mesh axes {spelled}{parts};"
            f" try {_near(e.batch, rows * e.microbatches)}"
        )
    fields = {**_FIELDS, **e.model.letter_fields}
    dims = [("length", e.length, "sequence")] + [
        (f"model.{fields[letter]}", e.model.sizes[letter], axis)
        for letter, axis in _AXES.items()
        if letter in e.model.sizes and axis in e.layout
    ]
    for name, size, axis in dims:
        if size % sizes[axis]:
            ways = max(n for n in range(1, sizes[axis] + 1) if size % n == 0 == sizes[axis] % n)
            problems.append(
                f"{name} {size} does not divide over mesh axis {axis}={sizes[axis]};"
                f" try {_near(size, sizes[axis])}, or --mesh.{axis} {ways}"
            )
    return problems


def _sequence(e: Experiment, ways: int) -> list[str]:
    problems = []
    if ways > 1 and e.model.reads_in_turn:
        problems.append(
            f"mesh axis sequence={ways}: family {e.model.family} reads a row one token"
            " after the other, so its length cannot be split; use --mesh.sequence 1"
        )
    if e.model.attention == "splash":
        if ways > 1:
            problems.append(
                "model.attention splash reads whole rows; use --mesh.sequence 1, or blocks"
            )
        if e.length % 128:
            problems.append(
                f"model.attention splash takes a length of a multiple of 128, not {e.length}"
            )
    return problems


def _near(size: int, divisor: int) -> str:
    below, above = size // divisor * divisor, -(-size // divisor) * divisor
    return f"{below} or {above}" if below else f"{above}"
