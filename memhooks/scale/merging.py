"""Which finds are the same text, or nearly? Each is represented by the best of those that are alike.

1. Exact copies fall together by their bytes.
2. Distinct texts come in order of rank. Each is compared with those that were kept before it, and joins the best one
   that is similar: that shares enough of the 5-grams which either has (Jaccard, as that is what MinHash estimates).
3. A text is similar to none if too few of its n-grams stand in any other one; it is kept without more.
4. Candidates for the others come from MinHash with locality-sensitive hashing (datasketch); each is then compared
   exactly, so nothing is merged wrongly. Of pairs just similar enough at most 1 in 200 is missed (1 in 270 at one
   half), of more similar ones fewer.

Similarity is not passed on: a long text that the model recites stays a row of windows, where linking whatever
overlaps (`splits.clusters`) would leave one window of it. Windows of 100 tokens that overlap by half share 46 of
their 146 5-grams, a Jaccard of 1/3, and both stay. Only kept texts are entered, so that a thousand variants of one
licence are compared with a few.

A text that needs step 4 and is kept takes about 16 kB, nearly all of it in the index.
"""

from dataclasses import dataclass

import numpy as np
from datasketch import MinHash, MinHashLSH
from jaxtyping import Integer, Num, UInt64

from memhooks.errors import InputError
from memhooks.paragraphs.ngrams import lookup, ngram_hashes
from memhooks.progress import tracked

_RECALL = 0.995
"""Least chance that two texts just similar enough become candidates of each other."""
_BLOCK = 65_536  # rows looked up at once; 50 MB of windows of 100


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
    n_permutations: int = 128,
    seed: int = 0,
) -> Merged:
    """Merge copies and near-copies.

    Args:
        tokens: one row per find.
        rank: the higher stands for the lower; of equals the first.
        n: length of the n-grams that are compared.
        similar: share of common n-grams from which on two texts are one, above 0 to 1; 1 merges exact copies alone.
        n_permutations: values in a text's MinHash at most; a small `similar` needs many.
        seed: of the hash functions.

    Raises:
        InputError: there are no finds, their ranks are of another number or not numbers, or settings are out of range.
    """
    _check_finds(tokens, rank)
    if not 1 <= n <= tokens.shape[1]:
        raise InputError(f"n must lie in 1..{tokens.shape[1]}, the tokens of a find, got {n}")
    check_similar(similar, n_permutations=n_permutations)
    # The best first, of equals the first: -rank would be wrong for unsigned numbers.
    order = len(rank) - 1 - np.argsort(rank[::-1], kind="stable")[::-1]
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
        stands[distinct] = distinct[_joined(rows[distinct], n, similar, _bands(similar, n_permutations), seed)]
    # from a find to the best of its copies, to that one's representative, and back to the order that came in
    representative = np.empty(len(rows), np.int64)
    representative[order] = order[stands[best[kind]]]
    per_find = np.empty(len(rows), np.int64)
    per_find[order] = copies[kind]
    near = np.bincount(order[stands[distinct]], minlength=len(rows))
    near[order[distinct]] -= stands[distinct] == distinct
    return Merged(representative, per_find, near)


def check_similar(similar: float | int, *, n_permutations: int = 128) -> None:
    """Refuse limits at which candidates would be missed.

    Raises:
        InputError: it does not lie above 0 and up to 1, or needs more permutations.
    """
    if not 0 < similar <= 1:
        raise InputError(f"similar must lie above 0 and up to 1, got {similar}")
    if n_permutations < 1:
        raise InputError(f"n_permutations must be at least 1, got {n_permutations}")
    if _recall(similar, n_permutations, 1) < _RECALL:
        needed = int(np.ceil(np.log(1 - _RECALL) / np.log1p(-similar)))
        raise InputError(
            f"similar={similar} needs n_permutations of at least {needed}, got {n_permutations}; give more of them, "
            "or a larger similar"
        )


def _check_finds(tokens: np.ndarray, rank: np.ndarray) -> None:
    if tokens.ndim != 2 or not tokens.size:
        raise InputError(f"finds need tokens of shape [find, pos] and at least one find, got {tokens.shape}")
    if rank.shape != tokens.shape[:1]:
        raise InputError(f"finds need one rank each: got ranks of shape {rank.shape} for {len(tokens)} finds")
    if np.isnan(rank).any():
        raise InputError(f"ranks must be numbers, but {np.isnan(rank).sum()} of {len(rank)} are NaN; replace them")


def _recall(similar: float | int, n_permutations: int, n_rows: int) -> float | int:
    """The chance that two texts of this similarity agree in all rows of some band."""
    return 1 - (1 - similar**n_rows) ** (n_permutations // n_rows)


def _bands(similar: float | int, n_permutations: int) -> tuple[int, int]:
    """Bands, and rows of a band: more rows mean fewer dissimilar candidates; too many, and similar ones are missed."""
    fitting = [r for r in range(1, n_permutations + 1) if _recall(similar, n_permutations, r) >= _RECALL]
    return n_permutations // fitting[-1], fitting[-1]


def _joined(
    rows: Integer[np.ndarray, "text pos"], n: int, similar: float | int, bands: tuple[int, int], seed: int
) -> Integer[np.ndarray, " text"]:
    """For each text, the best ranked first, the kept text that stands for it."""
    grams = np.sort(ngram_hashes(rows, n), axis=1)
    sizes, shared = _gram_numbers(grams)
    index = MinHashLSH(num_perm=bands[0] * bands[1], params=bands)
    blank = MinHash(num_perm=bands[0] * bands[1], seed=seed, hashfunc=_lower_half)
    stands = np.arange(len(rows))
    for at in tracked(np.nonzero(shared / sizes >= similar)[0].tolist(), "merging near-duplicates"):
        own = set(grams[at].tolist())
        sketch = blank.copy()
        sketch.update_batch(own)
        best = (0.0, 0)
        for other in map(int, index.query(sketch)):  # type: ignore[arg-type]
            common = len(own.intersection(grams[other].tolist()))
            best = max(best, (common / (len(own) + int(sizes[other]) - common), -other))
        if best[0] >= similar:
            stands[at] = -best[1]
        else:
            index.insert(at, sketch)
    return stands


def _gram_numbers(
    grams: UInt64[np.ndarray, "text window"],
) -> tuple[Integer[np.ndarray, " text"], Integer[np.ndarray, " text"]]:
    """How many distinct n-grams each text has, of sorted ones, and how many of these stand in another text, too."""
    once = np.ones(grams.shape, bool)
    once[:, 1:] = grams[:, 1:] != grams[:, :-1]
    every = np.sort(grams[once])
    common = np.unique(every[1:][every[1:] == every[:-1]])
    shared = np.zeros(len(grams), np.int64)
    for start in range(0, len(grams), _BLOCK):
        block = slice(start, start + _BLOCK)
        found = lookup(grams[block].reshape(-1), common, np.ones(len(common), np.int64)).reshape(grams[block].shape)
        shared[block] = (found * once[block]).sum(1)
    return once.sum(1), shared


def _lower_half(gram: int) -> int:
    """The n-grams are hashes already; MinHash takes 32 bits."""
    return gram & 0xFFFFFFFF
