"""Says in words whether there is a memorization head, from the table of `memorization_head`."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

_SETS = {"control": "in never-seen text", "twin": "under the twin"}
_NO_TWIN = "No twin was compared, so a head may pass that was like this before it read the text."


def verdict(table: xr.Dataset, *, level: float, ablated: bool) -> str:
    """One to three plain sentences about the head that comes furthest; `ablated` if the worth of heads is known."""
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
        text = _found(table, confirmed or candidates, compared, what=_worth(confirmed, ablated=ablated))
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
    others = f" Nor do the other {len(rare) - 1} rare-token heads pass both tests." if len(rare) > 1 else ""
    return (
        f"No head is a memorization-head candidate: {head} attends to rare tokens ({_numbers(table, head)}), "
        f"but not clearly more than {_elsewhere(table, head, alike)}.{others}"
    )


def _found(table: xr.Dataset, heads: Sequence[str], compared: Sequence[str], *, what: tuple[str, str]) -> str:
    head = _strongest(table, heads)
    kind, worth = what
    named = (
        f"{head} is a {kind}: it" if len(heads) == 1 else f"{_listed(heads)} are {kind}s: {head}, the most negative,"
    )
    where = _elsewhere(table, head, compared)
    return f"{named} attends to rare tokens ({_numbers(table, head)}), more than {where}. {worth}"


def _worth(confirmed: Sequence[str], *, ablated: bool) -> tuple[str, str]:
    """What such a head is called, and what its ablation says."""
    if confirmed:
        return "memorization head", "Confirmed: ablation costs memorized text more than other text."
    if ablated:
        return "memorization-head candidate", "Not confirmed: ablation does not cost memorized text clearly more."
    return "memorization-head candidate", "Not confirmed: what ablation costs was not given."


def _numbers(table: xr.Dataset, head: str) -> str:
    row = table.sel(row=head)
    return f"Spearman {float(row['spearman']):.2f}, p = {float(row['p_value']):.2g}"


def _elsewhere(table: xr.Dataset, head: str, names: Sequence[str]) -> str:
    """The same head in the other sets."""
    row, found = table.sel(row=head), []
    for name in names:
        p = float(row[f"p_less_than_{name}"])
        found.append(f"{_SETS[name]} ({float(row[f'spearman_{name}']):.2f}, p of the difference {p:.2g})")
    return " and ".join(found)


def _strongest(table: xr.Dataset, names: Sequence[str]) -> str:
    return names[int(np.argmin(table["spearman"].sel(row=list(names)).values))]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"
