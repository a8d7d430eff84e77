"""docs/settings.md says what the help says: it is made of the same sentences."""

from gesso.configs import registry
from gesso.launch import help, reference
from gesso.settings.explain import groups


def test_the_settings_reference_is_up_to_date() -> None:
    assert reference.FILE.read_text(encoding="utf-8") == reference.reference(), (
        "a setting or its sentence changed: python -m gesso.launch.reference"
    )


def test_it_has_every_setting_of_an_experiment_and_every_option() -> None:
    page = reference.reference()
    for name in ("debug-gpt-neo", "debug-bert", "debug-elmo", "debug-t5", "debug-classify"):
        for group in groups(registry.experiment(name)):
            if group.path != "hosts.phase_timeout_seconds":
                assert all(f"| `{each.path}` |" in page for each in group.settings)
    assert "| `stages.N.schedule.kind` |" not in page, "a config is explained once"
    assert "`optimizer.schedule` and `stages.N.schedule`: ScheduleConfig" in page
    assert "| `--vocab-size INT` | required | Vocabulary size." in page
    assert "### gesso plan" in page


def test_the_help_and_the_page_have_one_source() -> None:
    setting = next(
        each
        for group in groups(registry.experiment("debug-gpt-neo"))
        for each in group.settings
        if each.path == "optimizer.clip_norm"
    )
    told = help.page(
        list(groups(registry.experiment("debug-gpt-neo"))),
        help.Asked(everything=False, topic="optimizer.clip_norm"),
        prog="gesso pretrain debug-gpt-neo",
        description="",
        width=120,
    )
    assert setting.text in next(told).plain
    assert f"| {setting.text} |" in reference.reference()
