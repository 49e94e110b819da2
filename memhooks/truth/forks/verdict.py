"""What the swaps say, in words: is recitation in one place, and does each localizer point there?

1. Where the line between the forks is not interpretable, nothing is said about where text is kept.
2. `removes` tells what recitation is sensitive to, for a chain breaks at any link and a blind change breaks it, too;
   only `brings` tells of storage: the text comes along with the part.
3. A part whose exchange costs never-read text more than the tolerance is said to do so.
"""

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.truth.forks.joint import Estimate, beyond_sum, largest
from memhooks.truth.forks.line import TOLERANCE
from memhooks.truth.forks.swap_parts import additivity

ONE_PLACE = 0.5
"""Share of the gap that one layer must remove and bring for recitation to be called kept in it."""

_SILENT = "Swaps are not interpretable (see the line), so nothing is said about"


def parts_verdict(
    swaps: xr.Dataset, *, interpretable: bool = True, tolerance: float = TOLERANCE, seed: int = 0
) -> list[str]:
    """Sentences about where the text is kept; needs layers, and all layers at once; single heads are not needed.

    Args:
        swaps: of `swap_parts`.
        interpretable: what `loss_along_line` says.
        tolerance: nats per token that a part may cost never-read text, upper end of the interval.
        seed: of the intervals.

    Raises:
        InputError: the swaps lack these parts.
    """
    both = additivity(swaps)
    if not interpretable:
        return [f"{_SILENT} where the text is kept."]
    said = [_most(swaps, "layer", "One layer", tolerance, seed), _blind(swaps, seed)]
    if (swaps["kind"] == "head").any():
        said.append(_most(swaps, "head", "One head", tolerance, seed))
    whole = f"layers 0-{int(swaps['layer'].max())}"
    removes, brings = (beyond_sum(swaps, one, whole=whole, seed=seed) for one in ("removes", "brings"))
    said.append(
        f"Single layers add up to {both['removes_sum']:.0%} removed and {both['brings_sum']:.0%} brought; all at once: "
        f"{both['removes_at_once']:.0%} and {both['brings_at_once']:.0%}. So single layers are {_additive(removes)} in "
        f"what they remove (all at once less their sum: {_ends(removes)}) and {_additive(brings)} in what they bring "
        f"({_ends(brings)})."
    )
    return [*said, _one_place(swaps, tolerance, seed)]


def localizer_verdict(
    curves: xr.Dataset,
    agreement: xr.Dataset,
    *,
    fraction: float,
    cut: str = "matrices",
    interpretable: bool = True,
    tolerance: float = TOLERANCE,
) -> list[str]:
    """One sentence for each localizer: does it point where the swap says?

    Args:
        curves: of `swap_curves`.
        agreement: of `localizer_agreement`.
        fraction: of the curves, at which to judge.
        cut: of the agreement.
        interpretable: what `loss_along_line` says.
        tolerance: nats per token that the named weights' exchange may cost never-read text.

    Raises:
        InputError: the curves lack the fraction, or the agreement the cut.
    """
    at = curves.isel(row=(abs(curves["fraction"] - fraction) < 1e-12).values)
    parts = agreement.isel(row=(agreement["cut"] == cut).values)
    if not at.sizes["row"] or not parts.sizes["row"]:
        raise InputError(f"no swaps at fraction {fraction:g}, or no agreement over {cut}; compute them first")
    if not interpretable:
        return [f"{_SILENT} what localizers name."]
    said = []
    for name in at["localizer"].values:
        one = at.isel(row=(at["localizer"] == name).values).squeeze("row")
        rank = parts.isel(row=(parts["localizer"] == name).values).squeeze("row")
        said.append(f"{name}: {_points(one, tolerance)}; {_ranks(rank)}.")
    return said


def _most(swaps: xr.Dataset, kind: str, words: str, tolerance: float, seed: int) -> str:
    """The part that removes most, and the part that brings most, each with its cost."""
    lost, gained = (largest(swaps, kind, one, seed=seed) for one in ("removes", "brings"))
    return (
        f"{words} for the other fork's: the largest loss is {_ends(lost)} of the gap ({lost.part}; "
        f"{_cost(swaps.sel(row=lost.part), 'control_rise', tolerance)}), and the largest gain in the other fork "
        f"{_ends(gained)} ({gained.part}; {_cost(swaps.sel(row=gained.part), 'control_rise_other', tolerance)})."
    )


