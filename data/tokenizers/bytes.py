"""The tokenizer without a vocabulary: UTF-8 bytes."""

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from gesso.data.tokenizers.base import Tokenizer, check_ids, content_fingerprint, utf8
from gesso.data.tokenizers.special import continues_of


class BytesTokenizer(Tokenizer):
    """UTF-8 bytes as ids 0..255, and 256 for the end of a document."""

    kind = "bytes"
    vocab_size = 257
    eos = 256
    special = MappingProxyType({})

    def __init__(self) -> None:
        self.fingerprint = content_fingerprint(kind=self.kind, eos=self.eos, content=b"utf-8")
        self.byte_lengths = np.ones(self.vocab_size, np.int32)
        self.byte_lengths[self.eos] = 0
        self.continues = continues_of([*(bytes([each]) for each in range(256)), b""])

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8).astype(np.uint32)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids = check_ids(ids, vocab_size=self.vocab_size)
        return ids[ids < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def payload(self) -> dict[str, bytes]:
        return {}
