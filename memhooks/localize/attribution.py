"""Which weights move a paragraph's likelihood? Gradients pooled per layer and component.

1. Per paragraph, one backward pass of the objective through the grid's weights alone.
2. Each component's gradient is pooled to its largest and its mean absolute entry
   (the maximum is Eq. 2 of Stoehr et al., 2024).
3. Layer shares say where gradients are large relative to the whole: the size follows
   the loss, so memorized text has smaller gradients everywhere; the profile does not have to.
"""

from collections.abc import Mapping

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from memhooks.localize.objectives import Objective, continuation_nll
from memhooks.model.components import component_labels, components, head_view, trainable
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked


def weight_gradients(
    model: HookedModel, paragraphs: Paragraphs, *, objective: Objective = continuation_nll
) -> dict[str, Tensor]:
    """Gradient of the objective over all paragraphs together, by parameter name; `.grad` stays untouched."""
    paragraphs.check(model)
    with torch.enable_grad(), trainable(model) as parameters:
        gradients = torch.autograd.grad(objective(model, paragraphs), list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))


def weight_scores(model: HookedModel, paragraphs: Paragraphs, *, objective: Objective = continuation_nll) -> xr.Dataset:
    """Pooled |gradient| of every component, for each paragraph on its own.

    Returns:
        Dataset over `paragraph`, `layer` and `component`: `max_gradient` and `mean_gradient`
        (objective's unit per weight, 0 = no influence); over `paragraph` and `layer`:
        `layer_share` (of the summed maxima, adds up to 1).
    """
    pooled = []
    for row in tracked(range(len(paragraphs)), "gradients"):
        gradients = weight_gradients(model, paragraphs.select([row]), objective=objective)
        pooled.append(_pooled(model, gradients))
    largest, mean = (torch.stack([one[i] for one in pooled]) for i in (0, 1))
    axes = ("paragraph", "layer", "component")
    labels = {"paragraph": paragraphs.ids, "layer": range(model.cfg.n_layers), "component": component_labels(model)}
    by_layer = largest.sum(-1)
    return labelled(
        provenance(model, paragraphs.tokens) | {"objective": getattr(objective, "__name__", str(objective))},
        max_gradient=Variable(
            largest, axes, "largest |gradient| of the component, nats per token and unit of weight", labels
        ),
        mean_gradient=Variable(mean, axes, "mean |gradient| of the component, nats per token and unit of weight"),
        layer_share=Variable(
            by_layer / by_layer.sum(-1, keepdim=True), axes[:2], "share of the summed maxima, adds up to 1"
        ),
    )


def _pooled(
    model: HookedModel, gradients: Mapping[str, Tensor]
) -> tuple[Float[Tensor, "layer component"], Float[Tensor, "layer component"]]:
    views = [head_view(gradients[cell.parameter_name], cell).abs() for cell in components(model)]
    shape = (model.cfg.n_layers, -1)
    return (
        torch.stack([view.max() for view in views]).reshape(shape).cpu(),
        torch.stack([view.mean() for view in views]).reshape(shape).cpu(),
    )
