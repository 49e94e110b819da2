"""Does one number go with another once a third is taken out? Across paragraphs, with draws and permutations.

1. What the third explains linearly is regressed out of both; what is left is correlated (of ranks: the partial rank
   correlation), and gives the slope.
2. The interval weighs the paragraphs as often as their clusters are drawn.
3. The permutation deals the first number anew among paragraphs that are neighbours in the third, so that what a
   straight line leaves of its influence is in the shuffles, too. Neighbours still differ a little in the third, and
   where they are few they differ much: p is about right with many paragraphs alone (see `enough_neighbours`).
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from memhooks.measure.intervals import interval_ends

Column = Float[np.ndarray, " paragraph"]
Given = Float[np.ndarray, "paragraph covariate"]

NEIGHBOURS = 6
"""Paragraphs among which a number is dealt anew where a covariate is taken out: neighbours by its rank."""

_LEAST_PER_LEVEL = 15
_LEAST = 72

_NOTHING = 1e-10
"""Share of a sum of squares that is rounding."""


def ranks(values: Column) -> Column:
    """Ranks from 1, ties share theirs."""
    return np.asarray(rankdata(values), dtype=np.float64)


def partial_correlation(x: Column, y: Column, given: Given) -> tuple[float, float]:
    """Correlation of what `given` and a constant leave of both, and the slope of y on x; NaN where nothing is left."""
    found = _partial(np.ones((1, len(x))), x, y, given)
    return float(found[0][0]), float(found[1][0])


def partial_intervals(
    x: Column, y: Column, given: Given, *, weights: Float[np.ndarray, "draw paragraph"], n_clusters: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of the 95 % intervals of `partial_correlation`: of the correlation, and of the slope.

    Args:
        x: held against y.
        y: the measure.
        given: taken out of both.
        weights: how often each paragraph is in each resampled set (`drawn_weights` without its first row).
        n_clusters: that were drawn from.
    """
    drawn = _partial(weights, x, y, given)
    r, slope = (_ends(one[~np.isnan(one)], n_clusters) for one in drawn)
    return r, slope


def shuffled_correlations(
    x: Column, y: Column, given: Given, *, block: Int[np.ndarray, " paragraph"], seed: int, n: int
) -> Float[np.ndarray, " shuffle"]:
    """`n` times the partial correlation after dealing x anew within each block; the same deals for the same blocks."""
    basis = _basis(given, len(x))
    left = _without(y[None], basis)[0]
    dealt = _without(_dealt(x, block, seed=seed, n=n), basis)
    size = np.sqrt((dealt**2).sum(1) * (left @ left))
    some = np.sqrt(((y - y.mean()) ** 2).sum() * ((x - x.mean()) ** 2).sum())
    return np.divide(dealt @ left, size, out=np.full(n, np.nan), where=size > _NOTHING * some)


def neighbours(covariate: Column, *, seed: int) -> Int[np.ndarray, " paragraph"]:
    """Blocks of about `NEIGHBOURS` paragraphs that are neighbours in the covariate; ties fall at random."""
    tie = np.random.default_rng(seed).random(len(covariate))
    place = np.empty(len(covariate), dtype=int)
    place[np.lexsort((tie, covariate))] = np.arange(len(covariate))
    n_blocks = max(1, len(covariate) // NEIGHBOURS)
    return place * n_blocks // len(covariate)


def enough_neighbours(level: Int[np.ndarray, " paragraph"]) -> bool:
    """Whether there are enough paragraphs to deal k anew among neighbours: 15 per level, and 72 in all.

    With four to eight per level, a measure that is a function of the covariate alone had p <= .05 in up to half of
    simulated cases; with three levels of 15 in up to .15; from 72 on in .02 to .1 of them, whatever the function.
    """
    return len(level) >= max(_LEAST, _LEAST_PER_LEVEL * len(np.unique(level)))


def indicators(level: Int[np.ndarray, " paragraph"]) -> Given:
    """One column for each level but the first."""
    return (level[:, None] == np.unique(level)[None, 1:]).astype(float)


def _ends(drawn: Float[np.ndarray, " draw"], n_clusters: int) -> tuple[float, float]:
    low, high = interval_ends(drawn, n_clusters, 0.95) if len(drawn) else (np.nan, np.nan)
    return float(low), float(high)


def _dealt(x: Column, block: Int[np.ndarray, " paragraph"], *, seed: int, n: int) -> Float[np.ndarray, "shuffle _"]:
    by_block = np.argsort(block, kind="stable")
    # Sorting random numbers within blocks deals every block anew: the block number outweighs any of them.
    keys = np.random.default_rng(seed).random((n, len(x))) + np.sort(np.unique(block, return_inverse=True)[1])
    found = np.empty((n, len(x)))
    found[:, by_block] = x[by_block][np.argsort(keys, axis=1)]
    return found


def _basis(given: Given, n: int) -> Float[np.ndarray, "paragraph dimension"]:
    columns = np.column_stack([np.ones(n), given - given.mean(0)])
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, size > _NOTHING * size.max()]


def _without(rows: Float[np.ndarray, "row paragraph"], basis: np.ndarray) -> Float[np.ndarray, "row paragraph"]:
    return rows - (rows @ basis) @ basis.T


def _partial(
    weights: Float[np.ndarray, "draw paragraph"], x: Column, y: Column, given: Given
) -> tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"]]:
    """Weighted partial correlations and slopes, from moments: the Schur complement of what is given."""
    basis = _basis(given, len(x)) * np.sqrt(len(x))
    scale = x.std() or 1.0, y.std() or 1.0
    both = np.column_stack([(x - x.mean()) / scale[0], (y - y.mean()) / scale[1]])
    columns = np.column_stack([both, basis])
    n = columns.shape[1]
    moments = (weights @ (columns[:, :, None] * columns[:, None]).reshape(len(x), -1)).reshape(-1, n, n)
    known = np.linalg.pinv(moments[:, 2:, 2:], hermitian=True)
    left = moments[:, :2, :2] - moments[:, :2, 2:] @ known @ moments[:, 2:, :2]
    xx, xy, yy = left[:, 0, 0], left[:, 0, 1], left[:, 1, 1]
    some = _NOTHING * weights.sum(1)
    usable = xx > some
    slope = np.divide(xy, xx, out=np.full(len(xx), np.nan), where=usable) * scale[1] / scale[0]
    size = np.sqrt(np.maximum(xx * yy, 0))
    r = np.divide(xy, size, out=np.full(len(xx), np.nan), where=usable & (yy > some))
    return r, slope
