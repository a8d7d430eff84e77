"""Where a huge document may be cut before encoding, so that the ids stay the same.

Tokenizers that split text before merging never join a character that is not white space to white
space after it. So a cut between the two leaves every piece, and every id, as it was. Lookaheads see
the same too: they only look from white space onwards.
"""

import re
from collections.abc import Iterable, Iterator

from gesso.data.tokenizers.base import utf8

# A larger document is cut for every tokenizer, so that memory stays bounded. Where cuts are not
# proven exact this is the tokenizer's documented behaviour.
CUT_ABOVE = 1 << 20

# Unicode's White_Space, which is what \s means in the tokenizers' regular expressions. Python's
# own \s has U+001C..U+001F in addition, so its \S is on the safe side for "not white space".
_WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
BEFORE_SPACE = re.compile(r"(?<=\S)(?= )")
BEFORE_WHITE_SPACE = re.compile(r"(?<=\S)(?=[ \t\n\r])")
# GPT-2's `\s+(?!\S)` takes all of a run but its last character, so a cut before that is exact too.
_INSIDE_LONG_RUN = re.compile(rf"[{_WHITE_SPACE}]{{512,}}(?=[^{_WHITE_SPACE}])")


def cut(text: str, *, characters: int, at: re.Pattern[str] = BEFORE_SPACE) -> list[str]:
    """Pieces of at least `characters` characters (but for the last), cut where `at` matches.

    A piece is longer where no cut comes earlier: ids matter more than the size of a piece.
    """
    pieces, start = [], 0
    while len(text) - start > characters:
        found = at.search(text, start + characters)
        if found is None:
            break
        pieces.append(text[start : found.start()])
        start = found.start()
    pieces.append(text[start:])
    return pieces


def cut_long_runs(text: str) -> list[str]:
    """Pieces cut before the last character of every run of 512 white-space characters or more.

    Exact for GPT-2's regular expression, whose backtracking over a run of about a million
    characters of white space would exhaust the stack of tiktoken's engine.
    """
    ends = [found.end() - 1 for found in _INSIDE_LONG_RUN.finditer(text)]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def training_chunks(
    texts: Iterable[str], *, bytes_each: int, limit_bytes: int | None = None
) -> Iterator[str]:
    """Texts for a trainer in chunks of up to `bytes_each` UTF-8 bytes, about `limit_bytes` in all.

    They are cut before spaces where there are any. Raises TokenizerError for a lone surrogate.
    """
    total, most = 0, bytes_each // 4  # a character has at most 4 bytes
    for text in texts:
        total += len(utf8(text))
        for piece in cut(text, characters=most // 2):
            for start in range(0, len(piece), most):
                yield piece[start : start + most]
        if limit_bytes is not None and total >= limit_bytes:
            return
