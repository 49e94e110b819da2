"""How often must a paragraph be read until half of such paragraphs come out?

1. Whether each paragraph comes out: recited in full by greedy decoding, or among 1, 100, 10,000 samples at temperature
   1 with probability one half.
2. The share of each level is made to rise with k (isotonic regression).
3. Where it passes one half, on a line between two levels over log k. Nothing was read a number of times in between:
   the bracket of the two levels is what is known, the number within it an interpolation.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.optimize import isotonic_regression

from memhooks.measure.extractability import queries_needed
from memhooks.measure.intervals import interval_ends
from memhooks.model.labelled import Variable, labelled
from memhooks.unlearn.rows import drawn_weights

OUTCOMES: dict[str, tuple[str, float]] = {
    "recited": ("recited in full", 0),
    "queries_1": ("that come with 1 sample", 1),
    "queries_100": ("that come with 100 samples", 100),
    "queries_10000": ("that come with 10,000 samples", 10_000),
}
"""What counts as coming out: words, and the number of samples (0 = greedy)."""

_N_DRAWS = 1000


def outcomes(table: xr.Dataset) -> dict[str, Float[np.ndarray, " paragraph"]]:
    """Whether each paragraph comes out (1 or 0), by the names of `OUTCOMES`."""
    needed = queries_needed(table["log_probability"].values.clip(max=0))
    found = {name: (needed <= n).astype(float) for name, (_, n) in OUTCOMES.items() if n}
    return {"recited": table["recited"].values.astype(float)} | found


def dose_thresholds(tables: Mapping[str, xr.Dataset], *, seed: int) -> xr.Dataset:
    """The k at which half of the paragraphs come out, for each outcome and condition.

    Args:
        tables: of `dose_table`, by condition.
        seed: of the intervals, which draw clusters of near-duplicates.

    Returns:
        Dataset over `row`: `condition`, `outcome`, `threshold` (readings, with `threshold_low` and `threshold_high`;
        infinite where not even the highest level has half, 0 where the lowest has; an end that is infinite is above
        all levels), `below` and `above` (the levels between which it lies), `highest_share` (of the highest level).
    """
    rows = []
    for condition, table in tables.items():
        weights = drawn_weights(table["cluster"].values, seed=seed, n_draws=_N_DRAWS)
        n_clusters = len(np.unique(table["cluster"].values))
        for name, own in outcomes(table).items():
            each = np.array([_threshold(own, table["level"].values, one) for one in weights])
            low, high = _ends(each[1:], n_clusters)
            level, share = _shares(own, table["level"].values, weights[0])
            passed = level[share >= 0.5]
            above = float(passed[0]) if len(passed) else np.inf
            below = float(max((one for one in level if one < above), default=0))
            rows.append((condition, name, each[0], low, high, below, above, float(share[-1])))
    names = ("condition", "outcome", "threshold", "threshold_low", "threshold_high", "below", "above", "highest_share")
    units = (
        "model that was measured",
        "what counts as coming out",
        "readings, interpolated; inf = above the highest level, 0 = at most the lowest",
        "readings, lower end of the 95 % interval",
        "readings, upper end",
        "readings, the highest level with less than half; 0 = none",
        "readings, the lowest level with at least half; inf = none",
        "share of the highest level, 0 = none",
    )
    labels = {"row": [f"{row[0]}, {row[1]}" for row in rows]}
    made = {
        name: Variable(np.array(own), ("row",), unit, labels)
        for name, unit, own in zip(names, units, zip(*rows, strict=True), strict=True)
    }
    return labelled(tables["memorized"].attrs | {"interval_seed": seed}, **made)


def _shares(
    own: Float[np.ndarray, " paragraph"], level: Int[np.ndarray, " paragraph"], weight: Int[np.ndarray, " paragraph"]
) -> tuple[Int[np.ndarray, " level"], Float[np.ndarray, " level"]]:
    """Levels that are there, and their shares made to rise."""
    each, place = np.unique(level, return_inverse=True)
    n = np.bincount(place, weight)
    there = n > 0
    share = np.bincount(place, weight * own)[there] / n[there]
    return each[there], np.asarray(isotonic_regression(share, weights=n[there]).x)


def _threshold(own: np.ndarray, level: np.ndarray, weight: np.ndarray) -> float:
    each, share = _shares(own, level, weight)
    if share[-1] < 0.5:
        return np.inf
    place = int(np.argmax(share >= 0.5))
    if place == 0:
        return 0.0
    part = (0.5 - share[place - 1]) / (share[place] - share[place - 1])
    low, high = np.log2(each[place - 1 : place + 1])
    return float(2 ** (low + part * (high - low)))


def _ends(drawn: Float[np.ndarray, " draw"], n_clusters: int) -> tuple[float, float]:
    """Ends among draws of which some are infinite: quantiles of ranks, so that no infinite numbers are averaged."""
    ordered, place = np.unique(drawn, return_inverse=True)
    low, high = interval_ends(place.astype(float), n_clusters, 0.95)
    if np.isnan(low):
        return np.nan, np.nan
    return float(ordered[int(np.floor(low))]), float(ordered[int(np.ceil(high))])
