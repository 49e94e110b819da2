"""Does a part matter for recitation, or for language? Its worth to memorized text beside its worth to other text.

Many parts are compared at once, so the largest difference is large by selection: each is held against
the largest of all parts when the sets' names are dealt anew to the paragraphs.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.measure.membership import more_p
from memhooks.model.labelled import Variable, labelled
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

EFFECTS = ("nll_rise", "match_drop", "em_drop")


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
        every control `more_than_<control>` (memorized minus control), its interval (of this part alone: of
        many parts some exclude 0 by chance), and `p_more_than_<control>`: how often the largest difference of all
        parts is as large where the sets' names are dealt anew to the paragraphs, so that the best of many parts does
        not pass for special.

    Raises:
        InputError: the memorized set or every control is missing, the results have other parts, `sets` are not
            theirs, or there is no such effect.

    Example:
        >>> import memhooks
        >>> from memhooks.localize.each_part import ablate_each
        >>> model = memhooks.load_model("organism")
        >>> read = memhooks.load_planted("A", at_least=128).select(slice(0, 4))
        >>> unread = memhooks.load_controls().select(slice(0, 4))
        >>> worth = {
        ...     "memorized": ablate_each(model, read, heads=[(0, 5), (5, 2)]),
        ...     "unread": ablate_each(model, unread, heads=[(0, 5), (5, 2)]),
        ... }
        >>> table = memhooks.specificity(worth, seed=0)
        >>> table[["memorized", "unread", "more_than_unread"]].sel(row="L0H5").to_array().values.round(1)
        array([1.9, 0.9, 0.9])
    """
    _check(results, sets, memorized, effect)
    values = {name: _by_part(one[effect]) for name, one in results.items()}
    parts = values[memorized]["row"].values.tolist()
    cluster = {
        name: np.arange(one.sizes["paragraph"]) if sets is None else clusters(sets[name]).numpy()
        for name, one in values.items()
    }
    unit = str(results[memorized][effect].attrs["units"])
    columns: dict[str, Variable] = {}
    for name, one in values.items():
        _add_(columns, name, bootstrap_mean(one.values, seed=seed, clusters=cluster[name]), unit, parts)
        if name == memorized:
            continue
        pair, both = (values[memorized].values.astype(np.float64), one.values), (cluster[memorized], cluster[name])
        more = bootstrap_difference(*pair, seed=seed, clusters=both)
        _add_(columns, f"more_than_{name}", more, f"{unit}; memorized minus {name}", parts)
        p = more_p(*pair, clusters=both, seed=seed)
        columns[f"p_more_than_{name}"] = Variable(p, ("row",), "of the largest difference of all parts under no effect")
    about = {"memorized": memorized, "effect": effect, "seed": seed}
    return labelled(about | {key: results[memorized].attrs[key] for key in ("model_hash", "how")}, **columns)


def _check(
    results: Mapping[str, xr.Dataset], sets: Mapping[str, Paragraphs] | None, memorized: str, effect: str
) -> None:
    if memorized not in results or len(results) < 2:
        raise InputError(f"specificity needs {memorized!r} and a control, got {', '.join(results) or 'nothing'}")
    if effect not in EFFECTS:
        raise InputError(f"effect must be one of {', '.join(EFFECTS)}, got {effect!r}")
    parts = _by_part(results[memorized][effect])["row"].values.tolist()
    for name, one in results.items():
        if _by_part(one[effect])["row"].values.tolist() != parts:
            raise InputError(f"{name!r} and {memorized!r} must be results for the same parts")
        if sets is not None and (name not in sets or sets[name].ids != tuple(map(str, one["paragraph"].values))):
            raise InputError(f"sets must hold the {one.sizes['paragraph']} paragraphs of {name!r}, in their order")


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
