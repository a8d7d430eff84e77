"""How examples are asked: deterministic, in the shares asked for, and never with their answer."""

from collections import Counter

import pytest
from instruction_stores import entailments, questions

from gesso.finetune.instructions.config import FormsConfig
from gesso.finetune.instructions.examples import Example
from gesso.finetune.instructions.render import SHOT_SEPARATOR, Renderer, join_texts
from gesso.finetune.instructions.templates import families


def renderer(records, family="word_problem", *, train=None, seed=0, **forms):
    kind = families()[family]
    examples = [Example(kind.check(each), "") for each in records]
    train = len(examples) if train is None else train
    return Renderer(kind, examples, train=train, name="t", forms=FormsConfig(**forms), seed=seed)


def test_a_rendering_is_a_function_of_its_numbers():
    one, two = renderer(questions(30), few_shot=1.0), renderer(questions(30), few_shot=1.0)
    other = renderer(questions(30), few_shot=1.0, seed=1)
    asked = [(i, r) for i in range(30) for r in range(4)]
    made = {key: one.render(*key) for key in asked}
    assert made == {key: two.render(*key) for key in reversed(asked)}
    assert sum(made[key] != other.render(*key) for key in asked) > 60


def test_renderings_go_through_the_templates():
    made = renderer(entailments(9), "entailment", inverted=0.0)
    for i in range(9):
        assert len({made.render(i, r).template for r in range(5)}) == 5


def test_few_shot_prompts_never_hold_the_example_or_its_twin():
    twins = questions(4) + questions(4) + questions(6)
    made = renderer(twins, zero_shot=0.0, few_shot=1.0, shots=(3, 5), inverted=0.3)
    seen = Counter()
    for i, record in enumerate(twins):
        for r in range(12):
            each = made.render(i, r)
            *shots, own = each.prompt.split(SHOT_SEPARATOR)
            assert len(shots) == each.shots
            assert len({shot.rpartition("\n")[0] for shot in shots}) == len(shots)
            if "?" in own:  # not inverted
                assert record["question"] in own
                # Up to its own number of question marks, a question is in another one.
                assert not any(record["question"] + "\n" in shot for shot in shots)
                assert not any(record["question"] + " " in shot for shot in shots)
            seen[each.shots] += 1
    assert max(seen) == 5 and not seen[0]


def test_held_out_examples_are_in_no_prompt():
    records = questions(20)
    made = renderer(records, train=12, zero_shot=0.0, few_shot=1.0, inverted=0.0)
    for i in range(20):
        for r in range(6):
            *shots, _ = made.render(i, r).prompt.split(SHOT_SEPARATOR)
            assert shots
            for held in records[12:]:
                assert not any(f"{held['question']}\n" in shot for shot in shots)


def test_too_few_others_are_counted():
    made = renderer(questions(2), zero_shot=0.0, few_shot=1.0, shots=(3, 3), inverted=0.0)
    each = made.render(0, 0)
    assert (each.shots, each.missing) == (1, 2)
    assert renderer(questions(1), zero_shot=0.0, few_shot=1.0).render(0, 0).form == "zero_shot"


def test_shots_leave_from_the_front():
    made = renderer(questions(20), zero_shot=0.0, few_shot=1.0, shots=(4, 4))
    whole = made.render(3, 1)
    for most in (3, 1, 0):
        fewer = made.render(3, 1, most_shots=most)
        assert fewer.shots == most and fewer.target == whole.target
        assert whole.prompt.endswith(fewer.prompt)


def test_reasoning_comes_before_the_answer():
    records = [*questions(5), {"question": "why not?", "reply": "no"}]
    made = renderer(records, zero_shot=0.0, reasoned=1.0, few_shot_reasoned=1.0, inverted=1.0)
    for i, record in enumerate(records):
        each = made.render(i, 0)
        if "rationale" not in record:
            assert each.form == "zero_shot"
            continue
        assert "reasoned" in each.form
        assert each.target.strip().startswith(record["rationale"])
        assert each.target.endswith(record["reply"].strip())
        *shots, own = each.prompt.split(SHOT_SEPARATOR)
        assert record["rationale"] not in own
        assert all(" make " in shot for shot in shots)


@pytest.mark.parametrize(("name", "share"), [("options", 0.25), ("inverted", 0.4)])
def test_shares_are_as_asked(name, share):
    made = renderer(
        entailments(200), "entailment", **{"inverted": 0.0, "options": 0.0, name: share}
    )
    inverted = {t.name for t in families()["entailment"].templates if t.inverted}
    of = {
        "options": lambda each: "OPTIONS:" in each.prompt,
        "inverted": lambda each: each.template in inverted,
    }
    hits = [of[name](made.render(i, r)) for i in range(200) for r in range(5)]
    # 5 standard deviations of 1,000 draws
    assert abs(sum(hits) / 1000 - share) < 5 * (share * (1 - share) / 1000) ** 0.5


def test_forms_are_shared_out():
    shares = {"zero_shot": 0.5, "few_shot": 0.2, "reasoned": 0.2, "few_shot_reasoned": 0.1}
    made = renderer(questions(250), **shares)
    counts = Counter(made.render(i, r).form for i in range(250) for r in range(4))
    for name, share in shares.items():
        assert abs(counts[name] / 1000 - share) < 5 * (share * (1 - share) / 1000) ** 0.5


def test_where_prompt_and_target_meet():
    assert join_texts("Answer:  ", " yes ") == ("Answer:", " yes")
    assert join_texts("Is it?", "yes") == ("Is it?\n", "yes")


def test_an_input_is_never_left_out_of_a_shot():
    records = [{"instruction": f"Do {i}.", "output": f"o{i}"} for i in range(4)]
    records += [
        {"instruction": f"Do {i}.", "input": f"i{i}", "output": f"o{i}"} for i in range(4, 8)
    ]
    made = renderer(records, "instruction", zero_shot=0.0, few_shot=1.0, inverted=0.0)
    for i in range(8):
        for r in range(8):
            *shots, _ = made.render(i, r).prompt.split(SHOT_SEPARATOR)
            for k in range(4, 8):
                assert all(f"i{k}" in shot for shot in shots if f"Do {k}." in shot)
