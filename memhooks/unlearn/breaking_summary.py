"""Memorized text beside its controls: mean steps and movement until it breaks, and the difference."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.model.labelled import Variable, labelled
from memhooks.unlearn.breaking import CRITERIA

MEASURES = ("steps", "norm", "path")
"""What is averaged."""


def breaking_summary(result: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """Means over each set's paragraphs, with intervals over clusters of near-duplicates.

    A paragraph that did not break within the steps counts with all of them (and is left out of the means of movement):
    its mean of `steps` is a lower bound, and `unbroken` says how many there are.

    Args:
        result: of `steps_to_break`; its first set is compared with each of the others.
        seed: of the intervals.

    Returns:
        Dataset over `row` (`memorized, half`, ...): `set`, `criterion`, `n` (paragraphs), `unbroken`; `steps`, `norm`,
        `path` and `nll_before`, means with `_low` and `_high`; the same of the first set minus this one:
        `difference_steps` and so on (0 = as hard to break; NaN in the first set's rows).

    Raises:
        InputError: a result of something else.
    """
    if "steps_half" not in result:
        raise InputError("a summary needs what steps_to_break returned")
    names = list(dict.fromkeys(result["set"].values.tolist()))
    criteria = [name for name in CRITERIA if f"steps_{name}" in result]
    rows = [_row(result, names, name, criterion, seed) for criterion in criteria for name in names]
    columns = {
        "n": "paragraphs",
        "unbroken": "paragraphs that did not break within the steps, 0 = all broke",
        "nll_before": "nats per token, 0 = certain",
        "steps": "updates; a lower bound where some did not break",
        "norm": "Euclidean length of the change, of those that broke",
        "path": "sum of absolute changes, of those that broke",
    } | {f"difference_{name}": "first set minus this one, 0 = as hard to break" for name in MEASURES}
    made = {
        name + end: Variable(np.array([row[name + end] for row in rows], float), ("row",), unit + said)
        for name, unit in columns.items()
        for end, said in (("", ""), ("_low", "; lower end of the 95 % interval"), ("_high", "; upper end"))
        if name + end in rows[0]
    }
    labels = {"row": [f"{row['set']}, {row['criterion']}" for row in rows]}
    made["set"] = Variable(np.array([row["set"] for row in rows]), ("row",), "paragraph set", labels)
    made["criterion"] = Variable(np.array([row["criterion"] for row in rows]), ("row",), "when a paragraph is broken")
    return labelled({**result.attrs, "n_steps": result.attrs["n_steps"]}, **made)


def _row(result: xr.Dataset, names: Sequence[str], name: str, criterion: str, seed: int) -> dict[str, object]:
    own, first = (result.isel(paragraph=result["set"].values == one) for one in (name, names[0]))
    row: dict[str, object] = {
        "set": name,
        "criterion": criterion,
        "n": own.sizes["paragraph"],
        "unbroken": int(own[f"steps_{criterion}"].isnull().sum()),
        **_ends("nll_before", bootstrap_mean(own["nll_before"].values, seed=seed, clusters=own["cluster"].values)),
    }
    for measure in MEASURES:
        mine, here = _values(own, measure, criterion), _values(first, measure, criterion)
        mean = difference = (np.nan,) * 3
        if len(mine[0]):
            mean = bootstrap_mean(mine[0], seed=seed, clusters=mine[1])
        if name != names[0] and len(mine[0]) and len(here[0]):
            difference = bootstrap_difference(here[0], mine[0], seed=seed, clusters=(here[1], mine[1]))
        row |= _ends(measure, mean) | _ends(f"difference_{measure}", difference)
    return row


def _values(own: xr.Dataset, measure: str, criterion: str) -> tuple[np.ndarray, np.ndarray]:
    """Each paragraph's number and cluster; an unbroken one has taken all steps, and moved no one knows how far."""
    values, cluster = own[f"{measure}_{criterion}"].values, own["cluster"].values
    if measure == "steps":
        return np.where(np.isnan(values), own.attrs["n_steps"], values), cluster
    known = ~np.isnan(values)
    return values[known], cluster[known]


def _ends(name: str, ends: Sequence) -> dict[str, float]:
    return {name + end: float(one) for end, one in zip(("", "_low", "_high"), ends, strict=True)}
