"""What a byte-level BPE tokenizer.json means: vocabulary, merges, added tokens, canonical form.

Also the proof that lets tiktoken, which knows only ranks, stand in for a list of merges.
"""

import json
from dataclasses import dataclass
from typing import Any

from gesso.data.tokenizers.base import Json, TokenizerError

# Options of the model and their values when off.
_MODEL_DEFAULTS = {
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "ignore_merges": (None, False),
    "byte_fallback": (None, False),
}


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A checked tokenizer.json.

    vocab: token (GPT-2's printable alphabet) to id. merges: pairs of tokens in order.
    added: the added tokens, as in the file. canonical: bytes that are equal for equal tokenizers.
    gpt2_splitting: the text is split by GPT-2's regular expression and nothing else touches it.
    cuttable: cutting a text before a space leaves its ids as they are, for certain.
    plain_model: BPE without the options under which tiktoken's rule is not the model's rule.
    """

    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    added: list[Json]
    vocab_size: int
    canonical: bytes
    gpt2_splitting: bool
    cuttable: bool
    plain_model: bool

    def bytes_of_id(self) -> list[bytes]:
        """The UTF-8 bytes of each id; empty for special tokens and unused ids."""
        table = [b""] * self.vocab_size
        for token, index in self.vocab.items():
            table[index] = _token_bytes(token)
        for token in self.added:
            table[token["id"]] = b"" if token["special"] else token["content"].encode()
        return table


def read_definition(definition: Json, *, source: str = "tokenizer.json") -> Definition:
    """Check a tokenizer.json's content and say what it means.

    Truncation, padding and the post-processor never apply to a corpus, so they do not count.
    Raises TokenizerError for another kind of model and for a vocabulary and merges that do not
    belong together (one of them cut off).
    """
    model = definition.get("model")
    if not isinstance(model, dict) or "merges" not in model or model.get("type", "BPE") != "BPE":
        found = model.get("type", "no type") if isinstance(model, dict) else "no model"
        raise TokenizerError(f"{source}: {found}; byte-level BPE (as GPT-2's) is what is read here")
    steps = _steps(definition.get("pre_tokenizer"), "pretokenizers")
    if not any(step.get("type") == "ByteLevel" for step in steps):
        raise TokenizerError(
            f"{source}: BPE over characters, not bytes; only byte-level BPE is read here"
        )
    vocab = model["vocab"]
    merges = _pairs(model["merges"], source)
    added = [_read_added(token, source) for token in definition.get("added_tokens") or []]
    _check(vocab, merges, added, source)
    normalizer = definition.get("normalizer")
    text_tokens = [token for token in added if not token["special"]]
    gpt2 = len(steps) == 1 and steps[0].get("use_regex", True)
    prefix = any(step.get("add_prefix_space") for step in steps)
    normal = all(step.get("type") == "NFC" for step in _steps(normalizer, "normalizers"))
    whole = all(_uncut(token) for token in text_tokens)
    ids = [*vocab.values(), *(token["id"] for token in added)]
    return Definition(
        vocab=vocab,
        merges=merges,
        added=added,
        vocab_size=max(ids) + 1,
        canonical=_canonical(definition, vocab, merges, added, steps),
        gpt2_splitting=gpt2 and not prefix and normalizer is None and not text_tokens,
        cuttable=gpt2 and normal and whole,
        plain_model=all(model.get(name) in plain for name, plain in _MODEL_DEFAULTS.items()),
    )


def tiktoken_ranks(read: Definition) -> dict[bytes, int] | None:
    """Ranks under which tiktoken gives the ids of these merges, or None where that is not proven.

    tiktoken joins the neighbours whose union has the lowest rank, whatever pair that is; BPE joins
    listed pairs only. They are equal when the ids of the results rise in the order of the merges
    and each result, reduced by lower ranks alone, ends in exactly its listed pair: neighbours that
    span a result were formed inside it, in that same order, so no other pair can arise.
    """
    if not (read.gpt2_splitting and read.plain_model):
        return None
    results = [read.vocab[a + b] for a, b in read.merges]
    if any(a >= b for a, b in zip(results, results[1:], strict=False)):
        return None
    ranks = {bytes([byte]): read.vocab[symbol] for symbol, byte in ALPHABET.items()}
    for (left, right), rank in zip(read.merges, results, strict=True):
        first, second = _token_bytes(left), _token_bytes(right)
        if first not in ranks or second not in ranks:
            return None
        if _reduce(first + second, ranks) != [first, second]:
            return None
        ranks[first + second] = rank
    return ranks


def _reduce(piece: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    parts = [piece[i : i + 1] for i in range(len(piece))]
    unknown = len(ranks) + (1 << 32)
    pairs = [ranks.get(a + b, unknown) for a, b in zip(parts, parts[1:], strict=False)]
    while pairs and (lowest := min(pairs)) < unknown:
        at = pairs.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del pairs[at]
        if at:
            pairs[at - 1] = ranks.get(parts[at - 1] + parts[at], unknown)
        if at < len(pairs):
            pairs[at] = ranks.get(parts[at] + parts[at + 1], unknown)
    return parts


def _alphabet() -> dict[str, int]:
    # GPT-2 writes printable Latin-1 bytes as themselves and the rest as U+0100, U+0101, ...
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in printable}
    return symbols | {chr(256 + n): byte for n, byte in enumerate(others)}


ALPHABET = _alphabet()


def _token_bytes(token: str) -> bytes:
    try:
        return bytes([ALPHABET[symbol] for symbol in token])
    except KeyError:  # a special token written as plain text
        return token.encode("utf-8", "replace")


def _steps(step: Json | None, list_name: str) -> list[Json]:
    if step is None:
        return []
    if step.get("type") == "Sequence":
        return [inner for one in step[list_name] for inner in _steps(one, list_name)]
    return [step]


def _pairs(merges: list[Any], source: str) -> list[tuple[str, str]]:
    pairs = []
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if len(pair) != 2:
            raise TokenizerError(f"{source}: merge {number} is not a pair: {merge!r}")
        pairs.append((pair[0], pair[1]))
    return pairs


def _read_added(token: Any, source: str) -> Json:
    if not isinstance(token, dict) or not isinstance(token.get("id"), int):
        raise TokenizerError(f"{source}: an added token without an id: {token!r}")
    if not isinstance(token.get("content"), str):
        raise TokenizerError(f"{source}: an added token without content: {token!r}")
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {
        "id": token["id"],
        "content": token["content"],
        **{flag: bool(token.get(flag)) for flag in flags},
    }


def _uncut(token: Json) -> bool:
    # An added token that holds a cutting point, or eats the white space after it, forbids cuts.
    content = token["content"]
    inside = any(
        not a.isspace() and b.isspace() for a, b in zip(content, content[1:], strict=False)
    )
    return not inside and not token["rstrip"]


def _check(vocab: Any, merges: list[tuple[str, str]], added: list[Json], source: str) -> None:
    if not isinstance(vocab, dict) or not all(type(index) is int for index in vocab.values()):
        raise TokenizerError(f"{source}: the vocabulary is not a map from tokens to ids")
    if len(set(vocab.values())) != len(vocab) or min(vocab.values(), default=0) < 0:
        raise TokenizerError(f"{source}: two tokens share an id, or an id is negative")
    missing = [byte for symbol, byte in ALPHABET.items() if symbol not in vocab]
    if missing:
        raise TokenizerError(
            f"{source}: {len(missing)} of the 256 bytes are not in the vocabulary "
            f"(first: 0x{missing[0]:02x}); it is cut off or not byte-level"
        )
    for left, right in merges:
        lost = next((token for token in (left, right, left + right) if token not in vocab), None)
        if lost is not None:
            raise TokenizerError(
                f"{source}: the merges use {lost!r}, which is not in the vocabulary; "
                "the vocabulary and the merges do not belong together"
            )
    known = {*ALPHABET, *(a + b for a, b in merges), *(token["content"] for token in added)}
    unreachable = [token for token in vocab if token not in known]
    if len(unreachable) > 32 + len(vocab) // 100:
        raise TokenizerError(
            f"{source}: {len(unreachable)} of {len(vocab)} tokens cannot be reached by the merges "
            f"(such as {unreachable[0]!r}); the merges are cut off"
        )


def _canonical(
    definition: Json,
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    added: list[Json],
    steps: list[Json],
) -> bytes:
    """What decides ids, and nothing else, in one spelling."""
    model = definition["model"]
    special = {token["content"]: token["id"] for token in added if token["special"]}
    content = {
        "vocab": {token: index for token, index in vocab.items() if token not in special},
        "merges": merges,
        "special": special,
        "text_tokens": [token for token in added if not token["special"]],
        "normalizer": definition.get("normalizer"),
        "pre_tokenizer": [
            {name: value for name, value in step.items() if name != "trim_offsets"}
            | ({"use_regex": step.get("use_regex", True)} if step["type"] == "ByteLevel" else {})
            for step in steps
        ],
        "model": {
            name: model.get(name)
            for name, plain in _MODEL_DEFAULTS.items()
            if model.get(name) not in plain
        },
    }
    return json.dumps(content, sort_keys=True, ensure_ascii=True).encode()
