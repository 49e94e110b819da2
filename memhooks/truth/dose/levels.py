"""Levels of k: paragraphs that were read about as often, by powers of two."""

import numpy as np
from jaxtyping import Bool, Float, Int

from memhooks.errors import InputError
from memhooks.paragraphs.paragraphs import Paragraphs

_FEWEST_LEVELS = 3
_FEWEST = 2


def counts_of(paragraphs: Paragraphs) -> Int[np.ndarray, " paragraph"]:
    """How often each paragraph was read.

    Raises:
        InputError: no counts, counts below 1, fewer than three levels, or a level of one paragraph.
    """
    if paragraphs.counts is None:
        raise InputError(
            "a dose response needs how often each paragraph was read; give paragraphs with counts "
            "(a `count` in each line of a .jsonl file, or set A)"
        )
    counts = np.asarray(paragraphs.counts)
    if (counts < 1).any():
        name = paragraphs.ids[int(np.argmax(counts < 1))]
        raise InputError(f"counts must be at least 1, but {name} has {counts.min()}; leave out what was never read")
    level, size = np.unique(levels(counts), return_counts=True)
    if len(level) < _FEWEST_LEVELS:
        shown = ", ".join(map(str, level))
        raise InputError(f"a dose response needs counts of at least {_FEWEST_LEVELS} powers of two, got {shown}")
    if size.min() < _FEWEST:
        raise InputError(
            f"each level needs at least {_FEWEST} paragraphs, and k = {level[size.argmin()]} has {size.min()}; "
            "give more paragraphs"
        )
    return counts


def levels(counts: Int[np.ndarray, " paragraph"]) -> Int[np.ndarray, " paragraph"]:
    """The largest power of two that is at most each count."""
    return 2 ** np.floor(np.log2(counts)).astype(int)


def log_k(counts: Int[np.ndarray, " paragraph"]) -> Float[np.ndarray, " paragraph"]:
    """Doublings of k, 0 = read once."""
    return np.log2(counts)


def drawn_of_each(level: Int[np.ndarray, " paragraph"], *, n: int, seed: int) -> Bool[np.ndarray, " paragraph"]:
    """Whether each paragraph is among the `n` drawn at random of its level (all, where it has no more)."""
    order = np.random.default_rng(seed).permutation(len(level))
    chosen = np.zeros(len(level), dtype=bool)
    for one in np.unique(level):
        chosen[order[level[order] == one][:n]] = True
    return chosen
