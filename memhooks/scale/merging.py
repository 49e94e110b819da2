"""Which finds are the same text, or nearly? Each is represented by the best of those that are alike.

1. Exact copies fall together by their bytes.
2. Distinct texts come in order of rank. Each is compared with those that were kept before it, and joins the best one
   that is similar: that shares enough of the 5-grams which either has (Jaccard).
3. Candidates come from MinHash with locality-sensitive hashing (datasketch); each is then compared exactly, so nothing
   is merged wrongly. Of pairs with a similarity of one half about 1 in 270 is missed, of more similar ones fewer.

Similarity is not passed on: a long text that the model recites stays a row of windows, each half the next one's,
where linking whatever overlaps would leave one window of it. Only kept texts are entered, so that a thousand variants
of one licence are compared with a few.
"""

from dataclasses import dataclass

import numpy as np
from datasketch import MinHash, MinHashLSH
from jaxtyping import Integer, Num

from memhooks.errors import InputError
from memhooks.paragraphs.ngrams import ngram_hashes
from memhooks.progress import tracked

_BANDS, _ROWS = 42, 3
"""At a similarity s a pair becomes a candidate with the chance 1 - (1 - s**3)**42."""


@dataclass(frozen=True)
class Merged:
    """Who stands for whom.

    Attributes:
        representative: row of the find that stands for each; its own where it was kept.
        copies: finds with the same tokens, itself included.
        near: other texts that each kept find stands for.
    """

    representative: Integer[np.ndarray, " find"]
    copies: Integer[np.ndarray, " find"]
    near: Integer[np.ndarray, " find"]


def merged(
    tokens: Integer[np.ndarray, "find pos"],
    rank: Num[np.ndarray, " find"],
    *,
    n: int = 5,
    similar: float | int = 0.5,
    seed: int = 0,
) -> Merged:
    """Merge copies and near-copies.

    Args:
        tokens: one row per find.
        rank: the higher stands for the lower; of equals the first.
        n: length of the n-grams that are compared.
        similar: share of common n-grams from which on two texts are one, 0.5 to 1; 1 merges exact copies alone.
        seed: of the hash functions.

    Raises:
        InputError: there are no finds, or settings out of range.
    """
    if tokens.ndim != 2 or not tokens.size or len(rank) != len(tokens) or np.isnan(rank).any():
        raise InputError(f"finds need [find, pos] tokens and a rank each, got {tokens.shape} and {rank.shape}")
    if not 1 <= n <= tokens.shape[1]:
        raise InputError(f"n must lie in 1..{tokens.shape[1]}, the tokens of a find, got {n}")
    check_similar(similar)
    order = np.argsort(-rank, kind="stable")
    rows = np.ascontiguousarray(tokens[order])
    _, best, kind, copies = np.unique(
        rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    distinct = np.sort(best)  # in order of rank
    stands = np.arange(len(rows))
    if similar < 1:
        stands[distinct] = distinct[_joined(rows[distinct], n, similar, seed)]
    # from a find to the best of its copies, to that one's representative, and back to the order that came in
    representative = np.empty(len(rows), np.int64)
    representative[order] = order[stands[best[kind]]]
    per_find = np.empty(len(rows), np.int64)
    per_find[order] = copies[kind]
    near = np.bincount(order[stands[distinct]], minlength=len(rows))
    near[order[distinct]] -= stands[distinct] == distinct
    return Merged(representative, per_find, near)


def check_similar(similar: float | int) -> None:
    """Refuse limits at which candidates would be missed.

    Raises:
        InputError: it does not lie in 0.5..1.
    """
    if not 0.5 <= similar <= 1:
        raise InputError(f"similar must lie in 0.5..1, got {similar}")


def _joined(rows: Integer[np.ndarray, "text pos"], n: int, similar: float, seed: int) -> Integer[np.ndarray, " text"]:
    """For each text, the best ranked first, the kept text that stands for it."""
    grams = [frozenset(own.tolist()) for own in ngram_hashes(rows, n)]
    index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
    blank = MinHash(num_perm=_BANDS * _ROWS, seed=seed, hashfunc=_lower_half)
    stands = np.arange(len(rows))
    for at, own in enumerate(tracked(grams, "merging near-duplicates")):
        sketch = blank.copy()
        sketch.update_batch(own)
        close = [(_jaccard(own, grams[other]), -other) for other in map(int, index.query(sketch))]  # type: ignore[arg-type]
        best = max(close, default=(0.0, 0))
        if best[0] >= similar:
            stands[at] = -best[1]
        else:
            index.insert(at, sketch)
    return stands


def _lower_half(gram: int) -> int:
    """The n-grams are hashes already; MinHash takes 32 bits."""
    return gram & 0xFFFFFFFF


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)
