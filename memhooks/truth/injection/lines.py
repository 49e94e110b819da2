"""Lines of trials by region, moment and localizer: their means with intervals, their p, and the labelled table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.membership import membership_p
from memhooks.model.labelled import Variable, labelled
from memhooks.truth.injection.bench import NATURAL
from memhooks.truth.injection.candidates import BLIND
from memhooks.truth.injection.regions import REGIONS
from memhooks.truth.injection.trial import REFERENCE

Row = Mapping[str, Any]
Line = dict[str, float]
Key = tuple[str, str, str]
Groups = Mapping[Key, list[tuple[Row, Mapping[str, Any]]]]

REFERENCES = {REFERENCE: "knows the model before"} | BLIND
"""What is shown beside localizers and never counts as one."""

FEWEST = 6
"""Pairs with which a sign-flip p can come below 0.05: of five, all of one sign still give 2 / 32."""


def grouped(
    rows: Sequence[Row], wanted: Callable[[Mapping[str, Any]], bool]
) -> dict[Key, list[tuple[Row, Mapping[str, Any]]]]:
    """The lines of successful trials by region, moment and localizer, in the order of their first appearance."""
    groups: dict[Key, list[tuple[Row, Mapping[str, Any]]]] = {}
    for row in rows:
        for line in row["lines"]:
            if wanted(line):
                key = (str(row["region"]), str(line["moment"]), str(line["localizer"]))
                groups.setdefault(key, []).append((row, line))
    regions = regions_of(rows)
    return dict(sorted(groups.items(), key=lambda one: (regions.index(one[0][0]), one[0][1])))


def pair_of(one: str, other: str) -> Callable[[Row, Mapping[str, Any]], tuple[float, float]]:
    """Two entries of a line."""
    return lambda _, line: (line[one], line[other])


def add_p(
    lines: dict[Key, Line],
    groups: Groups,
    names: tuple[str, str],
    seed: int,
    pair: Callable[[Row, Mapping[str, Any]], tuple[float, float]],
) -> None:
    """Put in every localizer's p of a paired difference, against the best of those asked on the same injections.

    Args:
        lines: to be added to.
        groups: the lines behind them.
        names: of the difference, and of its p; where the one is NaN, so is the other.
        seed: of sign flips.
        pair: a line's two values, of its row and itself.
    """
    difference, name = names
    families: dict[tuple[str, str, tuple[int, ...]], list[Key]] = {}
    for key, found in groups.items():
        lines[key][name] = np.nan
        numbers = tuple(int(row["number"]) for row, _ in found)
        applies = all(line["applies"] or "recall" not in line for _, line in found)
        known = not np.isnan(lines[key][difference])
        if key[2] not in REFERENCES and applies and known and len(numbers) >= FEWEST:
            families.setdefault((key[0], key[1], numbers), []).append(key)
    for (*_, numbers), keys in families.items():
        both = np.array([[pair(*one) for one in groups[key]] for key in keys]).transpose(2, 1, 0)
        places = np.arange(len(numbers))
        found_p = membership_p(both[0], both[1], clusters=(places, places), seed=seed, paired=True)
        for key, p in zip(keys, found_p, strict=True):
            lines[key][name] = float(p)


def column(found: Sequence[tuple[Row, Mapping[str, Any]]], name: str) -> Float[np.ndarray, " injection"]:
    """One entry of every line, NaN for None."""
    return np.array([line[name] for _, line in found], dtype=float)


def regions_of(rows: Sequence[Row]) -> list[str]:
    """The regions of trials, in their usual order."""
    there = {str(row["region"]) for row in rows}
    return [name for name in (*REGIONS, NATURAL) if name in there]


def ends(name: str, values: Float[np.ndarray, " injection"], seed: int) -> Line:
    """Mean and 95 % interval over injections, under three names."""
    mean, low, high = bootstrap_mean(values, seed=seed)
    return {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high)}


def as_table(lines: Mapping[tuple[str, str, str], Line], units: Mapping[str, str], about: dict) -> xr.Dataset:
    """One row for each line, labelled "region, moment, localizer"."""
    first = next(iter(lines.values()))
    variables = {}
    for name in first:
        unit = units[name.removesuffix("_low").removesuffix("_high")]
        variables[name] = Variable(np.array([line[name] for line in lines.values()]), ("row",), unit)
    for place, name in enumerate(("region", "moment", "localizer")):
        labels = {"row": [", ".join(key) for key in lines]}
        variables[name] = Variable(np.array([key[place] for key in lines]), ("row",), "", labels)
    return labelled(about, **variables)
