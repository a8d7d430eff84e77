"""Templates as data: ours are many and whole, and a wrong one is refused where it is read."""

import pytest

from gesso.finetune.instructions.fields import FieldError
from gesso.finetune.instructions.templates import (
    TemplateError,
    families,
    parse_family,
    read_families,
)

FIELDS = {"premise": "text", "hypothesis": "text", "label": "label"}
GOOD = {"name": "one", "prompt": "{premise} So {hypothesis}?", "target": "{answer}"}
RECORDS = {
    "text": "some text",
    "texts": ["one", "two"],
    "number": 12,
    "choices": ["left", "right"],
    "choice": 1,
    "label": 0,
}


def family_of(*templates, fields=FIELDS, labels=("yes", "no")):
    table = {"fields": fields, "labels": list(labels), "templates": list(templates)}
    return parse_family("kind", table, cluster="c", where="mine.toml")


def test_there_are_many_of_our_own():
    ours = families().values()
    templates = [each for family in ours for each in family.templates]
    assert len({family.cluster for family in ours}) >= 12
    assert len(templates) >= 60
    assert sum(each.inverted for each in templates) >= 12
    prompts = [(each.prompt, each.target) for each in templates if each.prompt != "{question}"]
    assert len(set(prompts)) == len(prompts), "a template is there twice"


@pytest.mark.parametrize("name", sorted(families()))
def test_every_template_renders_an_example_without_telling_its_answer(name):
    family = families()[name]
    record = {f.name: RECORDS[f.type] for f in family.fields.values()}
    record |= {f.name: f"<<{f.name}>>" for f in family.fields.values() if f.type == "text"}
    for optional in (False, True):
        kept = {n: v for n, v in record.items() if optional or not family.fields[n].optional}
        values = family.check(kept)
        fitting = family.fitting(values, inverted=False)
        assert fitting, f"an example with {list(kept)} has no template"
        for template in (*fitting, *family.fitting(values, inverted=True)):
            options = family.options(template, values)
            for listed in ((), options):
                prompt, target = family.render(template, values, options=listed)
                assert "{" not in prompt + target
                assert target.strip()
                assert prompt.endswith(("\n" + "\n".join(f"- {each}" for each in listed), prompt))
                if "<<" in target:
                    assert target not in prompt
            if options and not template.inverted:
                assert target in options
                assert ("OPTIONS:" in prompt) and "OPTIONS:" not in family.render(template, values)[
                    0
                ]


def test_what_an_example_has_is_asked_with():
    family = families()["instruction"]
    with_input = family.check({"instruction": "Sort.", "input": "b a", "output": "a b"})
    without = family.check({"instruction": "Sing.", "input": "", "output": "la"})
    assert all("input" in t.names for t in family.fitting(with_input, inverted=False))
    assert all("input" not in t.names for t in family.fitting(without, inverted=False))


def test_labels_are_said_in_the_templates_words():
    family = families()["entailment"]
    values = family.check({"premise": "p", "hypothesis": "h", "label": "contradiction"})
    said = {family.render(t, values)[1] for t in family.fitting(values, inverted=False)}
    assert {"no", "false", "contradiction"} <= said


def test_braces_in_an_example_are_text():
    family = families()["question"]
    values = family.check({"question": "{reply} {0} {{x}}", "reply": "{question}"})
    prompt, target = family.render(family.templates[0], values)
    assert (prompt, target) == ("{reply} {0} {{x}}", "{question}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (GOOD | {"prompt": "{premis} So {hypothesis}?"}, "did you mean 'premise'"),
        (GOOD | {"target": "{anwser}"}, "did you mean 'answer'"),
        (GOOD | {"target": "yes"}, "depends on the example"),
        (GOOD | {"prompt": "{premise} {answer}"}, "already tells {answer}"),
        (GOOD | {"prompt": "{premise} {label}"}, "say {answer}"),
        (GOOD | {"prompt": "{premise!r}"}, "is not a plain field"),
        (GOOD | {"prompt": "{premise.x}"}, "is not a plain field"),
        (GOOD | {"prompt": "{premise"}, "write a brace"),
        (GOOD | {"answers": ["a"]}, "2 different texts"),
        (GOOD | {"answers": ["a", "a"]}, "2 different texts"),
        (GOOD | {"promt": "x"}, "did you mean 'prompt'"),
        ({"name": "x", "prompt": "y"}, "has no target"),
        (GOOD | {"inverted": True}, "not inverted"),
    ],
)
def test_a_wrong_template_is_refused_with_its_place(template, message):
    with pytest.raises(TemplateError, match=message.replace("{", r"\{")) as error:
        family_of(template)
    assert "mine.toml: family 'kind'" in str(error.value)


def test_a_wrong_family_is_refused():
    with pytest.raises(TemplateError, match="did you mean 'text'"):
        family_of(GOOD, fields=FIELDS | {"premise": "txt"})
    with pytest.raises(TemplateError, match="go together"):
        family_of(GOOD, labels=())
    with pytest.raises(TemplateError, match="both hold the answer"):
        family_of(GOOD, fields=FIELDS | {"other": "label"})
    with pytest.raises(TemplateError, match="called 'one'"):
        family_of(GOOD, GOOD)


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'cluster = "mine"\n[echo]\nfields = { text = "text" , said = "text" }\n'
        '[[echo.templates]]\nname = "a"\nprompt = "{text}"\ntarget = "{said}"\n'
    )
    assert read_families([file])["echo"].cluster == "mine"
    file.write_text('cluster = "mine"\n[echo\n')
    with pytest.raises(TemplateError, match="mine.toml: cannot be read"):
        read_families([file])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"premise": "p", "hypothesis": "h"}, "missing_field"),
        ({"premise": " ", "hypothesis": "h", "label": 0}, "empty_field"),
        ({"premise": ["p"], "hypothesis": "h", "label": 0}, "wrong_type"),
        ({"premise": "p", "hypothesis": "h", "label": "maybe"}, "unknown_label"),
        ({"premise": "p", "hypothesis": "h", "label": 3}, "unknown_label"),
        ({"premise": "p", "hypothesis": "h", "label": -1}, "unknown_label"),
        ({"premise": "p\ud800", "hypothesis": "h", "label": 0}, "lone_surrogate"),
    ],
)
def test_a_record_that_is_no_example(record, reason):
    with pytest.raises(FieldError) as error:
        families()["entailment"].check(record)
    assert error.value.reason == reason


@pytest.mark.parametrize(("given", "index"), [("right", 1), (0, 0), ("1", 1), ("B", 1), ("a", 0)])
def test_a_choice_by_text_index_or_letter(given, index):
    record = {"question": "where", "choices": ["left", "right"], "correct": given}
    assert families()["multiple_choice"].check(record)["correct"] == index


def test_choices_that_are_numbers_go_by_text():
    record = {"question": "how many", "choices": ["1", "0"], "correct": "0"}
    assert families()["multiple_choice"].check(record)["correct"] == 1
