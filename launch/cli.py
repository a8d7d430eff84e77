"""The `gesso` command: which commands there are, how one is found, and what its exit status means.

A command is a dataclass whose fields are its options and whose `run()` returns the exit status, or
a function of the remaining arguments. Nothing is imported for a command that was not asked for, and
a wrong request is refused before JAX is imported.
"""

import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Protocol

from gesso.launch.console import Refused, narration, output, parse
from gesso.pretrain.exits import DONE, FAILED, REFUSED
from gesso.settings.nearest import did_you_mean


class Runnable(Protocol):
    """The options of a command, read: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    def run(self) -> int: ...


@dataclass(frozen=True)
class Command:
    """entry: "module:name" in launch/commands: a dataclass with run(), or a function of the
    arguments. reader: of a function, the one that only reads the arguments.
    """

    entry: str
    summary: str
    reader: str = ""


COMMANDS = {
    "quickstart": Command(
        "quickstart:Quickstart",
        "corpus, tokenizer, training, samples and a report in minutes, without internet",
    ),
    "corpus build": Command("corpus:Build", "tokenize raw text, once, into a token store"),
    "corpus inspect": Command("corpus:Inspect", "show what a token store holds"),
    "corpus verify": Command("corpus:Verify", "prove that a token store is intact"),
    "instructions templates": Command(
        "instructions:Templates", "show the templates that ask for examples"
    ),
    "instructions inspect": Command(
        "instructions:Inspect", "show examples as a model will see them"
    ),
    "instructions build": Command(
        "instructions:Build",
        "render and tokenize examples, once, into an instruction store",
    ),
    "task build": Command(
        "task:Build",
        "tokenize labelled examples (GLUE, SQuAD, your own), once, into a task store",
    ),
    "task inspect": Command("task:Inspect", "show what a task store holds"),
    "tokenizer train": Command(
        "tokenizer:Train",
        "train a sentencepiece, BPE, WordPiece or words vocabulary",
    ),
    "tokenizer import": Command(
        "tokenizer:Import",
        "import a published vocabulary (GPT-2, NeoX, ...)",
    ),
    "tokenizer inspect": Command("tokenizer:Inspect", "show what a tokenizer does to a text"),
    "pretrain": Command(
        "pretrain:pretrain", "run an experiment, or continue it", reader="pretrain:read"
    ),
    "finetune": Command(
        "finetune:finetune",
        "train another run's model further",
        reader="finetune:read_arguments",
    ),
    "adapter merge": Command(
        "adapter:Merge", "merge a LoRA and its base into one model, a run folder"
    ),
    "adapter export": Command(
        "adapter:Export", "write a LoRA or a prompt as a folder that peft loads"
    ),
    "adapter import": Command(
        "adapter:Import", "import a LoRA or a prompt that peft wrote, over a run"
    ),
    "sweep": Command("sweep:RunSweep", "run many variants of one experiment, and compare them"),
    "coordinates": Command(
        "coordinates:Coordinates",
        "check muP: whether learning rates of narrow models serve wide ones",
    ),
    "plan": Command(
        "plan:plan",
        "before chips are rented: whether it fits, how fast, which mesh",
        reader="plan:read",
    ),
    "evaluate": Command(
        "evaluate.command:Evaluate",
        "measure a run: held-out loss, questions, written answers, harness tasks, word vectors",
    ),
    "generate": Command("generate:Generate", "let a run continue your text"),
    "import": Command(
        "import_:Import",
        "import a published checkpoint as a run, to use or train further",
    ),
    "export": Command("export:Export", "write a run's model for transformers and others"),
    "parity": Command("export:Parity", "compare a folder here and in transformers, layer by layer"),
    "report": Command("report:Report", "write one HTML page about a run, or comparing several"),
    "list": Command("list:List", "list the experiments: parameters, FLOPs, memory"),
    "doctor": Command("doctor:Doctor", "check this machine: versions, devices, disk, memory"),
}
_HELP = {"-h", "--help", "help"}
_STATUSES = (
    "exit status: 0 done; 1 failed (a restart may help); 2 the request or environment is wrong;\n"
    "70 a hang was detected; 71 another host failed; 75 preempted after saving (run it again)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (never raises, apart from defects here)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()  # here, where a reader that has left is expected
        return status
    except SystemExit as stop:  # tyro: 0 after --help, 2 after its message
        return stop.code if isinstance(stop.code, int) else REFUSED
    except KeyboardInterrupt:
        narration().print("interrupted")
        return 130  # 128 + SIGINT, as shells have it
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # the reader of our stdout (head, less) has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except ValueError as error:
        if not _is_ours(error):
            traceback.print_exc()
            return FAILED
        narration().print(f"gesso: {error}", markup=False)
        if os.environ.get("GESSO_TRACEBACK"):
            traceback.print_exc()
        return REFUSED
    except Exception:
        traceback.print_exc()
        return FAILED


def read(arguments: Sequence[str]) -> object:
    """What a command line asks for, not run: a command's options, or what its reader returns.

    Options are read by the command's own parser. No folder that they name is looked at. Raises
    Refused or ExperimentError for a name that there is not, SystemExit(2) for other arguments.
    """
    name, rest = _split(list(arguments))
    command = _command(name)
    if command.reader:
        return _load(command.reader)(rest)
    return _parse(name, _load(command.entry), rest)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in _HELP:
        _overview("")
        return DONE if arguments else REFUSED
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"gesso {version('gesso')}")
        return DONE
    if _is_group(arguments[0]) and (len(arguments) == 1 or arguments[1] in _HELP):
        _overview(arguments[0])
        return DONE if len(arguments) > 1 else REFUSED
    name, rest = _split(arguments)
    command = _command(name)
    entry = _load(command.entry)
    if not isinstance(entry, type):
        return entry(rest)
    return _parse(name, entry, rest).run()


def _is_group(name: str) -> bool:
    return name not in COMMANDS and any(each.startswith(f"{name} ") for each in COMMANDS)


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    """("corpus build", the arguments after it)."""
    words = 2 if _is_group(arguments[0]) else 1
    return " ".join(arguments[:words]), arguments[words:]


def _command(name: str) -> Command:
    if name not in COMMANDS:
        known = {*COMMANDS, *(each.split()[0] for each in COMMANDS)}
        near = did_you_mean(name, known, most=3, show=str)
        raise Refused(f"there is no command {name!r}{near} (gesso --help lists them all)")
    return COMMANDS[name]


def _load(entry: str) -> Any:
    """The dataclass or function that "module:name" names."""
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(f"gesso.launch.commands.{module}"), attribute)


def _parse(name: str, entry: type[Runnable], arguments: list[str]) -> Runnable:
    description = inspect.cleandoc(entry.__doc__ or COMMANDS[name].summary)
    return parse(entry, arguments, prog=f"gesso {name}", description=description)


def _overview(group: str) -> None:
    from rich.table import Table

    console = output()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for name, command in COMMANDS.items():
        if not group or name.startswith(f"{group} "):
            table.add_row(f"gesso {name}", command.summary)
    console.print("[bold]Gesso[/] pretrains language models in JAX.\n")
    console.print(table)
    console.print("\nEach has --help with an example. New here? gesso quickstart")
    console.print(_STATUSES, style="dim")


def _is_ours(error: BaseException) -> bool:
    """Did our own code refuse (a message for users), or did a library trip over our arguments?"""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return False
    return trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in ("gesso", "__main__")


if __name__ == "__main__":
    sys.exit(main())
