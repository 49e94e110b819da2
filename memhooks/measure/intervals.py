"""How sure is a mean? Bootstrap intervals that resample clusters, not paragraphs.

Near-duplicates are not independent evidence, so whole clusters are drawn with replacement.
Percentile intervals are too narrow for few clusters; these are widened to the quantiles that
make them right for means of normal data (the expanded percentile interval of Hesterberg,
2015, doi:10.1080/00031305.2015.1089789).
"""

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.stats import norm, t

from memhooks.errors import InputError

Interval = tuple[np.ndarray, np.ndarray, np.ndarray]


def bootstrap_mean(
    values: Num[np.ndarray, "paragraph ..."],
    *,
    seed: int,
    clusters: Int[np.ndarray, " paragraph"] | None = None,
    level: float = 0.95,
    n_draws: int = 2000,
) -> Interval:
    """Mean over paragraphs with the ends of its interval, for each entry of the other axes.

    Without `clusters` every paragraph is its own. One cluster has no interval: its ends are NaN.

    Raises:
        InputError: there are no paragraphs, or the level is not between 0 and 1.
    """
    _check(values, level)
    drawn, n_clusters = _draw(values, clusters, seed, n_draws)
    low, high = interval_ends(drawn, n_clusters, level)
    return np.asarray(np.asarray(values, dtype=np.float64).mean(0)), low, high


def bootstrap_difference(
    one: Num[np.ndarray, "paragraph ..."],
    other: Num[np.ndarray, "other ..."],
    *,
    seed: int,
    clusters: tuple[Int[np.ndarray, " paragraph"], Int[np.ndarray, " other"]] | None = None,
    level: float = 0.95,
    n_draws: int = 2000,
) -> Interval:
    """Difference of the means of two independent sets (first minus second) with the ends of its interval.

    `clusters` are those of the first and of the second set; without them every paragraph is its own.

    Raises:
        InputError: a set is empty, or the level is not between 0 and 1.
    """
    _check(one, level)
    _check(other, level)
    own, others = clusters or (None, None)
    drawn, n_one = _draw(one, own, seed, n_draws)
    theirs, n_other = _draw(other, others, seed + 1, n_draws)
    low, high = interval_ends(drawn - theirs, min(n_one, n_other), level)
    return np.asarray(np.asarray(one, np.float64).mean(0) - np.asarray(other, np.float64).mean(0)), low, high


def bootstrap_ratio(
    part: Num[np.ndarray, "paragraph ..."],
    whole: Num[np.ndarray, " paragraph"],
    *,
    seed: int,
    clusters: Int[np.ndarray, " paragraph"] | None = None,
    level: float = 0.95,
    n_draws: int = 2000,
) -> Interval:
    """Ratio of two means over the same paragraphs with the ends of its interval; both are drawn together.

    Raises:
        InputError: there are no paragraphs, or the level is not between 0 and 1.
    """
    _check(part, level)
    above, n_clusters = _draw(part, clusters, seed, n_draws)
    below, _ = _draw(whole, clusters, seed, n_draws)  # the same seed draws the same paragraphs
    below = below.reshape(-1, *[1] * (above.ndim - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = interval_ends(above / below, n_clusters, level)
        ratio = np.asarray(part, np.float64).mean(0) / np.asarray(whole, np.float64).mean()
    return np.asarray(ratio), low, high


def _draw(
    values: np.ndarray, clusters: np.ndarray | None, seed: int, n_draws: int
) -> tuple[Float[np.ndarray, "draw ..."], int]:
    """Means of resampled sets, and how many clusters there are to draw from."""
    label = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    member = np.zeros((label.max() + 1, len(values)))
    member[label, np.arange(len(values))] = 1.0
    flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    times = np.random.default_rng(seed).multinomial(len(member), np.full(len(member), 1 / len(member)), size=n_draws)
    means = (times @ (member @ flat)) / (times @ member.sum(1))[:, None]
    return means.reshape(n_draws, *np.shape(values)[1:]), len(member)


def interval_ends(drawn: np.ndarray, n_clusters: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the expanded percentile interval of resampled values, drawn along the first axis."""
    if n_clusters < 2:
        return np.full(drawn.shape[1:], np.nan), np.full(drawn.shape[1:], np.nan)
    wider = np.sqrt(n_clusters / (n_clusters - 1)) * t.ppf((1 - level) / 2, n_clusters - 1)
    low, high = np.quantile(drawn, [norm.cdf(wider), norm.sf(wider)], axis=0)
    return np.asarray(low), np.asarray(high)


def _check(values: np.ndarray, level: float) -> None:
    if not len(values):
        raise InputError("no paragraphs to average")
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
