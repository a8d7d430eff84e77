"""Random numbers that are a pure function of a key and a counter: no state, no order of calls.

numpy does not promise that a Generator's methods give the same numbers in another version (NEP 19),
so the arithmetic is spelled out: the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA
2014, https://doi.org/10.1145/2660193.2660195) at the counter's place of the key's stream.
"""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def draw(key: np.ndarray | np.uint64, counter: np.ndarray) -> np.ndarray:
    """u64 numbers, uniform over all of them: one for every counter (integers from 0), broadcast
    against the keys (u64)."""
    steps = (np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)) * _GAMMA
    z = np.asarray(steps + key)
    shifted = z >> np.uint64(30)
    z ^= shifted
    z *= _FIRST
    np.right_shift(z, np.uint64(27), out=shifted)
    z ^= shifted
    z *= _SECOND
    np.right_shift(z, np.uint64(31), out=shifted)
    z ^= shifted
    return z


def fraction(drawn: np.ndarray) -> np.ndarray:
    """f64 in [0, 1) from u64, 53 bits of each."""
    return (drawn >> np.uint64(11)) * 2.0**-53


def below(drawn: np.ndarray, n: np.ndarray | int) -> np.ndarray:
    """i64 in [0, n) from u64; n at most 2**31, where the bias is below n / 2**32."""
    return ((drawn >> np.uint64(32)) * np.asarray(n).astype(np.uint64) >> np.uint64(32)).astype(
        np.int64
    )
