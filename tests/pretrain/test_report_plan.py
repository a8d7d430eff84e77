"""The page of a plan: what it says, what it leaves out, and that its texts are text."""

import dataclasses
import re

import pytest

from gesso import configs
from gesso.partitioning.config import MeshConfig
from gesso.planning.plan import estimate
from gesso.planning.time import step_time
from gesso.planning.topology import topology
from gesso.reports.plan.plan import parts_of, plan_page, write_plan

WHERE = topology("v5e:4x4", slices=2)


@pytest.fixture
def experiment():
    mesh = MeshConfig(replica=2, data=4, fsdp=4)
    return configs.experiment("gpt2-355m", {"mesh": mesh, "microbatches": 16, "name": "<b>x</b>"})


def compiled(experiment, *, temporary):
    """An estimate as if a compiler had spoken."""
    made = estimate(experiment, WHERE)
    memory = made["memory"]
    state = sum(memory[name] for name in ("parameters", "optimizer", "other_state", "batch"))
    memory["compiled"] = {"arguments": state, "temporary": temporary, "new_outputs": 0}
    kinds = [("all-gather", "fsdp", False, True), ("all-reduce", "replica", True, True)]
    made["collectives"] = [
        {"kind": kind, "group": 4, "axes": axes, "network": network, "asynchronous": hidden,
         "count": 3, "payload_bytes": 1e9, "wire_bytes": 1e9}
        for kind, axes, network, hidden in kinds
    ]  # fmt: skip
    made["estimated_cycles"] = 1e8
    return made | step_time(experiment, WHERE, made)


@pytest.mark.parametrize("temporary", [1e8, 9e9])
def test_the_classes_are_the_total(experiment, temporary):
    memory = compiled(experiment, temporary=temporary)["memory"]
    parts = parts_of(memory)
    assert sum(part.size for part in parts) == pytest.approx(memory["total"], rel=1e-9)
    assert all(part.size >= 0 for part in parts)
    assert [part.label for part in parts if part.exact][:2] == ["parameters", "optimizer"]


def test_a_compiled_plan_has_pictures_of_memory_time_and_what_is_sent(experiment, tmp_path):
    made = compiled(experiment, temporary=3e9)
    ranked = {"options": "--x <1>", "seconds": 1.0, "mfu": [0.1, 0.2], "bytes": 1e9, "bound": "y"}
    made["search"] = [ranked, ranked | {"seconds": 2.0}]
    page = write_plan(made, tmp_path / "new" / "plan.html").read_text()
    assert "&lt;b&gt;x&lt;/b&gt; on 2 × v5e:4x4" in page and "<b>x</b>" not in page
    for key in ("memory", "sent", "search", "settings"):
        assert f'<section id="{key}">' in page
    assert len(re.findall("<svg", page)) == 4
    assert "between slices" in page and "--x &lt;1&gt;" in page
    assert not re.search(r"(src|href)=\"https?:", page), "it loads nothing"
    assert page.count("#a0000") == page.count("#b0000") == 0, "every colour has its name"


def test_network_time_is_of_what_slices_send_each_other(experiment):
    time = compiled(experiment, temporary=3e9)["time"]
    assert WHERE.chip is not None
    assert time["network"] == pytest.approx(1e9 / WHERE.chip.network_rate)
    assert time["links"] == pytest.approx(1e9 / WHERE.chip.link_rate)


def test_a_plan_without_a_compiler_a_peak_or_room_says_so(experiment):
    plain = plan_page(estimate(experiment, WHERE))
    assert "estimated by formulas" in plain.lede
    assert "sent" not in [section.key for section in plain.sections]
    debug = configs.experiment("debug-gpt2", {"mesh": MeshConfig(data=8)})
    cpu = plan_page(estimate(debug, topology("cpu:8")))
    assert [stat.label for stat in cpu.stats] == ["Memory", "Parameters"]
    refused = estimate(experiment, WHERE) | {"refused": "no <room>", "fits": False}
    page = plan_page(refused)
    assert page.warnings == ["It does not fit: no <room>"]
    assert page.stats[0].value == "no" and "estimates" in page.sections[0].text
    assert dataclasses.is_dataclass(page)
