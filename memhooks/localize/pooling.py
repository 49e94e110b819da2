"""From a score of every single weight to one number for each component, with and without the component's size.

A component's |gradient| is pooled to its maximum (Eq. 2 of Stoehr et al., 2024), L1 and L2 norm. The maximum and
the sum of more entries are larger by number alone, and W_in has 16 times those of a head's W_V in GPT-Neo
125M (12 heads: 48 times): so the mean, the root mean square and the maximum over that of as many random numbers, too.
"""

from collections.abc import Mapping

import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.components import component_labels, component_parameters, components, head_view
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash

POOLED: dict[str, str] = {
    "max_gradient": "largest |gradient| of the component",
    "l1_gradient": "sum of the component's |gradient|",
    "l2_gradient": "Euclidean norm of the component's gradient",
    "mean_gradient": "mean |gradient| of the component",
    "rms_gradient": "root mean square of the component's gradient",
    "max_over_expected": "largest |gradient| over that of as many standard normal numbers",
}
"""Ways to pool a component's gradients; the last three take its size out."""


def component_scores(model: HookedModel, scores: Mapping[str, Tensor]) -> xr.Dataset:
    """Any score of every single weight, pooled per layer and component.

    Args:
        model: whose parameters the scores are of.
        scores: by parameter name, such as `weight_gradients` (the batch mean, as published) or a localizer's.

    Returns:
        Dataset over `layer` and `component` with the variables of `POOLED`.

    Raises:
        InputError: a parameter's scores are missing, of another shape, or not finite.
    """
    for name, weight in component_parameters(model).items():
        if name not in scores or scores[name].shape != weight.shape:
            came = "none" if name not in scores else f"shape {tuple(scores[name].shape)}"
            raise InputError(f"scores of {name} must have its shape {tuple(weight.shape)}, got {came}")
        if not torch.isfinite(scores[name]).all():
            raise InputError(f"scores of {name} are NaN or infinite; are the model's weights numbers?")
    views = [head_view(scores[cell.parameter_name], cell) for cell in components(model)]
    pooled = torch.stack([pooled_heads(view.reshape(1, -1))[0] for view in views])
    axes = grid_axes(model)
    grid = pooled.reshape(model.cfg.n_layers, -1, 3)
    return labelled({"model_hash": model_hash(model)}, **pooled_variables(model, grid, axes))


def pooled_heads(gradient: Float[Tensor, "head entry"]) -> Float[Tensor, "head three"]:
    """Maximum, sum and Euclidean norm of each head's absolute entries."""
    size = gradient.float().abs() if gradient.dtype in (torch.float16, torch.bfloat16) else gradient.abs()
    return torch.stack([size.amax(1), size.sum(1), torch.linalg.vecdot(size, size).sqrt()], dim=1).cpu()


def as_grid(model: HookedModel, pooled: Mapping[str, list[Tensor]], row: int) -> Float[Tensor, "layer component three"]:
    """One paragraph's `pooled_heads` of every parameter, in the order of `components`."""
    cells = [pooled[cell.parameter_name][row][cell.head or 0] for cell in components(model)]
    return torch.stack(cells).reshape(model.cfg.n_layers, -1, 3)


def pooled_variables(
    model: HookedModel, pooled: Float[Tensor, "*paragraph layer component three"], axes: Mapping
) -> dict[str, Variable]:
    """The variables of `POOLED` from maximum, sum and norm of every component."""
    named = dict(model.named_parameters())
    sizes = [head_view(named[cell.parameter_name], cell).numel() for cell in components(model)]
    n = torch.tensor(sizes, dtype=pooled.dtype).reshape(pooled.shape[-3:-1])
    expected = torch.from_numpy(norm.isf(0.5 / n.numpy())).to(pooled.dtype)  # exceeded by one of n on average
    largest, total, length = pooled.unbind(-1)
    values = [largest, total, length, total / n, length / n.sqrt(), largest / expected]
    unit = "objective's unit per unit of weight, 0 = no influence"
    return {
        name: Variable(value, tuple(axes), f"{meaning}, {unit}", axes)
        for (name, meaning), value in zip(POOLED.items(), values, strict=True)
    }


def grid_axes(model: HookedModel) -> dict:
    """Layers and components with their labels."""
    return {"layer": range(model.cfg.n_layers), "component": component_labels(model)}
