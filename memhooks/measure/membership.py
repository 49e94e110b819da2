"""Does it matter which of two sets a paragraph is in, once a covariate such as its loss is taken out?

1. The membership coefficient of a linear regression on set and covariate, with one slope for both sets, is the
   difference of the means at equal covariate.
2. Its interval refits the regression to sets whose clusters of near-duplicates are drawn anew.
3. Its test deals anew what the covariate alone leaves unexplained (Freedman and Lane, 1983), and holds the
   coefficient against its own standard error in every deal: so sets of unequal size and spread do not pass for
   different (Janssen, 1997; DiCiccio and Romano, 2017). Without a covariate this is the permutation test of
   Welch's t. Every cluster counts once, by its mean.

Paired sets are the same paragraphs measured twice: the regression is one of their differences on the differences in
the covariate, pairs are drawn together, and dealing swaps within pairs.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import orth

from memhooks.errors import InputError
from memhooks.measure.intervals import Interval, interval_ends

Clusters = tuple[Int[np.ndarray, " paragraph"], Int[np.ndarray, " other"]]
Covariate = tuple[Float[np.ndarray, " paragraph"], Float[np.ndarray, " other"]]

N_DEALT = 2000
"""How often the sets' names are dealt anew."""

_SAME = 1e-9
"""Statistics of two deals closer than this, relative to their spread, are equal but for rounding."""

_NOTHING = 1e-12
"""Spreads below this share of the values themselves are rounding."""


def adjusted_difference(
    one: Float[np.ndarray, " paragraph"],
    other: Float[np.ndarray, " other"],
    *,
    covariate: Covariate,
    clusters: Clusters,
    seed: int,
    paired: bool = False,
    n_draws: int = 2000,
) -> Interval:
    """Difference of the means at equal covariate (first minus second) with the ends of its 95 % interval.

    A covariate that is the same everywhere takes nothing out. Where the sets have no covariate values in
    common, the straight line is all that the number rests on.

    Raises:
        InputError: paired sets whose paragraphs are not in the same clusters.
    """
    _check(clusters, paired=paired)
    if paired:
        (one, other), covariate = _halves(one, other), _halves(*covariate)
    middle = [np.concatenate(both).mean() for both in (covariate, (one, other))]  # centred: squares keep their digits
    sums = [
        _cluster_sums(_terms(x - middle[0], y - middle[1]), label)
        for x, y, label in zip(covariate, (one, other), clusters, strict=True)
    ]
    seeds = (seed, seed if paired else seed + 1)  # the same seed draws the same paragraphs
    drawn = [_times(len(each), own, n_draws) @ each for each, own in zip(sums, seeds, strict=True)]
    low, high = interval_ends(_coefficient(*drawn), min(map(len, sums)), 0.95)
    return _coefficient(*(each.sum(0) for each in sums)), low, high


def membership_p(
    one: Float[np.ndarray, "paragraph column"],
    other: Float[np.ndarray, "other column"],
    *,
    clusters: Clusters,
    seed: int,
    covariate: Covariate | None = None,
    paired: bool = False,
    n_dealt: int = N_DEALT,
) -> Float[np.ndarray, " column"]:
    """Two-sided p of each column's difference, as a share of deals from 1 / (1 + n_dealt) to 1.

    With several columns each is held against the largest difference of all, in units of its own standard error
    (Westfall and Young, 1993): the best of many does not pass for special.

    Raises:
        InputError: paired sets whose paragraphs are not in the same clusters.
    """
    _check(clusters, paired=paired)
    first, second = (cluster_means(*each) for each in zip((one, other), clusters, strict=True))
    given = () if covariate is None else (cluster_means(*each) for each in zip(covariate, clusters, strict=True))
    if paired:
        values, member, known = first - second, np.ones(len(first)), np.empty((len(first), 0))
    else:
        values, member = np.concatenate([first, second]), np.repeat([1.0, 0.0], [len(first), len(second)])
        known = np.ones((len(member), 1))
    if len(x := tuple(given)):
        known = np.column_stack([known, x[0] - x[1] if paired else np.concatenate(x)])
    left, own = _unexplained(values, known), _unexplained(member, known)
    spread = np.sqrt((left**2).mean(0))  # the same for every deal
    size = np.maximum(np.abs(first).max(0), np.abs(second).max(0))
    left = np.divide(left, spread, out=np.zeros_like(left), where=spread > _NOTHING * size)
    t = _in_standard_errors(own, known)
    return _of_the_largest(t(left), map(t, _deals(left, seed=seed, n=n_dealt, paired=paired)), slack=_SAME)


def _in_standard_errors(
    own: Float[np.ndarray, " row"], known: Float[np.ndarray, "row covariate"]
) -> Callable[[Float[np.ndarray, "row column"]], Float[np.ndarray, " column"]]:
    """The size of the membership coefficient of values of unit spread, over its standard error (HC2).

    `own` is what the known columns leave of membership. Two sets of unequal spread have a standard error each: without
    a covariate this is the t of Welch, or that of pairs.
    """
    own = own * (own @ own > _SAME)  # nothing is left where the covariate says which set it is
    basis = orth(np.column_stack([known, own]))
    weight = own / np.sqrt(np.maximum(1 - (basis**2).sum(1), _SAME))

    def t(values: np.ndarray) -> np.ndarray:
        scores = weight[:, None] * (values - basis @ (basis.T @ values))
        return np.abs(own @ values) / np.maximum(np.sqrt((scores**2).sum(0)), _SAME)

    return t


