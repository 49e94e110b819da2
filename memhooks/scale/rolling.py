"""Hashes of all windows of a text in a few passes, however long the windows are.

The hash is that of `memhooks.paragraphs.ngrams`: codes times powers of an odd number, modulo 2**64. With running sums
S of code[j] * P**j the window from i on has the hash (S[i + n] - S[i]) * P**-i, and an odd P has such an inverse.
Bytes that must move: a few per token, as everything happens in stretches that stay in the cache.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Integer, UInt64

from memhooks.paragraphs.ngrams import PLACE, codes_of

_STRETCH = 1 << 15
_TABLE = 1 << 17


def window_hashes(tokens: Integer[np.ndarray, " pos"], n: int) -> UInt64[np.ndarray, " window"]:
    """One hash per window of `n` tokens, in order; equal to `ngram_hashes`, and faster for long windows.

    Raises:
        ValueError: `n` is below one.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    found = np.empty(max(0, len(tokens) - n + 1), np.uint64)
    powers, inverses = _powers(_STRETCH + n)
    sums = np.zeros(_STRETCH + n, np.uint64)
    for start in range(0, len(found), _STRETCH):
        stretch = tokens[start : start + _STRETCH + n - 1]
        n_windows = len(stretch) - n + 1
        weighted = _codes(stretch)
        weighted *= powers[: len(stretch)]
        np.cumsum(weighted, out=sums[1 : len(stretch) + 1])
        own = found[start : start + n_windows]
        np.subtract(sums[n : n + n_windows], sums[:n_windows], out=own)
        own *= inverses[:n_windows]
    return found


def _codes(tokens: Integer[np.ndarray, " pos"]) -> UInt64[np.ndarray, " pos"]:
    table = _table()
    if len(tokens) and (tokens.max() >= len(table) or tokens.min() < 0):
        return codes_of(tokens)
    return table[tokens]


@lru_cache(maxsize=1)
def _table() -> UInt64[np.ndarray, " id"]:
    return codes_of(np.arange(_TABLE))


@lru_cache(maxsize=4)
def _powers(length: int) -> tuple[UInt64[np.ndarray, " place"], UInt64[np.ndarray, " place"]]:
    """The first powers of the odd number, and of its inverse."""
    inverse = np.uint64(pow(int(PLACE), -1, 2**64))
    return tuple(np.cumprod(np.concatenate([[one], np.full(length - 1, base)]), dtype=np.uint64)
                 for one, base in ((np.uint64(1), PLACE), (np.uint64(1), inverse)))  # fmt: skip  # pyright: ignore[reportReturnType]
