"""`gesso instructions`: recipes are looked at, built, and refused with what to do."""

import json

import pytest
from instruction_stores import entailments, write_lines

from gesso.launch import cli
from gesso.pretrain.exits import DONE, REFUSED


@pytest.fixture
def recipe(tmp_path):
    path = write_lines(tmp_path / "nli.jsonl", [*entailments(30), {"premise": "p"}])
    file = tmp_path / "recipe.toml"
    file.write_text(
        "renderings = 2\n[forms]\nfew_shot = 1.0\nshots = [1, 2]\n[[sources]]\n"
        f'family = "entailment"\npath = "{path}"\n'
    )
    return file


def test_look_build_and_look_again(recipe, tmp_path, capsys):
    assert cli.main(["instructions", "inspect", str(recipe), "--examples", "3", "--json"]) == DONE
    shown = json.loads(capsys.readouterr().out)
    assert len(shown) == 6
    assert [said for _, said in shown[0]["spans"]] == [False, True]
    assert cli.main(["instructions", "inspect", str(recipe)]) == DONE
    assert "nli.jsonl:1 / 0 / " in capsys.readouterr().out
    folder = str(tmp_path / "store")
    assert cli.main(["instructions", "build", str(recipe), "--folder", folder, "--json"]) == DONE
    built = json.loads(capsys.readouterr().out)
    assert built["rejects"] == {"missing_field": 1} and built["counts"]["examples"] == 30
    look = ["instructions", "inspect", folder, "--length", "300", "--examples", "1"]
    assert cli.main(look) == DONE
    out = capsys.readouterr().out
    assert "refused" in out and "renderings are cut" in out and "row 0, nli" in out
    assert cli.main([*look, "--json"]) == DONE
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert all(any(said for _, said in row["spans"]) for row in rows)


def test_templates_are_listed(capsys):
    assert cli.main(["instructions", "templates"]) == DONE
    assert "word_problem" in capsys.readouterr().out
    assert cli.main(["instructions", "templates", "entailment"]) == DONE
    assert "{hypothesis}" in capsys.readouterr().out
    assert cli.main(["instructions", "templates", "--json"]) == DONE
    assert len(json.loads(capsys.readouterr().out)) >= 12
    assert cli.main(["instructions", "templates", "entailmnt"]) == REFUSED
    assert "did you mean 'entailment'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("renderings = ", "Invalid value"),
        ("rendering = 3\nsources = []", "rendering"),
        ("sources = []", "there are no sources"),
        ('[[sources]]\npath = "x.jsonl"\nformat = "jsnl"', "format"),
        ('[[sources]]\npath = "x.jsonl"\nfamily = "question"', "there is no file x.jsonl"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, capsys, text, message):
    (tmp_path / "recipe.toml").write_text(text)
    build = ["instructions", "build", str(tmp_path / "recipe.toml")]
    assert cli.main([*build, "--folder", str(tmp_path / "store")]) == REFUSED
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
