"""A keyed permutation of [0, n) as a pure function: no table, no state, the same on every machine.

numpy does not promise that a Generator's methods give the same numbers in another version (NEP 19),
so the arithmetic is spelled out here, on uint64, and tests/data holds its goldens.
"""

import hashlib

import numpy as np

ROUNDS = 4


def make_key(*parts: str | int) -> np.ndarray:
    """u64[4] out of any strings and integers: a different key for every different tuple."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8 * ROUNDS).digest()
    return np.frombuffer(digest, "<u8")


def permute(index: np.ndarray, n: int, *, key: np.ndarray) -> np.ndarray:
    """Where a keyed bijection of [0, n) sends each index: i64, the shape of `index` ([m]).

    A balanced Feistel network on the smallest even number of bits that holds n, walked until the
    value is below n (cycle walking: Black and Rogaway, CT-RSA 2002). Raises ValueError when an
    index is outside [0, n).
    """
    index = np.asarray(index, np.int64)
    if index.size and (index.min() < 0 or index.max() >= n):
        raise ValueError(f"an index is outside the permutation of [0, {n})")
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    half, low = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    out = index.astype(np.uint64)
    walking = np.arange(out.size)
    while walking.size:
        x = out[walking]
        left, right = x >> half, x & low
        for r in range(ROUNDS):
            left, right = right, left ^ (_mix(right, key[r] ^ np.uint64(r)) & low)
        x = (left << half) | right
        out[walking] = x
        walking = walking[x >= np.uint64(n)]
    return out.astype(np.int64)


def _mix(x: np.ndarray, key: np.uint64) -> np.ndarray:
    # Odd multipliers of full width with a xor-shift between them: every input bit reaches every
    # low output bit. Arrays wrap modulo 2**64 without a warning.
    x = (x ^ key) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(32)
    return x
