"""Renderings as tokens, and which of them are predicted."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gesso.data.instructions.writer import encode_pairs
from gesso.data.tokenizers.base import Tokenizer
from gesso.finetune.instructions.chat import ChatTemplate
from gesso.finetune.instructions.examples import Example
from gesso.finetune.instructions.render import Rendered, Renderer


class Piece(NamedTuple):
    """One rendering of one example. ids u32[n]; predicted u8[n]; text: as it was tokenized."""

    ids: np.ndarray
    predicted: np.ndarray
    text: str


def pieces_of(
    renderer: Renderer,
    asked: list[tuple[int, int]],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    counts: Counter[str],
) -> list[Piece]:
    """The renderings (example, rendering) asked for. Of those over max_tokens, examples leave the
    prompt, the first ones first, until they fit or none is left; counts says how often.

    counts: "form:NAME", "shots_missing", "shots_left_out", "over_max_tokens" are added to.
    """
    made: list[Piece | None] = [None] * len(asked)
    rendered = [renderer.render(i, r) for i, r in asked]
    for each in rendered:
        counts[f"form:{each.form}"] += 1
        counts["shots_missing"] += each.missing
    waiting = list(range(len(asked)))
    while waiting:
        again = []
        encoded = encode([rendered[k] for k in waiting], tokenizer)
        for k, piece in zip(waiting, encoded, strict=True):
            if len(piece.ids) > max_tokens and rendered[k].shots:
                counts["shots_left_out"] += 1
                rendered[k] = renderer.render(*asked[k], most_shots=rendered[k].shots - 1)
                again.append(k)
            else:
                counts["over_max_tokens"] += len(piece.ids) > max_tokens
                made[k] = piece
        waiting = again
    return [piece for piece in made if piece is not None]


def encode(rendered: Sequence[Rendered], tokenizer: Tokenizer) -> list[Piece]:
    """Prompt and target of each, tokenized apart (data.instructions.writer.encode_pairs)."""
    asked = [(each.prompt, each.target) for each in rendered]
    pieces = []
    for each, (ids, head) in zip(rendered, encode_pairs(asked, tokenizer), strict=True):
        predicted = (np.arange(len(ids)) >= head).astype(np.uint8)
        pieces.append(Piece(ids, predicted, each.prompt + each.target))
    return pieces


def chat_piece(example: Example, chat: ChatTemplate, tokenizer: Tokenizer) -> Piece:
    """A conversation as the template writes it; an answer without anything before it follows the
    end of another document."""
    messages = example.values["messages"]
    ids, predicted = chat.encode(messages, tokenizer)
    if predicted[0]:
        ids = np.concatenate(([tokenizer.eos], ids)).astype(np.uint32)
        predicted = np.concatenate(([0], predicted)).astype(np.uint8)
    return Piece(ids, predicted, chat.render(messages))
