"""What goes with what inside every paragraph? Rank correlations, their mean, and the null of shuffled positions.

Paragraphs differ in how much they lose overall; correlating inside each and averaging after
keeps that apart from where in the paragraph it is lost.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from memhooks.measure.intervals import bootstrap_mean

Statistic = Callable[[np.ndarray], np.ndarray]
"""One number per paragraph, NaN where undefined, from values or ranks `[paragraph, pos]`."""

ROUNDING = 1e-12
"""Relative difference of sums in double precision that means nothing."""


def rank_correlation(
    one: Float[np.ndarray, "paragraph pos"],
    other: Float[np.ndarray, "paragraph pos"],
    given: Float[np.ndarray, "paragraph pos"] | None = None,
) -> Float[np.ndarray, " paragraph"]:
    """Correlation from -1 to 1 of the ranks `one` and `other` in each paragraph (Spearman's, if ties share a rank).

    With `given`, those ranks are first regressed out of both (the partial rank correlation). NaN where either
    is constant, or nothing of it is left.
    """
    residuals, usable = [], np.ones(len(one), dtype=bool)
    for ranks in (one, other):
        centred = ranks - ranks.mean(1, keepdims=True)
        residual = centred if given is None else _without(centred, given - given.mean(1, keepdims=True))
        # What regression leaves of ranks that are all explained is rounding, and would correlate with anything.
        usable &= _dot(residual, residual) > ROUNDING * _dot(centred, centred)
        residuals.append(residual)
    found = np.full(len(one), np.nan)
    x, y = (residual[usable] for residual in residuals)
    found[usable] = _dot(x, y) / np.sqrt(_dot(x, x) * _dot(y, y))
    return found


def shuffles(
    values: Float[np.ndarray, "paragraph pos"],
    *,
    seed: int,
    n: int,
    clusters: Int[np.ndarray, " paragraph"] | None = None,
) -> Iterator[Float[np.ndarray, "paragraph pos"]]:
    """`n` times the values in random order, each paragraph for itself; near-duplicates of a cluster in the same order.

    Shuffled apart, near-duplicates would look like independent evidence.
    """
    generator = np.random.default_rng(seed)
    label = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    place = np.tile(np.arange(values.shape[1]), (int(label.max()) + 1, 1))
    return (np.take_along_axis(values, generator.permuted(place, axis=1)[label], axis=1) for _ in range(n))


def mean_where_defined(
    values: Float[np.ndarray, " paragraph"], cluster: Int[np.ndarray, " paragraph"], *, seed: int
) -> tuple[float, float, float]:
    """Mean over the paragraphs that are not NaN, and the ends of its 95 % interval; NaN if there are none."""
    kept = ~np.isnan(values)
    if not kept.any():
        return np.nan, np.nan, np.nan
    mean, low, high = bootstrap_mean(values[kept], seed=seed, clusters=cluster[kept])
    return float(mean), float(low), float(high)


def shuffle_tests(
    statistics: Sequence[Statistic],
    values: Float[np.ndarray, "paragraph pos"],
    *,
    seed: int,
    n: int,
    clusters: Int[np.ndarray, " paragraph"] | None = None,
) -> list[tuple[float, float]]:
    """For each statistic its mean over shuffles, and the two-sided p of what the values in their order give.

    A shuffle counts as extreme if it lies at least as far from the mean of all; p is (1 + extreme) / (1 + n), never 0.
    Both are of the paragraphs in which the statistic is defined for the values in their order.
    """
    observed = [statistic(values) for statistic in statistics]
    defined = [~np.isnan(one) for one in observed]
    null = np.array(
        [
            [_mean(statistic(one), kept) for statistic, kept in zip(statistics, defined, strict=True)]
            for one in shuffles(values, seed=seed, n=n, clusters=clusters)
        ]
    )
    pairs = zip(observed, defined, null.T, strict=True)
    return [_against(_mean(one, kept), column[~np.isnan(column)]) for one, kept, column in pairs]


def _against(observed: float, null: Float[np.ndarray, " shuffle"]) -> tuple[float, float]:
    if not len(null) or np.isnan(observed):
        return np.nan, np.nan
    centre = float(null.mean())
    extreme = np.abs(null - centre) >= abs(observed - centre) - ROUNDING  # a shuffle may give the very order observed
    return centre, (1 + int(extreme.sum())) / (1 + len(null))


def _mean(values: Float[np.ndarray, " paragraph"], kept: Bool[np.ndarray, " paragraph"]) -> float:
    values = values[kept & ~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def _without(values: np.ndarray, given: np.ndarray) -> np.ndarray:
    """What is left of centred values when centred others are regressed out; all of them if those are constant."""
    size = _dot(given, given)[:, None]
    slope = np.divide(_dot(values, given)[:, None], size, out=np.zeros_like(size), where=size > 0)
    return values - slope * given


def _dot(one: Shaped[np.ndarray, "paragraph pos"], other: Shaped[np.ndarray, "paragraph pos"]) -> np.ndarray:
    return np.einsum("pt,pt->p", one, other)
