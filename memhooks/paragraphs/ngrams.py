"""Which runs of tokens occur where: exact n-grams as 64-bit hashes.

A window's hash is the sum of its tokens' scrambled 64-bit codes, each multiplied by an
odd number raised to its place in the window, modulo 2**64: equal windows have equal
hashes, and two of a billion different windows collide with a chance of about 1 in 37.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, UInt64

PLACE = np.uint64(6364136223846793005)
"""The odd number whose powers tell a window's places apart."""


def ngram_hashes(tokens: Int[np.ndarray, "*rows pos"], n: int) -> UInt64[np.ndarray, "*rows window"]:
    """One hash per window of `n` tokens, in order; empty if the text is shorter than `n`.

    Raises:
        ValueError: `n` is below one.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    n_windows = max(0, tokens.shape[-1] - n + 1)
    hashes = np.zeros((*tokens.shape[:-1], n_windows), np.uint64)
    if hashes.size == 0:
        return hashes
    codes = codes_of(tokens)
    places = PLACE ** np.arange(n, dtype=np.uint64)
    for place in range(n):  # n passes over the text keep memory at one number per window
        hashes += codes[..., place : place + n_windows] * places[place]
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


def codes_of(tokens: Int[np.ndarray, "*rows pos"]) -> UInt64[np.ndarray, "*rows pos"]:
    """A scrambled 64-bit code of each token."""
    # SplitMix64's finalizer: unlike a table of random codes it needs no memory for large ids.
    codes = tokens.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return codes ^ (codes >> np.uint64(31))
