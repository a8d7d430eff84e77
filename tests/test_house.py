"""The rules inside the rooms: no circles, small folders, plain names, declared types."""

from collections import Counter
from pathlib import Path

import pytest
from source_tree import (
    CHECKOUT,
    MODULES,
    PACKAGES,
    circles,
    counts,
    everywhere,
    graph,
    room,
    rooms,
)

MODULES_IN_A_FOLDER = 18
IMPORTS_IN_FUNCTIONS = 300
# The rooms of each package from the ground up: a room imports from those before it alone.
FLOORS = {
    "data": ("tokenizers", "text", "store", "order", "instructions", "labelled", "embedded"),
    "evaluation": (
        "heldout", "generation", "contextuality", "questions", "harness", "labelled",
    ),
    "export": ("files", "tables", "tokenizers", "families", "stacks"),
    "finetune": ("adapters", "instructions", "labelled"),
    "launch": ("gke", "commands"),
    "models": ("layers", "adapters", "elmo", "gpt", "seq2seq", "bert", "encoder_decoder"),
    "objectives": ("labelled",),
    "partitioning": ("machines", "hosts"),
    "pretrain": ("folder", "optimizer", "failures", "checkpoints", "origins"),
    "reports": ("run", "plan", "sweep"),
}  # fmt: skip
COUNTED = everywhere()


def test_no_module_imports_itself_by_way_of_others() -> None:
    found = circles(graph())
    assert not found, f"a contract lies below those who fulfil it, its dispatcher on top: {found}"


@pytest.mark.parametrize("package", PACKAGES)
def test_sub_packages_have_a_direction(package: str) -> None:
    assert not circles(rooms(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_imports_from_the_floors_below_it(package: str) -> None:
    floors = FLOORS.get(package, ())
    inside = {name: room(name) for name in MODULES if name.split(".")[1] == package}
    assert set(inside.values()) - {""} == set(floors), "each room has a floor"
    wrong = [
        f"{name} imports {other}"
        for name, here in inside.items()
        if here
        for other in graph()[name]
        if inside.get(other) and floors.index(inside[other]) > floors.index(here)
    ]
    assert not wrong


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_a_folder_is_a_trade() -> None:
    sizes = Counter(
        path.parent.relative_to(CHECKOUT).as_posix()
        for path in MODULES.values()
        if path.name != "__init__.py"
    )
    assert not {f: n for f, n in sizes.items() if n > MODULES_IN_A_FOLDER}


def test_annotations_say_what_a_thing_is() -> None:
    share = len(COUNTED.vague) / COUNTED.annotations
    assert share < 0.08, f"{share:.1%} of annotations are or hold Any: {COUNTED.vague[:20]}"


def test_every_member_is_declared_where_its_type_is() -> None:
    assert not COUNTED.defaults, "getattr with a default: declare the member, with its default"


def test_imports_in_functions_do_not_grow() -> None:
    """They are for what help must not load (JAX) and for packages that may be missing; none hides
    a circle, as the graph counts them too."""
    assert len(COUNTED.inside) <= IMPORTS_IN_FUNCTIONS


def test_a_function_is_a_verb_or_a_noun() -> None:
    assert not COUNTED.participles


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("def f(a: dict[str, Any]) -> int: ...", "vague"),
        ("x: Any = 1", "vague"),
        ("y = getattr(config, 'mup_base', None)", "defaults"),
        ("def f():\n    import json", "inside"),
        ("def _kept_in(): ...", "participles"),
    ],
)
def test_what_is_counted_is_seen(line: str, field: str) -> None:
    assert len(getattr(counts(line, "x.py"), field)) == 1
    assert not getattr(counts("def embed(seed: int) -> int: ...", "x.py"), field)


def test_every_product_file_is_counted() -> None:
    assert len(MODULES) > 300
    assert all(isinstance(path, Path) for path in MODULES.values())
