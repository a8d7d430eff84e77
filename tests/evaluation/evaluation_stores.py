"""A finished store in memory, with what data.open.heldout and the baselines read of one."""

import numpy as np

from gesso.data.tokenizers.bytes import BytesTokenizer


class MemoryEra:
    def __init__(self, documents):
        self.documents = documents  # {(component, split): [ids with EOS]}

    def lengths(self, component, split):
        return np.array([len(d) for d in self.documents.get((component, split), [])], np.int64)

    def read(self, component, split, starts, lengths):
        whole = np.concatenate(self.documents[component, split])
        spans = [whole[s : s + n] for s, n in zip(starts, lengths, strict=True)]
        return np.concatenate(spans).astype(np.uint16)


class MemoryStore:
    """texts: {component: {"train": [...], "holdout": [...]}}; two eras, documents in turn."""

    complete, folder, fingerprint = True, "memory", "0" * 64

    def __init__(self, texts, tokenizer=None):
        self.texts, self._tokenizer = texts, tokenizer or BytesTokenizer()
        self.components, self.eos = tuple(sorted(texts)), self._tokenizer.eos
        self.eras = [
            MemoryEra(
                {
                    (name, split): [self.ids(text) for text in documents[e::2]]
                    for name, splits in texts.items()
                    for split, documents in splits.items()
                }
            )
            for e in range(2)
        ]

    def ids(self, text):
        return np.append(self._tokenizer.encode(text), self.eos).astype(np.int64)

    def tokenizer(self):
        return self._tokenizer

    def era(self, e, wait_seconds=0.0):
        return self.eras[e] if e < len(self.eras) else None

    def totals(self):
        return {
            name: {
                split: {"bytes": sum(len(text.encode()) for text in documents)}
                for split, documents in splits.items()
            }
            for name, splits in self.texts.items()
        }
