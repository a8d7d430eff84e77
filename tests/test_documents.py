"""The documents say what the code does: the alphabet, the commands, the links between files."""

import inspect
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gesso.configs import registry
from gesso.launch.cli import COMMANDS, read
from gesso.partitioning.axes import ALPHABET
from gesso.partitioning.config import AXES
from gesso.partitioning.layouts import LAYOUTS

CHECKOUT = Path(__file__).parents[1]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")])


def test_the_alphabet_is_documented() -> None:
    text = (CHECKOUT / "docs/alphabet.md").read_text()
    rows = dict(re.findall(r"\| `([A-Z])` \| ([^|:,]+?)(?:[:,][^|]*)? (?=\|)", text))
    assert rows == ALPHABET
    assert set(re.findall(r"^\| `([a-z]+)` \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)) == set(AXES)
    assert set(re.findall(r"^\| `([a-z_]+)` \|(?:[^|]*\|){4}$", text, re.MULTILINE)) == set(LAYOUTS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert not [link for link in links if not (path.parent / link).exists()]


# A command of the launchers stands behind " -- ", that of a container behind the image's name.
LAUNCHED = re.compile(r"^(?:launch/\S+ .*? -- |docker run .*? gesso:\w+ )(?=\w)")


def command_lines(text: str) -> list[list[str]]:
    """The words of every `gesso` command of a page's code: whole lines, a backslash continuing
    them, up to a comment, a pipe or a redirection."""
    lines = [line for block, line in code_lines(text) if block in ("", "bash")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    commands = [LAUNCHED.sub("gesso ", line.strip()) for line in joined]
    return [words(line) for line in commands if re.match(r"gesso( |$)", line)]


def code_lines(text: str) -> Iterator[tuple[str, str]]:
    """(language, line) of fenced blocks and of indented ones, whose language is ""."""
    block = None
    for line in text.splitlines():
        if line.startswith("```"):
            block = line[3:].strip() if block is None else None
        elif block is not None:
            yield block, line
        elif line.startswith("    "):
            yield "", line


def words(line: str) -> list[str]:
    """The words behind `gesso` as a shell reads them, up to where the command ends."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>&;")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found = list(itertools.takewhile(lambda word: not set(word) <= set("|<>&;"), lexer))
    return found[1:]


def mentions(text: str) -> list[list[str]]:
    """The words of `gesso ...` in running text; `gesso corpus build|inspect` mentions two."""
    found = []
    for code in re.findall(r"`gesso ([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        *head, last = code.split()
        found += [[*head, each] for each in last.split("|")]
    return found


def command_problem(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Why the command line refuses the arguments; "" where it reads them."""
    try:
        read(arguments)
    except (ValueError, SystemExit) as refused:
        return f"gesso {shlex.join(arguments)}: {capsys.readouterr().err or refused}"
    return ""


def mention_problem(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Why a command that is mentioned, perhaps in part, cannot be meant: it or an option of it is
    not there."""
    told = f"gesso {shlex.join(arguments)}"
    if arguments[0] in ("--version", "--help"):
        return ""
    name = next((n for n in (" ".join(arguments[:2]), arguments[0]) if n in COMMANDS), None)
    if name is None:
        return f"{told}: no such command"
    rest = arguments[len(name.split()) :]
    if COMMANDS[name].reader:
        if rest and rest[0] not in registry.names():
            rest[0] = "debug-gpt-neo"  # for EXPERIMENT and the like
        rest = [word for word in rest if word != "--help"]
        return command_problem([name, *rest], capsys) if rest[1:] else ""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        read([*name.split(), "--help"])
    options = re.findall(r"--[a-z-]+", capsys.readouterr().out)
    missing = [word for word in rest if word.startswith("--") and word not in options]
    return f"{told}: no option {missing}" if missing else ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_are_read_by_the_command_line(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text()
    found = [command_problem(each, capsys) for each in command_lines(text)]
    found += [mention_problem(each, capsys) for each in mentions(text)]
    assert not list(filter(None, found))


def test_the_commands_of_a_page_are_found() -> None:
    page = """\
Text with `gesso corpus build|inspect`, `gesso list`.
```
gesso pretrain a --x 1 \\
   --y '2 3'   # why
launch/tpu_pod.sh run --zone z -- pretrain b --z 4
gesso sweep c >trials
```
    gesso doctor
```python
gesso = 3
```
"""
    assert command_lines(page) == [
        ["pretrain", "a", "--x", "1", "--y", "2 3"],
        ["pretrain", "b", "--z", "4"],
        ["sweep", "c"],
        ["doctor"],
    ]
    assert mentions(page) == [["corpus", "build"], ["corpus", "inspect"], ["list"]]


@pytest.mark.parametrize(
    "arguments",
    [
        "corpus biuld x --folder y",
        "pretrain gpt-neo-125",
        "pretrain gpt-neo-125m --optimizer.learning-rat 3",
        "finetune debug-ulmfit --start runs/x --optimizer.learning-rat 3",
        "plan gpt-j-6b --topolgy v5e:16x16",
        "evaluate runs/x --harnes y",
        "export runs/x --format hf",
    ],
)
def test_a_wrong_command_is_a_problem(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_problem(arguments.split(), capsys)


@pytest.mark.parametrize("arguments", ["corpus biuld", "trian", "evaluate RUN --harnes"])
def test_a_wrong_mention_is_a_problem(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mention_problem(arguments.split(), capsys)


@pytest.mark.parametrize("name", registry.names())
def test_the_command_of_an_experiment_is_read_by_the_command_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = command_lines(f"```\n{inspect.cleandoc(registry.describe(name))}\n```")
    assert commands, "the docstring shows its command"
    assert not [found for each in commands if (found := command_problem(each, capsys))]
