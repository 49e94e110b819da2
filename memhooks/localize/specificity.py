"""Does a part matter for recitation, or for language? Its worth to memorized text beside its worth to other text.

The same difference is taken for every other part that was ablated: a part is special only if it
stands out among these, and if the interval of its own difference excludes zero.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.model.labelled import Variable, labelled
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters


def specificity(
    results: Mapping[str, xr.Dataset],
    *,
    sets: Mapping[str, Paragraphs] | None = None,
    memorized: str = "memorized",
    seed: int = 0,
    effect: str = "nll_rise",
) -> xr.Dataset:
    """One row per part: what its loss costs each set, and how much more it costs memorized text.

    Args:
        results: of `ablate_each` or `silence_heads`, by set, for the same parts.
        sets: the paragraphs of each result; clusters of near-duplicates among them then count once.
        memorized: which of them is the memorized set; all others are controls.
        seed: of the intervals.
        effect: `nll_rise`, `match_drop` or `em_drop`. Text without EM has none to lose: compare that with care.

    Returns:
        Dataset over `row` (the part): `<set>` with `<set>_low` and `<set>_high` (means with 95 % intervals), and for
        every control `more_than_<control>` (memorized minus control), its interval, and
        `p_more_than_<control>`: share of all parts whose difference is at least as large.

    Raises:
        InputError: the memorized set or every control is missing, or the sets have other parts.
    """
    if memorized not in results or len(results) < 2:
        raise InputError(f"specificity needs {memorized!r} and a control, got {', '.join(results) or 'nothing'}")
    values = {name: _by_part(one[effect]) for name, one in results.items()}
    parts = values[memorized]["row"].values.tolist()
    for name, one in values.items():
        if one["row"].values.tolist() != parts:
            raise InputError(f"{name!r} and {memorized!r} must be results for the same parts")
    cluster = {name: None if sets is None else clusters(sets[name]).numpy() for name in results}
    unit = str(results[memorized][effect].attrs["units"])
    columns: dict[str, Variable] = {}
    for name, one in values.items():
        _add_(columns, name, bootstrap_mean(one.values, seed=seed, clusters=cluster[name]), unit, parts)
        if name == memorized:
            continue
        own, other = cluster[memorized], cluster[name]
        both = None if own is None or other is None else (own, other)
        more = bootstrap_difference(values[memorized].values, one.values, seed=seed, clusters=both)
        _add_(columns, f"more_than_{name}", more, f"{unit}; memorized minus {name}", parts)
        share = (more[0][None, :] >= more[0][:, None]).mean(1)
        columns[f"p_more_than_{name}"] = Variable(share, ("row",), "share of parts with as large a difference")
    about = {"memorized": memorized, "effect": effect, "seed": seed}
    return labelled(about | {key: results[memorized].attrs[key] for key in ("model_hash", "how")}, **columns)


def best_first(result: xr.Dataset, *, effect: str = "nll_rise") -> list[str]:
    """Parts in the order of their mean worth, the largest first."""
    mean = _by_part(result[effect]).mean("paragraph")
    return mean["row"].values[np.argsort(-mean.values, kind="stable")].tolist()


def _by_part(effect: xr.DataArray) -> xr.DataArray:
    """`[paragraph row]`; heads of `silence_heads` are named as in `ablate_each`."""
    if "row" in effect.dims:
        return effect.transpose("paragraph", "row")
    flat = effect.transpose("paragraph", "layer", "head")
    names = [f"L{layer}H{head}" for layer in flat["layer"].values for head in flat["head"].values]
    return xr.DataArray(flat.values.reshape(len(flat), -1), dims=("paragraph", "row"), coords={"row": names})


def _add_(columns: dict[str, Variable], name: str, interval: tuple, unit: str, parts: list[str]) -> None:
    mean, low, high = interval
    columns[name] = Variable(mean, ("row",), unit, {"row": parts})
    columns[f"{name}_low"] = Variable(low, ("row",), f"{unit}; lower end of the 95 % interval")
    columns[f"{name}_high"] = Variable(high, ("row",), f"{unit}; upper end")
