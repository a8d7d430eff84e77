"""Chat turns as a published jinja2 template writes them, with the assistant's tokens known exactly.

Where the assistant's texts are is found by rendering the conversation up to each of them: what the
template writes before an answer and what it has written after it must both begin the whole. Every
such span is tokenized by itself, so no token lies across a border, and what a prompt becomes never
depends on what follows it.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import numpy as np

from gesso.data.tokenizers.base import Tokenizer
from gesso.finetune.instructions.fields import FieldError, Record

# Ours: a line with the role before each turn, and the end of an answer as a token of its own.
PLAIN = (
    "{% for message in messages %}{{ '\n' if not loop.first }}<|{{ message.role }}|>\n"
    "{{ message.content }}{{ eos_token if message.role == 'assistant' }}{% endfor %}"
    "{{ '\n<|assistant|>\n' if add_generation_prompt }}"
)
PLAIN_END = "<|end|>"
# Private-use characters around what {% generation %} marks; a text that has them is refused.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"

Messages = Sequence[Record]


class Span(NamedTuple):
    """A stretch of a conversation. predicted: the assistant says it."""

    text: str
    predicted: bool


class ChatTemplate:
    """A jinja2 chat template, rendered in a sandbox, without access to files, clock or network.

    special: {text: id}, the texts of the template that are one token each. They are not plain text
    then: a message that spells one is refused. bos, eos: what bos_token and eos_token say. Raises
    ValueError for a template that jinja2 cannot parse.
    """

    def __init__(
        self, source: str, *, special: Mapping[str, int] | None = None, bos: str = "", eos: str = ""
    ) -> None:
        self.source, self.special = source, dict(special or {})
        self.bos, self.eos = bos, eos
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
        )
        environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template cannot be parsed: {error}") from None

    def render(self, messages: Messages) -> str:
        """The whole conversation. Raises FieldError ("bad_chat") where the template refuses it."""
        return self._render(messages, add_generation_prompt=False).translate(_UNMARKED)

    def prompt(self, messages: Messages) -> str:
        """The conversation and what comes before the assistant's next answer; as `render`."""
        return self._render(messages, add_generation_prompt=True).translate(_UNMARKED)

    def spans(self, messages: Messages) -> list[Span]:
        """The conversation cut at the assistant's texts; joined they are `render(messages)`.

        An answer goes with what ends it (<|im_end|>), not with what begins it. Raises FieldError
        where the template does not let them be told exactly.
        """
        for message in messages:
            for text in (*self.special, _OPEN, _CLOSE):
                if text in str(message.get("content")):
                    raise FieldError("bad_chat", f"a message spells the special token {text!r}")
        marked = self._render(messages, add_generation_prompt=False)
        borders = _find_marks(marked) if _OPEN in marked else self._find_answers(messages, marked)
        whole, spans, at = marked.translate(_UNMARKED), [], 0
        for first, last in borders:
            spans += [Span(whole[at:first], False), Span(whole[first:last], True)]
            at = last
        return [span for span in [*spans, Span(whole[at:], False)] if span.text]

    def encode(self, messages: Messages, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        """(ids u32[n], predicted u8[n]) of a conversation; nothing is added to what the template
        writes."""
        ids, mask = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint8)]
        for span in self.spans(messages):
            found = self.ids(span.text, tokenizer)
            ids.append(found)
            mask.append(np.full(len(found), span.predicted, np.uint8))
        return np.concatenate(ids), np.concatenate(mask)

    def ids(self, text: str, tokenizer: Tokenizer) -> np.ndarray:
        """u32 ids of a stretch of text, special texts as their ids."""
        if not self.special:
            return tokenizer.encode(text)
        by_length = sorted(self.special, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, by_length))})", text)
        found = [
            np.array([self.special[part]], np.uint32) if k % 2 else tokenizer.encode(part)
            for k, part in enumerate(parts)
            if part
        ]
        return np.concatenate([np.zeros(0, np.uint32), *found])

    def _find_answers(self, messages: Messages, whole: str) -> list[tuple[int, int]]:
        borders = []
        for k, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = self.prompt(messages[:k]), self.render(messages[: k + 1])
            if not (after.startswith(before) and whole.startswith(after)):
                raise FieldError(
                    "bad_chat",
                    f"the template writes turn {k} differently when more follows it, so its tokens"
                    " cannot be told exactly; mark them with {% generation %} in the template, or"
                    " keep one answer per conversation",
                )
            borders.append((len(before), len(after)))
        return borders

    def _render(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos,
                eos_token=self.eos,
                tools=None,
                documents=None,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise FieldError("bad_chat", f"the chat template refuses it: {error}") from None


def plain_template(tokenizer: Tokenizer) -> ChatTemplate:
    """Our own template; answers end with the tokenizer's end-of-document id."""
    return ChatTemplate(PLAIN, special={PLAIN_END: tokenizer.eos}, eos=PLAIN_END)


def read_template(path: str | Path) -> str:
    """The template of a jinja2 file, or of a tokenizer_config.json. Raises ValueError."""
    path = Path(path).expanduser()
    try:
        text = path.read_text()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if path.suffix != ".json":
        return text
    found = json.loads(text).get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {each["name"]: each["template"] for each in found}.get("default")
    if not isinstance(found, str):
        raise ValueError(f"{path}: has no chat_template")
    return found


_UNMARKED = {ord(_OPEN): None, ord(_CLOSE): None}


def _find_marks(text: str) -> list[tuple[int, int]]:
    borders, at, first = [], 0, 0
    for part in re.split(f"([{_OPEN}{_CLOSE}])", text):
        if part == _OPEN:
            first = at
        elif part == _CLOSE:
            borders.append((first, at))
        else:
            at += len(part)
    return borders


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Generation(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}, with which templates mark what the assistant says."""

    tags = {"generation"}

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"
