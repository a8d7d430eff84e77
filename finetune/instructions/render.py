"""Which way an example is asked: form, template, options and other examples, drawn by arithmetic.

Rendering r of example i of a task is a function of (seed, the task's name and examples, i, r).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gesso.data.order.counter_hash import below, draw, fraction
from gesso.data.order.permutation import make_key
from gesso.finetune.instructions.config import FormsConfig
from gesso.finetune.instructions.examples import Example
from gesso.finetune.instructions.fields import Values
from gesso.finetune.instructions.templates import RATIONALE, Family, Template

FORMS = ("zero_shot", "few_shot", "reasoned", "few_shot_reasoned")
SHOT_SEPARATOR = "\n\n\n"
# (before the prompt, target) of answers with the way to them.
REASONING = (
    ("Think it through before you answer.", "{rationale}\nTherefore: {target}"),
    ("Explain how you get there, then answer.", "{rationale} So the answer is {target}"),
    ("Go step by step.", "{rationale}\nThe answer: {target}"),
)
# What a number is drawn for; the few-shot examples come after.
_FORM, _INVERTED, _OPTIONS, _SHOTS, _REASONING = range(5)
_PURPOSES, _STREAM = 8, 1 << 12


class Rendered(NamedTuple):
    """An example as text. prompt + target is the whole; shots: other examples in the prompt;
    missing: those that the task has not."""

    prompt: str
    target: str
    form: str
    template: str
    shots: int
    missing: int


class Renderer:
    """Renders the examples of one task. examples: those for training first, `train` of them: few-
    shot prompts hold only these, and never the example itself or one with the same prompt."""

    def __init__(
        self,
        family: Family,
        examples: Sequence[Example],
        *,
        train: int,
        name: str,
        forms: FormsConfig,
        seed: int,
    ) -> None:
        self._family, self._examples, self._train = family, examples, train
        self._forms = forms
        self._key = make_key("rendering", seed, name)[0]

    def render(self, index: int, rendering: int, *, most_shots: int | None = None) -> Rendered:
        """Rendering number `rendering` of example `index`; most_shots: no more examples in it."""
        values, forms = self._examples[index].values, self._forms
        base = draw(self._key, np.array(index))[0]
        key = draw(base, np.array(rendering))[0]
        drawn = draw(key, np.arange(_PURPOSES))
        form = self._form(values, float(fraction(drawn[_FORM])))
        turned = self._family.fitting(values, inverted=True)
        inverted = bool(
            turned and "reasoned" not in form and fraction(drawn[_INVERTED]) < forms.inverted
        )
        fitting = turned if inverted else self._family.fitting(values, inverted=False)
        # Renderings go through the templates in turn, so that few are used twice.
        first = int(below(draw(base, np.array(_STREAM))[0], len(fitting)))
        template = fitting[(first + rendering) % len(fitting)]
        listing = bool(fraction(drawn[_OPTIONS]) < forms.options)
        cue = REASONING[int(below(drawn[_REASONING], len(REASONING)))] if "reasoned" in form else ()
        prompt, target = self._ask(values, template, listing=listing, cue=cue)
        shots: list[str] = []
        wanted = 0
        if form.startswith("few_shot"):
            low, high = forms.shots
            wanted = low + int(below(drawn[_SHOTS], high - low + 1))
            shots = self._shots(
                index, prompt, template, key=key, wanted=wanted, listing=listing, cue=cue
            )
        missing = wanted - len(shots)
        if most_shots is not None:
            shots = shots[len(shots) - min(most_shots, len(shots)) :]
        prompt = SHOT_SEPARATOR.join([*shots, prompt])
        return Rendered(prompt, target, form, template.name, len(shots), missing)

    def _form(self, values: Values, at: float) -> str:
        possible = {
            name: getattr(self._forms, name)
            for name in FORMS
            if (RATIONALE in values or "reasoned" not in name)
            and (self._train > 1 or not name.startswith("few_shot"))
        }
        total = sum(possible.values())
        if not total:
            return "zero_shot"
        passed = 0.0
        for name, share in possible.items():
            passed += share
            if at * total < passed:
                return name
        return name

    def _ask(
        self, values: Values, template: Template, *, listing: bool, cue: Sequence[str]
    ) -> tuple[str, str]:
        options = self._family.options(template, values) if listing else ()
        prompt, target = self._family.render(template, values, options=options)
        if cue:
            prompt = f"{cue[0]}\n\n{prompt}"
            target = cue[1].format(rationale=values[RATIONALE].strip(), target=target)
        return join_texts(prompt, target)

    def _shots(
        self,
        index: int,
        own: str,
        template: Template,
        *,
        key: Any,
        wanted: int,
        listing: bool,
        cue: Sequence[str],
    ) -> list[str]:
        shots: list[str] = []
        used = {own}
        tries = draw(key, _PURPOSES + np.arange(16 + 8 * wanted))
        for other in below(tries, self._train).tolist():
            values = self._examples[other].values
            if len(shots) == wanted:
                break
            fitting = self._family.fitting(values, inverted=template.inverted)
            if other == index or template not in fitting or (cue and RATIONALE not in values):
                continue
            prompt, target = self._ask(values, template, listing=listing, cue=cue)
            if prompt not in used:
                used.add(prompt)
                shots.append(prompt + target)
        return shots


def join_texts(prompt: str, target: str) -> tuple[str, str]:
    """Prompt and target as they are written one after the other: on a line of its own, or behind a
    colon with a space. The space is the target's: vocabularies have " yes", not ": "."""
    prompt, target = prompt.rstrip(), target.strip()
    if not prompt:
        return "", target
    return (prompt, f" {target}") if prompt.endswith(":") else (f"{prompt}\n", target)
