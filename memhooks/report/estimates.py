"""Numbers that verdicts are made from: a mean or a difference with its 95 % interval, near-duplicates counted once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy.stats import binomtest

from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

Results = Mapping[str, Mapping[str, xr.Dataset]]
Role = Literal["effect", "control", "difference"]


@dataclass(frozen=True)
class Estimate:
    """A number of memorized text, of a control, or their difference.

    Attributes:
        of: what was measured.
        name: of which text, or under which mask.
        mean: the estimate.
        low: lower end of its 95 % interval; NaN where there is none.
        high: upper end.
        unit: of all three.
        n: paragraphs (or trials) behind it, in words.
        role: memorized text's own number, a control's, or a difference of the two.
    """

    of: str
    name: str
    mean: float
    low: float
    high: float
    unit: str
    n: str
    role: Role

    @property
    def digits(self) -> int:
        """Digits after the point that the interval leaves sure."""
        width = self.high - self.low if self.high > self.low else abs(self.mean)
        return int(np.clip(1 - np.floor(np.log10(width)), 0, 6)) if 0 < width < np.inf else 2

    def words(self, digits: int | None = None) -> str:
        """Mean and interval; the unit stands beside."""
        form = f"{'+' if self.role == 'difference' else ''}.{self.digits if digits is None else digits}f"
        ends = "no interval" if np.isnan(self.low) else f"[{self.low:{form}}, {self.high:{form}}]"
        return f"{self.mean:{form}} {ends}"


@dataclass(frozen=True)
class Values:
    """One value per paragraph, and which paragraphs are near-duplicates."""

    values: Float[np.ndarray, " paragraph"]
    label: Int[np.ndarray, " paragraph"]

    def defined(self) -> "Values":
        """Those paragraphs that have a value."""
        there = np.isfinite(self.values)
        return Values(self.values[there], self.label[there])


def values_of(results: Results, of: xr.Dataset, values: np.ndarray) -> Values:
    """Values with the clusters of their paragraphs, where the run kept all these paragraphs' tokens.

    Args:
        results: of the run; `viewed` holds tokens.
        of: the result that the values were computed from, for the ids of its paragraphs.
        values: one per paragraph.
    """
    alone = Values(np.asarray(values, dtype=float), np.arange(len(values)))
    if "paragraph" not in of.coords:
        return alone
    ids = [str(one) for one in of["paragraph"].values]
    for viewed in results.get("viewed", {}).values():
        place = {str(one): row for row, one in enumerate(viewed["paragraph"].values)}
        if len(set(ids)) == len(ids) and set(ids) <= set(place):
            tokens = torch.from_numpy(viewed["tokens"].values[[place[one] for one in ids]].astype(np.int64))
            return Values(alone.values, clusters(Paragraphs(tokens, int(viewed.attrs["n_prefix"]))).numpy())
    return alone


def mean(name: str, values: Values, of: tuple[str, str], *, role: Role = "control", seed: int = 0) -> Estimate:
    """The mean of one set; `of` is what was measured, and its unit."""
    what, unit = of
    own = values.defined()
    if not len(own.values):
        return Estimate(what, name, np.nan, np.nan, np.nan, unit, "0", role)
    middle, low, high = map(float, bootstrap_mean(own.values, seed=seed, clusters=own.label))
    return Estimate(what, name, middle, low, high, unit, str(len(own.values)), role)


def difference(
    name: str, one: Values, other: Values, of: tuple[str, str], *, paired: bool = False, seed: int = 0
) -> Estimate:
    """The mean of one set minus that of the other; paired: the same paragraphs in the same order."""
    if paired:
        return mean(name, Values(one.values - other.values, one.label), of, role="difference", seed=seed)
    what, unit = of
    one, other = one.defined(), other.defined()
    if not (len(one.values) and len(other.values)):
        return Estimate(what, name, np.nan, np.nan, np.nan, unit, "0", "difference")
    both = (one.label, other.label)
    middle, low, high = map(float, bootstrap_difference(one.values, other.values, seed=seed, clusters=both))
    n = f"{len(one.values)} / {len(other.values)}"
    return Estimate(what, name, middle, low, high, unit, n, "difference")


def share(name: str, chosen: np.ndarray, of: str, *, role: Role = "control") -> Estimate:
    """The share of trials that are true; Wilson's interval, as resampling equal answers would give certainty."""
    ends = binomtest(int(chosen.sum()), len(chosen)).proportion_ci(method="wilson")
    found = float(chosen.mean()), float(ends.low), float(ends.high)
    return Estimate(of, name, *found, "share of trials", str(len(chosen)), role)
