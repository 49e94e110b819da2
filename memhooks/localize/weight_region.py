"""A region of the model's weights: one layer, some matrices, one head, and the scores that lie there.

Components are cut out before anything is ranked, so that an index always means an entry of that component.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.components import MATRICES, Component, component_parameters, components, head_view
from memhooks.model.loading import HookedModel

Scores = Mapping[str, Tensor]
"""One score per weight, by parameter name."""


class Region(TypedDict, total=False):
    """Which weights to search, as keyword arguments; what is left out is not restricted."""

    layer: int | None
    """The only layer."""
    matrices: Sequence[str] | None
    """Such as `("W_V",)`, of W_Q, W_K, W_V, W_O, W_in and W_out."""
    head: int | None
    """The only head; MLP matrices have none and drop out."""


def region_cells(scores: Scores, model: HookedModel, region: Region) -> list[Component]:
    """The components of a region that have scores, in the order of `components`.

    Raises:
        InputError: scores that do not belong to the model or are NaN, or a region that it or the scores lack.
    """
    unknown = sorted(set(region) - set(Region.__annotations__))
    if unknown:
        raise InputError(f"no filter called {unknown[0]!r}; there are {', '.join(Region.__annotations__)}")
    _check_scores(scores, model)
    matrices = region.get("matrices") or MATRICES
    matrices = (matrices,) if isinstance(matrices, str) else tuple(matrices)
    wrong = [matrix for matrix in matrices if matrix not in MATRICES]
    if wrong:
        raise InputError(f"matrices must be among {', '.join(MATRICES)}, got {wrong[0]!r}")
    for name, most in (("layer", model.cfg.n_layers), ("head", model.cfg.n_heads)):
        asked = region.get(name)
        if asked is not None and asked not in range(most):
            raise InputError(f"{name} must lie in 0..{most - 1}, got {asked!r}")
    cells = [
        cell
        for cell in components(model)
        if cell.parameter_name in scores
        and cell.matrix in matrices
        and region.get("layer") in (None, cell.layer)
        and region.get("head") in (None, cell.head)
    ]
    if not cells:
        raise InputError(f"no scored weights in this region: {dict(region)}; MLP matrices have no heads")
    return cells


def part_of(tensors: Mapping[str, Tensor], cell: Component) -> Tensor:
    """The component's part of its parameter, or of that parameter's scores; shares its memory."""
    return head_view(tensors[cell.parameter_name], cell)


def _check_scores(scores: Scores, model: HookedModel) -> None:
    parameters = component_parameters(model)
    for name, score in scores.items():
        if name not in parameters:
            raise InputError(
                f"scores are of the weight matrices of blocks alone, such as {next(iter(parameters))}; got {name!r}"
            )
        shape = tuple(parameters[name].shape)
        if tuple(score.shape) != shape:
            raise InputError(f"scores of {name} must have the weight's shape {shape}, got {tuple(score.shape)}")
        if score.isnan().any():
            raise InputError(f"scores of {name} contain NaN, which has no rank; mend the localizer")
