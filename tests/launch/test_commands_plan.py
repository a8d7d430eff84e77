"""`gesso plan` on the command line: figures as JSON and as a page, and what it refuses."""

import json

import pytest

from gesso.launch.commands import plan as commands_plan
from gesso.launch.commands.plan import plan
from gesso.launch.console import Refused

ESTIMATE = ["--compile", "never"]


def test_figures_as_json_with_days_and_cost(capsys, tmp_path):
    page = tmp_path / "plan.html"
    asked = ["gpt-j-6b", "--topology", "v5e:16x16", "--search", "yes", "--tokens", "4e11"]
    assert plan([*asked, *ESTIMATE, "--price", "1", "--page", str(page), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["fits"] and not made["memory"]["exact"]
    days, cost = made["budget"]["days"], made["budget"]["cost"]
    assert cost == pytest.approx([24 * 256 * each for each in days])
    assert made["search"][0]["bytes"] == made["memory"]["total"]
    assert "gpt-j-6b on v5e:16x16" in page.read_text()


def test_without_a_topology_the_recommended_one_is_named_and_it_works(capsys):
    with pytest.raises(Refused, match="is recommended") as refused:
        plan(["gpt-j-6b"])
    told = str(refused.value).split("gesso plan ")[1].split(" is recommended")[0]
    assert plan([*told.split(), *ESTIMATE]) == 0
    assert "does NOT fit" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--finalists", "3"], "with --search yes"),
        (["--finalists", "0", "--search", "yes"], "at least 1"),
        (["--finalists", "2", "--search", "yes", *ESTIMATE], "leave out one"),
        (["--tokens", "-1"], "cannot be negative"),
    ],
)
def test_options_that_cannot_take_effect_are_refused(asked, told):
    with pytest.raises(Refused, match=told):
        plan(["gpt-j-6b", "--topology", "v5e:8x8", *asked])


def test_a_search_compiles_until_something_fits(monkeypatch, capsys):
    asked = []

    def compiled(experiment, where, *, compiles, depth="whole"):
        from gesso.planning.plan import estimate

        asked.append(experiment)
        made = estimate(experiment, where)
        return made | {"refused": "no room", "fits": False} if len(asked) == 1 else made

    monkeypatch.setattr(commands_plan, "_plan", compiled)
    assert plan(["gpt-j-6b", "--topology", "v5e:16x16", "--search", "yes"]) == 0
    told = capsys.readouterr()
    assert len(asked) == 2 and asked[0] != asked[1]
    assert "finds no room for" in told.err and "chosen:" in told.err
    monkeypatch.setattr(commands_plan, "_plan", lambda *_, **__: {"fits": False})
    with pytest.raises(Refused, match="larger topology"):
        plan(["gpt-j-6b", "--topology", "v5e:16x16", "--search", "yes"])
