"""Every measure at every level of k, with intervals, for the model and for the twin."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.shares import share_interval
from memhooks.model.labelled import Variable, labelled
from memhooks.truth.dose.measures import MEASURES
from memhooks.truth.dose.partial import partial_correlation, ranks
from memhooks.truth.dose.thresholds import OUTCOMES, outcomes


def dose_curves(tables: Mapping[str, xr.Dataset], *, seed: int) -> xr.Dataset:
    """Means over the paragraphs of each level; intervals draw clusters of near-duplicates, and are exact for shares.

    Args:
        tables: of `dose_table`, by condition.
        seed: of the intervals.

    Returns:
        Dataset over `row`: `condition`, `measure` (of `MEASURES`, and the shares of `OUTCOMES`), `k` (the level), `n`
        (paragraphs), `mean` with `low` and `high`, `unit`.
    """
    rows = []
    for condition, table in tables.items():
        shares = outcomes(table)
        values = {name: table[name].values.astype(float) for name in MEASURES if name in table} | shares
        for name, own in values.items():
            unit = MEASURES[name].unit if name in MEASURES else f"share of paragraphs {OUTCOMES[name][0]}"
            for level in np.unique(table["level"].values):
                there = (table["level"].values == level) & ~np.isnan(own)
                if there.any():
                    near = table["cluster"].values[there]
                    if name in shares:
                        ends = share_interval(own[there], clusters=near)
                    else:
                        ends = bootstrap_mean(own[there], seed=seed, clusters=near)
                    rows.append((condition, name, int(level), int(there.sum()), *map(float, ends), unit))
    names = ("condition", "measure", "k", "n", "mean", "low", "high", "unit")
    units = (
        "model that was measured",
        "what was measured",
        "readings, at least this and less than twice as many",
        "paragraphs",
        "in the row's unit",
        "in the row's unit, lower end of the 95 % interval",
        "in the row's unit, upper end",
        "text",
    )
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    labels = {"row": [f"{row[0]}, {row[1]}, k = {row[2]}" for row in rows]}
    made = {
        name: Variable(np.array(columns[name]), ("row",), unit, labels) for name, unit in zip(names, units, strict=True)
    }
    return labelled(tables["memorized"].attrs | {"interval_seed": seed}, **made)


def gap_overlap(table: xr.Dataset) -> xr.Dataset:
    """How far k and the gap can be told apart: the gaps of each level, and how many lie among those of others.

    More readings in the same training mean a later last one, so k and the gap are correlated by construction.

    Args:
        table: of `dose_table`, with gaps.

    Returns:
        Dataset over `row` (levels): `n`, `gap_median`, `gap_least`, `gap_most` (updates), `shared` (share of the
        level's paragraphs with a gap within the range of another level, 0 = none), `shared_far` (the same of levels
        at least four times as high or low). Attribute `spearman`: rank correlation of k and gap.
    """
    level, gap = table["level"].values, table["gap"].values
    each = np.unique(level).tolist()
    ranges = {one: (gap[level == one].min(), gap[level == one].max()) for one in each}

    def shared(one: int, least: int) -> float:
        own = gap[level == one]
        others = [ends for other, ends in ranges.items() if max(one / other, other / one) >= least]
        return float(np.mean([any(low <= value <= high for low, high in others) for value in own]))

    columns = {
        "n": ([int((level == one).sum()) for one in each], "paragraphs"),
        "gap_median": ([float(np.median(gap[level == one])) for one in each], "updates after the last reading"),
        "gap_least": ([ranges[one][0] for one in each], "updates after the last reading"),
        "gap_most": ([ranges[one][1] for one in each], "updates after the last reading"),
        "shared": ([shared(one, 2) for one in each], "share with a gap that another level has, too; 0 = none"),
        "shared_far": ([shared(one, 4) for one in each], "the same of levels at least 4 times as high or low"),
    }
    labels = {"row": [str(one) for one in each]}
    made = {name: Variable(np.array(own), ("row",), unit, labels) for name, (own, unit) in columns.items()}
    correlation, _ = partial_correlation(ranks(table["k"].values.astype(float)), ranks(gap), np.empty((len(gap), 0)))
    return labelled(table.attrs | {"spearman": correlation}, **made)
