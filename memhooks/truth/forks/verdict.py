"""What the swaps say, in words: is recitation in one place, and does each localizer point there?"""

import xarray as xr

from memhooks.errors import InputError
from memhooks.truth.forks.swap_parts import additivity

ONE_PLACE = 0.5
"""Share of the gap that one layer must remove and bring for recitation to be called kept in it."""


def parts_verdict(swaps: xr.Dataset) -> list[str]:
    """Sentences about where the text is kept; needs layers, and all layers at once; single heads are not needed.

    Raises:
        InputError: the swaps lack these parts.
    """
    both = additivity(swaps)
    layer = _largest(swaps, "layer")
    first = (
        f"One layer for the other fork's: {layer['row'].item()} removes most, {_ends(layer, 'removes')} of the gap "
        f"(never-read text rises by {_nats(layer, 'control_rise')}), "
        f"and alone brings {_ends(layer, 'brings')} to the other fork."
    )
    blind = f"A change as large in random order removes {_ends(layer, 'blind')}, never-read text rises by "
    blind += f"{_nats(layer, 'blind_control_rise')}."
    second = []
    if (swaps["kind"] == "head").any():
        head = _largest(swaps, "head")
        second = [f"One head: at most {_ends(head, 'removes')} ({head['row'].item()})."]
    third = (
        f"Single layers add up to {both['removes_sum']:.0%} removed and {both['brings_sum']:.0%} brought; all at once: "
        f"{both['removes_at_once']:.0%} and {both['brings_at_once']:.0%}."
    )
    concentrated = min(float(layer["removes_low"]), float(layer["brings_low"])) > ONE_PLACE
    less = both["removes_sum"] < both["removes_at_once"] and both["brings_sum"] < both["brings_at_once"]
    if concentrated:
        last = f"So recitation is mostly kept in {layer['row'].item()}."
    elif less:
        last = "So recitation is spread out: what one layer loses others make good, and none has it alone."
    else:
        last = "So recitation needs several layers, and no single one has it alone."
    return [first, blind, *second, third, last]


def localizer_verdict(
    curves: xr.Dataset, agreement: xr.Dataset, *, fraction: float, cut: str = "matrices"
) -> list[str]:
    """One sentence for each localizer: does it point where the swap says?

    Args:
        curves: of `swap_curves`.
        agreement: of `localizer_agreement`.
        fraction: of the curves, at which to judge.
        cut: of the agreement.

    Raises:
        InputError: the curves lack the fraction, or the agreement the cut.
    """
    at = curves.isel(row=(abs(curves["fraction"] - fraction) < 1e-12).values)
    parts = agreement.isel(row=(agreement["cut"] == cut).values)
    if not at.sizes["row"] or not parts.sizes["row"]:
        raise InputError(f"no swaps at fraction {fraction:g}, or no agreement over {cut}; compute them first")
    said = []
    for name in at["localizer"].values:
        one = at.isel(row=(at["localizer"] == name).values).squeeze("row")
        rank = parts.isel(row=(parts["localizer"] == name).values).squeeze("row")
        said.append(f"{name}: {_points(one)}; {_ranks(rank)}.")
    return said


def _points(one: xr.Dataset) -> str:
    numbers = (
        f"{float(one['target']):.1%} of the gap, random {float(one['random']):.1%}, others {float(one['others']):.1%}"
    )
    if not float(one["beyond_random_low"]) > 0:
        return f"no better than random weights of the same matrices ({numbers})"
    if float(one["own_low"]) > 0:
        return f"names weights that hold this text rather than other recited text ({numbers})"
    return f"names weights that recited text needs, not this text's own ({numbers})"


def _ranks(one: xr.Dataset) -> str:
    rho, p, partial, p_partial = (float(one[name]) for name in ("spearman", "p", "partial", "p_partial"))
    if rho != rho:  # NaN: it names none of the parts
        return "names none of the parts that were ranked"
    held = "ranks parts as swaps do" if p_partial <= 0.05 else "does not rank parts as swaps do at equal size"
    return f"{held} (Spearman {rho:+.2f}, p {p:.2g}; size taken out {partial:+.2f}, p {p_partial:.2g})"


def _largest(swaps: xr.Dataset, kind: str) -> xr.Dataset:
    rows = (swaps["kind"] == kind).values
    if not rows.any():
        raise InputError(f"the swaps hold no part of the kind {kind!r}; compute them with swap_parts")
    some = swaps.isel(row=rows)
    return some.isel(row=int(some["removes"].values.argmax()))


def _ends(one: xr.Dataset, name: str) -> str:
    mean, low, high = (float(one[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{mean:.1%} [{low:.1%}, {high:.1%}]"


def _nats(one: xr.Dataset, name: str) -> str:
    mean, low, high = (float(one[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{mean:+.3f} nats [{low:+.3f}, {high:+.3f}]"
