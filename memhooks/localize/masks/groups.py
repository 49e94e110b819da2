"""Which scores compete with each other for a place in the mask, and how many places each group has."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.selection import Part
from memhooks.model.components import components, head_view
from memhooks.model.loading import HookedModel

Per = Literal["all", "parameter", "layer", "component"]
"""All weights together, or each parameter, layer or component (one head's matrix) with its own share."""


def grouped(scores: Mapping[str, Tensor], per: Per, model: HookedModel | None) -> list[list[Part]]:
    """The scores of each group, in the order of `scores` within it.

    Raises:
        InputError: an unknown `per`, no scores, or layers and components without a model or of other parameters.
    """
    if per not in get_args(Per):
        raise InputError(f"per must be one of {', '.join(get_args(Per))}, got {per!r}")
    if not scores or not all(one.numel() for one in scores.values()):
        raise InputError("there are no scores to choose from, or none for one parameter")
    parts = [Part(name, 0, one.detach().flatten()) for name, one in scores.items()]
    if per == "all":
        return [parts]
    if per == "parameter":
        return [[part] for part in parts]
    if model is None:
        raise InputError(f"per={per!r} needs model=, which knows what weights belong together")
    cells = [cell for cell in components(model) if cell.parameter_name in scores]
    layer_of = {cell.parameter_name: cell.layer for cell in cells}
    unknown = [name for name in scores if name not in layer_of]
    if unknown:
        raise InputError(f"{unknown[0]} belongs to no layer or component; use per='all' or 'parameter'")
    if per == "layer":
        return [[part for part in parts if layer_of[part.name] == layer] for layer in sorted(set(layer_of.values()))]
    return [
        [_part_of(scores, cell.parameter_name, head_view(scores[cell.parameter_name], cell), cell.head or 0)]
        for cell in cells
    ]


def _part_of(scores: Mapping[str, Tensor], name: str, own: Tensor, place: int) -> Part:
    return Part(name, place * own.numel(), own.detach().flatten())


def budgets(sizes: Sequence[int], k: int) -> list[int]:
    """`k` places shared in proportion to the sizes: rounded down, and the largest remainders get one more."""
    total = sum(sizes)
    places = [k * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda group: (-(k * sizes[group] % total), group))
    for group in by_remainder[: k - sum(places)]:
        places[group] += 1
    return places


def n_chosen(fraction: float, n_weights: int) -> int:
    """How many weights a fraction is: at least one.

    Raises:
        InputError: the fraction lies outside (0, 1].
    """
    if not math.isfinite(fraction) or not 0 < fraction <= 1:
        raise InputError(f"fraction must lie in (0, 1], got {fraction}")
    return max(1, round(fraction * n_weights))
