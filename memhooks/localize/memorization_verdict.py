"""Says in words whether there is a memorization head, from the table of `memorization_head`."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

_SETS = {"control": "in never-seen text", "twin": "under the twin"}
_HELD = "p_more_than_"  # columns of `specificity`, one for each control
_NO_TWIN = "No twin was compared, so a head may pass that was like this before it read the text."


def verdict(table: xr.Dataset, *, level: float, worth: xr.Dataset | None) -> str:
    """One to four plain sentences about the head that comes furthest; `worth` of `specificity`, if known."""
    rare, candidates, confirmed = (
        table["row"].values[table[name].values].tolist()
        for name in ("is_rare_token_head", "is_candidate", "is_confirmed")
    )
    compared = [name for name in _SETS if f"p_less_than_{name}" in table]
    if not rare:
        text = _nowhere(table)
    elif not candidates:
        text = _everywhere(table, rare, compared, level=level)
    else:
        text = _found(table, confirmed or candidates, compared, what=_worth(confirmed, candidates, worth))
    return text if "twin" in compared else f"{text} {_NO_TWIN}"


def _nowhere(table: xr.Dataset) -> str:
    head = _strongest(table, table["row"].values.tolist())
    return (
        "No head is a memorization-head candidate: none attends to rare tokens more than chance and distance explain "
        f"(most negative: {head}, {_numbers(table, head)})."
    )


def _everywhere(table: xr.Dataset, rare: Sequence[str], compared: Sequence[str], *, level: float) -> str:
    head = _strongest(table, rare)
    alike = [name for name in compared if float(table[f"p_less_than_{name}"].sel(row=head)) > level]
    others = "" if len(rare) == 1 else f" Nor does any other rare-token head pass every test ({len(rare) - 1} more)."
    return (
        f"No head is a memorization-head candidate: {head} attends to rare tokens ({_numbers(table, head)}), "
        f"but, distance left out, not clearly more than {_elsewhere(table, head, alike)}.{others}"
    )


def _found(table: xr.Dataset, heads: Sequence[str], compared: Sequence[str], *, what: tuple[str, str]) -> str:
    head = _strongest(table, heads)
    kind, worth = what
    named = (
        f"{head} is a {kind}: it" if len(heads) == 1 else f"{_listed(heads)} are {kind}s: {head}, the most negative,"
    )
    where = _elsewhere(table, head, compared)
    numbers = _numbers(table, head)
    return f"{named} attends to rare tokens ({numbers}). Distance left out, it does so more than {where}. {worth}"


def controls_of(worth: xr.Dataset) -> list[str]:
    """The controls that `specificity` held every part against."""
    return [str(name).removeprefix(_HELD) for name in worth if str(name).startswith(_HELD)]


def _worth(confirmed: Sequence[str], candidates: Sequence[str], worth: xr.Dataset | None) -> tuple[str, str]:
    """What such a head is called, and what its ablation says."""
    missing = [head for head in candidates if worth is None or head not in worth["row"].values]
    more = f" Not ablated: {_listed(missing)}." if missing else ""
    if worth is None or len(missing) == len(candidates):
        return "memorization-head candidate", "Not confirmed: what ablation costs was not given."
    names = controls_of(worth)
    controls = "the control" if names == ["control"] else f"all of its controls ({', '.join(names)})"
    if confirmed:
        return "memorization head", f"Confirmed: ablation costs memorized text more than {controls}.{more}"
    return (
        "memorization-head candidate",
        f"Not confirmed: ablation does not cost memorized text clearly more than {controls}.{more}",
    )


def _numbers(table: xr.Dataset, head: str) -> str:
    row = table.sel(row=head)
    raw, left, over_types = (float(row[name]) for name in ("spearman", "partial_spearman", "type_spearman"))
    return (
        f"Spearman {raw:.2f}, without distance {left:.2f}, over token types {over_types:.2f}, "
        f"p = {float(row['p_value']):.2g}"
    )


def _elsewhere(table: xr.Dataset, head: str, names: Sequence[str]) -> str:
    """The same head in the other sets, by the Spearman without distance, which is what is compared."""
    row, found = table.sel(row=head), []
    for name in names:
        p = float(row[f"p_less_than_{name}"])
        found.append(f"{_SETS[name]} ({float(row[f'partial_spearman_{name}']):.2f}, p of the difference {p:.2g})")
    return " and ".join(found)


def _strongest(table: xr.Dataset, names: Sequence[str]) -> str:
    return names[int(np.argmin(table["spearman"].sel(row=list(names)).values))]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]
