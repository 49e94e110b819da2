"""The rows of an evaluation's table: what each measures, and how sure its numbers are.

Paragraphs that are near-duplicates are drawn together (cluster bootstrap). The same draws serve before and after,
so a change is judged as a change: how much paragraphs differ from each other does not widen its interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from memhooks.measure.intervals import bootstrap_mean, bootstrap_ratio, interval_ends
from memhooks.model.labelled import Variable, labelled

COLUMNS = ("before", "after", "change", "twin")

Ends = tuple[float, float, float]
"""A number, and the lower and upper end of its interval."""

_NOTHING: Ends = (np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Row:
    """What one row of the table is.

    Attributes:
        label: such as "forget: exact match".
        about: forgotten, kept or privacy.
        unit: with what 0 means.
        ideal: what the number would be of a model that never read the forget set and lost nothing else.
    """

    label: str
    about: str
    unit: str
    ideal: str


@dataclass(frozen=True)
class Estimated:
    """A row with its numbers: each one with the ends of its 95 % interval."""

    row: Row
    intervals: Mapping[str, Ends] = field(default_factory=dict)


def mean_rows(
    rows: Mapping[str, Row],
    measured: Mapping[str, xr.Dataset],
    *,
    clusters: Int[np.ndarray, " paragraph"],
    seed: int,
) -> list[Estimated]:
    """Rows that are means over paragraphs.

    Args:
        rows: by the name of the variable that is averaged.
        measured: one set under the model `before` and `after`, and under the `twin` if there is one.
        clusters: of the set's near-duplicates.
        seed: of the draws.
    """
    names = [name for name in rows if name in measured["after"]]
    values = {
        column: np.stack([result[name].values.astype(np.float64) for name in names], -1)
        for column, result in measured.items()
    }
    values["change"] = values["after"] - values["before"]
    found = bootstrap_mean(np.stack(list(values.values()), 1), seed=seed, clusters=clusters)
    return [
        Estimated(rows[name], {column: _ends(*(each[i, j] for each in found)) for i, column in enumerate(values)})
        for j, name in enumerate(names)
    ]


def ratio_row(
    row: Row,
    before: Float[np.ndarray, " paragraph"],
    after: Float[np.ndarray, " paragraph"],
    reference: Float[np.ndarray, " paragraph"],
    *,
    clusters: Int[np.ndarray, " paragraph"],
    seed: int,
) -> Estimated:
    """Ratio of means over the same paragraphs: never the mean of ratios, which the smallest reference rules."""
    parts = np.stack([before, after, after - before], -1).astype(np.float64)
    found = bootstrap_ratio(parts, reference.astype(np.float64), seed=seed, clusters=clusters)
    return Estimated(row, {column: _ends(*(each[i] for each in found)) for i, column in enumerate(COLUMNS[:3])})


def drawn_weights(
    clusters: Int[np.ndarray, " paragraph"], *, seed: int, n_draws: int = 2000
) -> Int[np.ndarray, "draw paragraph"]:
    """How often each paragraph is in each resampled set; row 0 is the set itself."""
    label = np.unique(clusters, return_inverse=True)[1]
    n = int(label.max()) + 1
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_draws)
    return np.vstack([np.ones(n, times.dtype), times])[:, label]


def interval(drawn: Float[np.ndarray, " draw"], *clusters: Int[np.ndarray, " _"]) -> Ends:
    """A number with the ends of its interval, from its values in the rows of `drawn_weights` of these sets."""
    fewest = min(len(np.unique(each)) for each in clusters)
    return _ends(drawn[0], *interval_ends(drawn[1:], fewest, 0.95))


def table(estimates: Sequence[Estimated], about: Mapping[str, object]) -> xr.Dataset:
    """Dataset over `row` (labelled): each column's numbers with `_low` and `_high`, and what the rows are."""
    rows = [each.row for each in estimates]
    variables, unit = {}, "in the row's unit"
    for column in COLUMNS:
        found = np.array([each.intervals.get(column, _NOTHING) for each in estimates])
        said = {
            "before": f"{unit}: the model as it was",
            "after": f"{unit}: the model now",
            "change": f"{unit}: after minus before, 0 = none",
            "twin": f"{unit}: a model that never read the forget set; NaN = not measured",
        }[column]
        for i, end in enumerate(("", "_low", "_high")):
            interval = ("", ", lower end of the 95 % interval", ", upper end of the 95 % interval")[i]
            labels = {"row": [row.label for row in rows]} if not variables else {}
            variables[column + end] = Variable(found[:, i], ("row",), said + interval, labels)
    for name in ("about", "unit", "ideal"):
        variables[name] = Variable(np.array([getattr(row, name) for row in rows]), ("row",), "text")
    return labelled(about, **variables)


def _ends(point: np.floating | np.ndarray, low: np.floating | np.ndarray, high: np.floating | np.ndarray) -> Ends:
    return float(point), float(low), float(high)