def _blind(swaps: xr.Dataset, seed: int) -> str:
    part = largest(swaps, "layer", "removes", seed=seed).part
    layer = swaps.sel(row=part)
    numbers = (
        ""
        if np.isnan(float(layer["blind"]))
        else (
            f"A change of {part} as large but in random order removes {_of(layer, 'blind')}, never-read text "
            f"{_nats(layer, 'blind_control_rise')}: "
        )
    )
    last = "loss speaks of sensitivity (what breaks when weights move), only gain of storage."
    return numbers + last if numbers else last.capitalize()


def _cost(part: xr.Dataset, name: str, tolerance: float) -> str:
    high = float(part[f"{name}_high"])
    words = f"never-read text {_nats(part, name)}"
    if np.isnan(high):
        return f"{words}, its cost is open: one cluster"
    return words if high <= tolerance else f"costs never-read text, too: {_nats(part, name)}"


def _additive(beyond: Estimate) -> str:
    if beyond.low > 0:
        return "less than additive"
    return "more than additive" if beyond.high < 0 else "not shown to be other than additive"


def _one_place(swaps: xr.Dataset, tolerance: float, seed: int) -> str:
    layers = swaps.isel(row=swaps["kind"].values == "layer")
    sure = np.minimum(layers["removes_low"].values, layers["brings_low"].values)
    if np.isnan(sure).any():
        return "Whether one layer holds it is open: one cluster has no interval."
    best = layers.isel(row=int(sure.argmax()))
    if sure.max() > ONE_PLACE:
        name = best["row"].item()
        costs = np.array([float(best[f"{one}_high"]) for one in ("control_rise", "control_rise_other")])
        if not (costs <= tolerance).all():
            return f"Most of it goes and comes with {name}, but that costs never-read text, too: not the text alone."
        return f"So recitation is mostly kept in {name}: alone it takes most of it away, and brings most of it."
    gained = largest(swaps, "layer", "brings", seed=seed)
    if gained.high < ONE_PLACE:
        return f"So no single layer holds half of it: none brings more than {gained.value:.1%} to the other fork."
    return f"Whether one layer holds half of it is open: {gained.part} brings {_ends(gained)}."


def _points(one: xr.Dataset, tolerance: float) -> str:
    numbers = (
        f"{float(one['target']):.1%} of the gap, random {float(one['random']):.1%}, others {float(one['others']):.1%}, "
        f"{_cost(one, 'control_rise', tolerance)}"
    )
    low, high = (float(one[f"beyond_random_{end}"]) for end in ("low", "high"))
    if np.isnan(low):
        return f"open: one cluster ({numbers})"
    if high < 0:
        return f"worse than random weights of the same matrices ({numbers})"
    if low <= 0:
        return f"not shown to be better than random weights of the same matrices ({numbers})"
    if float(one["own_low"]) > 0:
        return f"names weights that this text needs more than other recited text does ({numbers})"
    if float(one["own_high"]) < 0:
        return f"names weights that other recited text needs even more ({numbers})"
    return f"names weights that recited text needs, not shown to be this text's own ({numbers})"


def _ranks(one: xr.Dataset) -> str:
    if np.isnan(float(one["spearman"])):  # it names none of the parts
        return "names none of the parts that were ranked"
    return f"{_held(one, '', 'losses')}; {_held(one, '_brings', 'gains')}"


def _held(one: xr.Dataset, suffix: str, what: str) -> str:
    rho, p, partial, p_partial = (float(one[f"{name}{suffix}"]) for name in ("spearman", "p", "partial", "p_partial"))
    held = f"ranks parts as {what} do" if p_partial <= 0.05 else f"not shown to rank parts as {what} do at equal size"
    return f"{held} (Spearman {rho:+.2f}, p {p:.2g}; size taken out {partial:+.2f}, p {p_partial:.2g})"


def _ends(one: Estimate) -> str:
    return f"{one.value:.1%} [{one.low:.1%}, {one.high:.1%}]"


def _of(one: xr.Dataset, name: str) -> str:
    mean, low, high = (float(one[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{mean:.1%} [{low:.1%}, {high:.1%}]"


def _nats(one: xr.Dataset, name: str) -> str:
    mean, low, high = (float(one[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{mean:+.3f} nats [{low:+.3f}, {high:+.3f}]"