def more_p(
    one: Float[np.ndarray, "paragraph column"],
    other: Float[np.ndarray, "other column"],
    *,
    clusters: Clusters,
    seed: int,
    paired: bool = False,
) -> Float[np.ndarray, " column"]:
    """One-sided p of how much more the first set has in each column, against the largest surplus of all columns.

    The columns keep their common unit: what differs little does not count as much as what differs a lot. So there are
    no standard errors here, and p tests whether both sets have the same distribution: of sets of very unequal size, a
    wider spread of the smaller one alone gives small p. Compare sets of about the same number of clusters.

    Raises:
        InputError: paired sets whose paragraphs are not in the same clusters.
    """
    _check(clusters, paired=paired)
    first, second = (cluster_means(*each) for each in zip((one, other), clusters, strict=True))
    if paired:
        values, mean = first - second, np.full(len(first), 1 / len(first))
    else:
        values = np.concatenate([first, second])
        values -= values.mean(0)
        mean = np.repeat([1 / len(first), -1 / len(second)], [len(first), len(second)])
    slack = _SAME * np.sqrt((values**2).mean(0).max())
    deals = _deals(values, seed=seed, n=N_DEALT, paired=paired)
    return _of_the_largest(mean @ values, (mean @ dealt for dealt in deals), slack=slack)


def _of_the_largest(observed: np.ndarray, dealt: Iterable[np.ndarray], *, slack: float) -> Float[np.ndarray, " column"]:
    largest = np.array([each.max() for each in dealt])
    least = observed - slack - _SAME * np.abs(observed)
    return (1 + (largest[:, None] >= least).sum(0)) / (1 + len(largest))


def cluster_means(
    values: Float[np.ndarray, "paragraph ..."], cluster: Int[np.ndarray, " paragraph"]
) -> Float[np.ndarray, "cluster ..."]:
    """Mean over the paragraphs of each cluster, in the order of the clusters' labels."""
    size = np.unique(cluster, return_counts=True)[1]
    return _cluster_sums(values, cluster) / size.reshape(-1, *[1] * (values.ndim - 1))


def _check(clusters: Clusters, *, paired: bool) -> None:
    if paired and not np.array_equal(*clusters):
        raise InputError("paired sets hold the same paragraphs in the same order, so their clusters must be equal")


def _cluster_sums(
    values: Float[np.ndarray, "paragraph ..."], cluster: Int[np.ndarray, " paragraph"]
) -> Float[np.ndarray, "cluster ..."]:
    labels, label = np.unique(cluster, return_inverse=True)
    sums = np.zeros((len(labels), *values.shape[1:]))
    np.add.at(sums, label, values)
    return sums


def _terms(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "paragraph 5"]:
    """What each paragraph adds to the number of paragraphs and to the sums of x, y, x squared and x times y."""
    return np.column_stack([np.ones(len(x)), x, y, x * x, x * y])


def _times(n_clusters: int, seed: int, n_draws: int) -> Int[np.ndarray, "draw cluster"]:
    return np.random.default_rng(seed).multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_draws)


def _coefficient(one: Float[np.ndarray, "*draw 5"], other: Float[np.ndarray, "*draw 5"]) -> Float[np.ndarray, "*draw"]:
    """The membership coefficient from the sums of both sets: the slope is that within sets."""
    within = sum(
        (each[..., 3:] - each[..., 1:2] * each[..., 1:3] / each[..., :1] for each in (one, other)), np.zeros(2)
    )
    square, product = within[..., 0], within[..., 1]
    usable = square > _SAME * (one + other)[..., 3]  # no slope where the covariate is constant in both sets
    slope = np.divide(product, square, out=np.zeros_like(product), where=usable)
    x, y = ((one[..., i] / one[..., 0] - other[..., i] / other[..., 0]) for i in (1, 2))
    return np.asarray(y - slope * x)


def _unexplained(
    values: Float[np.ndarray, "paragraph ..."], known: Float[np.ndarray, "paragraph covariate"]
) -> Float[np.ndarray, "paragraph ..."]:
    """What a linear regression on the known columns leaves."""
    return values - known @ np.linalg.lstsq(known, values, rcond=None)[0]


def _halves(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs without what both have in common."""
    return (one - other) / 2, (other - one) / 2


def _deals(
    values: Float[np.ndarray, "row column"], *, seed: int, n: int, paired: bool
) -> Iterator[Float[np.ndarray, "row column"]]:
    """The rows of both sets in another order, or the pairs' differences with signs turned at random."""
    generator = np.random.default_rng(seed)
    for _ in range(n):
        if paired:
            yield np.where(generator.random(len(values)) < 0.5, -1, 1)[:, None] * values
        else:
            yield values[generator.permutation(len(values))]
