"""Which runs of tokens occur where: exact n-grams as 64-bit hashes.

A window's hash is the sum of its tokens' random 64-bit codes, each multiplied by an
odd number raised to its place in the window, modulo 2**64: equal windows have equal
hashes, and two of a billion different windows collide with a chance of about 1 in 37.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, UInt64

_PLACE = np.uint64(6364136223846793005)
_SEED = 20240328


def ngram_hashes(tokens: Int[np.ndarray, " pos"], n: int) -> UInt64[np.ndarray, " window"]:
    """One hash per window of `n` tokens, in order; empty if the text is shorter than `n`.

    Raises:
        ValueError: `n` is below one.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if len(tokens) < n:
        return np.zeros(0, np.uint64)
    codes = _codes(int(tokens.max()) + 1)[tokens]
    places = _PLACE ** np.arange(n, dtype=np.uint64)
    hashes = np.zeros(len(tokens) - n + 1, np.uint64)
    for place in range(n):  # n passes over the text keep memory at one number per window
        hashes += codes[place : place + len(hashes)] * places[place]
    return hashes


def ngram_counts(
    texts: Iterable[Int[np.ndarray, " _"]], n: int
) -> tuple[UInt64[np.ndarray, " distinct"], Int[np.ndarray, " distinct"]]:
    """The distinct n-grams of all texts (as sorted hashes) and how often each occurs."""
    hashes = [ngram_hashes(text, n) for text in texts]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]), return_counts=True)


def lookup(
    hashes: UInt64[np.ndarray, " window"],
    known: UInt64[np.ndarray, " distinct"],
    counts: Int[np.ndarray, " distinct"],
) -> Int[np.ndarray, " window"]:
    """The count of each hash among the sorted `known` ones; 0 where it is not there."""
    if len(known) == 0:
        return np.zeros(len(hashes), np.int64)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[at] == hashes, counts[at], 0)


def _codes(n_tokens: int) -> UInt64[np.ndarray, " token"]:
    # The generator fills in order, so a larger vocabulary extends the same codes.
    return np.random.default_rng(_SEED).integers(1, 2**63, size=n_tokens, dtype=np.uint64)
