"""What goes with k, what with the gap since the last reading, and what with k beyond the loss?

Four questions of each measure:
- `dose`: does it go with k?
- `dose, same gap`: with k among paragraphs read last at about the same time?
- `gap, same dose`: with the gap among paragraphs read equally often?
- `dose, same loss`: with k among paragraphs of about the same loss? (Size follows loss; is there more?)

Each is asked under the model, under the twin (which read none of them: nothing may show), and of the difference, the
model's number minus the twin's for the same paragraph, in which what is due to the paragraph's own words is gone.

`dose, same gap` and `dose, same loss` are not answered for a measure of few paragraphs (NaN, and `too_few`): there,
neighbours differ so much in gap or loss that p would be far too small.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from memhooks.model.labelled import Variable, labelled
from memhooks.truth.dose.levels import log_k
from memhooks.truth.dose.measures import MEASURES
from memhooks.truth.dose.partial import (
    Column,
    Given,
    enough_neighbours,
    indicators,
    neighbours,
    partial_correlation,
    partial_intervals,
    ranks,
    shuffled_correlations,
)
from memhooks.unlearn.rows import drawn_weights

QUESTIONS = ("dose", "dose, same gap", "gap, same dose", "dose, same loss")
"""What is asked of each measure."""

_AMONG_NEIGHBOURS = ("dose, same gap", "dose, same loss")
_FEWEST = 8  # paragraphs that a rank correlation is worth
_N_SHUFFLES = 2000
_N_DRAWS = 1000
_ROUNDING = 1e-9

_UNITS = {
    "condition": "model that was measured, or its number minus the twin's",
    "measure": "what was measured",
    "question": "what it is held against, and what is taken out",
    "too_few": "whether there are too few paragraphs to ask it, so that all numbers are NaN",
    "n": "paragraphs, one of each cluster of near-duplicates",
    "correlation": "rank correlation with k (or the gap), -1 to 1, 0 = none",
    "correlation_low": "lower end of the 95 % interval",
    "correlation_high": "upper end",
    "shuffled": "mean of the same when k (or the gap) is dealt anew among paragraphs of equal covariate, 0 = unbiased",
    "p": "two-sided, against these shuffles",
    "p_max": "the same against the largest of all measures of this condition and question",
    "slope": "the measure's unit per doubling of k (or of 1 + gap), 0 = none",
    "slope_low": "lower end of the 95 % interval",
    "slope_high": "upper end",
}


_NUMBERS = tuple(_UNITS)[5:]
"""What is measured, and not said about it."""


class _Asked(NamedTuple):
    """One question: what is held against the measure, what is taken out, and who may be exchanged for whom."""

    x: Column
    ranks_given: Given
    slope_given: Given
    block: Int[np.ndarray, " paragraph"]


def dose_statistics(tables: Mapping[str, xr.Dataset], *, seed: int, n_shuffles: int = _N_SHUFFLES) -> xr.Dataset:
    """Rank correlations and slopes of every measure with k and with the gap, each with and without the other.

    Of near-duplicates one is taken. p deals k (or the gap) anew: among all paragraphs; among neighbours in the gap, or
    in the loss (`NEIGHBOURS` at a time, so that p does not rest on straight lines); or, for the gap, within the levels
    of k. Intervals draw paragraphs with replacement, their ranks held.

    Args:
        tables: of `dose_table`, by condition: memorized, and twin where there is one.
        seed: of draws and shuffles.
        n_shuffles: how often k is dealt anew.

    Returns:
        Dataset over `row`: `condition` (memorized, twin, difference), `measure`, `question` (of `QUESTIONS`), `n`,
        `too_few` (whether it was not asked, for want of paragraphs: see `enough_neighbours`),
        `correlation` (the partial Spearman correlation) with `_low` and `_high`, `shuffled` (its mean over shuffles),
        `p`, `p_max` (against the largest of all measures, each in its own standard deviations), `slope` with `_low`
        and `_high`. NaN where a measure is constant, or too few.
    """
    rows: list[dict[str, object]] = []
    for condition, values in _conditions(tables).items():
        for question in QUESTIONS:
            rows += _answered(tables, condition, values, question, seed=seed, n=n_shuffles)
    labels = {"row": [f"{row['condition']}, {row['measure']}, {row['question']}" for row in rows]}
    made = {
        name: Variable(np.array([row[name] for row in rows]), ("row",), unit, labels) for name, unit in _UNITS.items()
    }
    return labelled(tables["memorized"].attrs | {"statistics_seed": seed, "n_shuffles": n_shuffles}, **made)


def _conditions(tables: Mapping[str, xr.Dataset]) -> dict[str, dict[str, Column]]:
    """Every measure under the model, under the twin, and its difference."""
    found = {
        condition: {name: table[name].values.astype(float) for name in MEASURES if name in table}
        for condition, table in tables.items()
    }
    if "twin" in found:
        found["difference"] = {name: own - found["twin"][name] for name, own in found["memorized"].items()}
    return found


def _answered(
    tables: Mapping[str, xr.Dataset],
    condition: str,
    values: Mapping[str, Column],
    question: str,
    *,
    seed: int,
    n: int,
) -> list[dict[str, object]]:
    """One question of every measure of one condition, with the correction for having asked them all."""
    table = tables["twin" if condition == "twin" else "memorized"]
    one_of_each = np.zeros(table.sizes["paragraph"], dtype=bool)
    one_of_each[np.unique(table["cluster"].values, return_index=True)[1]] = True
    rows, nulls, weights = [], [], {}
    for name, own in values.items():
        if question == "dose, same loss" and MEASURES[name].is_of_loss:
            continue
        there = one_of_each & ~np.isnan(own)
        asked = _asked(table.isel(paragraph=there), question, seed) if there.sum() >= _FEWEST else None
        if asked is None:
            continue
        used = int(there.sum())
        too_few = question in _AMONG_NEIGHBOURS and not enough_neighbours(table["level"].values[there])
        if too_few:
            found, null = dict.fromkeys(_NUMBERS, np.nan), np.full(n, np.nan)
        else:
            if used not in weights:
                weights[used] = _weights(used, seed)
            found, null = _measured(own[there], asked, weights[used], seed=seed, n=n)
        about = {"condition": condition, "measure": name, "question": question, "n": used, "too_few": too_few}
        rows.append(about | found)
        nulls.append(null)
    for row, p in zip(rows, _against_largest(rows, nulls), strict=True):
        row["p_max"] = p
    return rows


def _asked(table: xr.Dataset, question: str, seed: int) -> _Asked | None:
    """What the question means for these paragraphs; None where nothing is known of the gap."""
    k, gap = log_k(table["k"].values), table["gap"].values.astype(float)
    nothing = np.empty((len(k), 0))
    if "gap" in question and np.isnan(gap).any():
        return None
    match question:
        case "dose":
            return _Asked(k, nothing, nothing, np.zeros(len(k), dtype=int))
        case "dose, same gap":
            return _Asked(k, ranks(gap)[:, None], np.log2(1 + gap)[:, None], neighbours(gap, seed=seed))
        case "gap, same dose":
            level = table["level"].values
            return _Asked(np.log2(1 + gap), indicators(level), indicators(level), level)
        case _:
            loss = table["nll"].values.astype(float)
            smallest = loss[loss > 0].min(initial=np.inf)
            log_loss = np.log(np.maximum(loss, smallest if np.isfinite(smallest) else 1.0))
            return _Asked(k, ranks(loss)[:, None], log_loss[:, None], neighbours(loss, seed=seed))


def _weights(n: int, seed: int) -> Float[np.ndarray, "draw paragraph"]:
    """How often each of `n` paragraphs, each its own cluster, is in each resampled set."""
    return drawn_weights(np.arange(n), seed=seed, n_draws=_N_DRAWS)[1:].astype(float)


def _measured(
    y: Column, asked: _Asked, weights: Float[np.ndarray, "draw paragraph"], *, seed: int, n: int
) -> tuple[dict[str, float], Float[np.ndarray, " shuffle"]]:
    x_ranks, y_ranks = ranks(asked.x), ranks(y)
    correlation, _ = partial_correlation(x_ranks, y_ranks, asked.ranks_given)
    ends, _ = partial_intervals(x_ranks, y_ranks, asked.ranks_given, weights=weights, n_clusters=len(y))
    _, slope = partial_correlation(asked.x, y, asked.slope_given)
    _, slope_ends = partial_intervals(asked.x, y, asked.slope_given, weights=weights, n_clusters=len(y))
    null = shuffled_correlations(x_ranks, y_ranks, asked.ranks_given, block=asked.block, seed=seed, n=n)
    if np.isnan(correlation) or np.isnan(null).any():
        centre, p = np.nan, np.nan
    else:
        centre = float(null.mean())
        p = _share(np.abs(null - centre), abs(correlation - centre))
    found = {"correlation": correlation, "correlation_low": ends[0], "correlation_high": ends[1]}
    found |= {"shuffled": centre, "p": p, "slope": slope, "slope_low": slope_ends[0], "slope_high": slope_ends[1]}
    return found, null


def _against_largest(rows: list[dict[str, object]], nulls: list[Float[np.ndarray, " shuffle"]]) -> Iterator[float]:
    """The p of each measure against the largest of all, each in standard deviations of its own shuffles."""
    known = [null for null in nulls if not np.isnan(null).any() and null.std() > _ROUNDING]
    largest = np.max([np.abs(null - null.mean()) / null.std() for null in known], axis=0) if known else np.empty(0)
    for row, null in zip(rows, nulls, strict=True):
        if not any(null is one for one in known) or np.isnan(float(str(row["correlation"]))):
            yield np.nan
        else:
            yield _share(largest, abs(float(str(row["correlation"])) - null.mean()) / null.std())


def _share(null: Float[np.ndarray, " shuffle"], observed: float) -> float:
    """(1 + extreme) / (1 + n), never 0."""
    return (1 + int((null >= observed - _ROUNDING).sum())) / (1 + len(null))
