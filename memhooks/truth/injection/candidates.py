"""What is scored beside `LOCALIZERS`: one that looks for what masked writing leaves behind, and references.

Adam moves each written weight by up to its step size in every step, tens of times in all. Where few weights are
written, each must move far: many end outside the range of the other weights of their matrix. `weight_outlier` sees
just that, and no text, so it is a reference: a localizer that does no better has not located any text.
"""

import torch
from torch import Tensor

from memhooks.localize.attribution import weight_gradients
from memhooks.localize.localizers import Localizer
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

POWER = 3
"""Of the weight in `gradient_times_outlier`: as strong as it must be for a weight's size to outweigh its gradient."""


def weight_outlier(model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0) -> dict[str, Tensor]:
    """|Weight| in standard deviations of its matrix, 0 = the weight is 0.

    It does not look at any text: it can find that something was written, never what. Neither the paragraphs nor `seed`
    are used.
    """
    weights = component_parameters(model)
    tiny = torch.finfo(torch.float32).tiny
    return {name: one.detach().abs() / one.detach().std().clamp(min=tiny) for name, one in weights.items()}


def gradient_times_outlier(
    model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0
) -> dict[str, Tensor]:
    """|Gradient| of the text's NLL times `weight_outlier` to the power `POWER`; nats per token and unit of weight.

    Among weights that stand out, those that this text pulls on. Neither `retain` nor `seed` is used.
    """
    size = weight_outlier(model, forget, retain)
    return {name: one.abs() * size[name].pow(POWER) for name, one in weight_gradients(model, forget).items()}


def random_scores(model: HookedModel, forget: Paragraphs, retain: Paragraphs, *, seed: int = 0) -> dict[str, Tensor]:
    """Blind scores from 0 to 1: the localizer that must sit at chance. Neither text is used."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(one.shape, generator=generator) for name, one in component_parameters(model).items()}


CANDIDATES: tuple[Localizer, ...] = (weight_outlier, gradient_times_outlier, random_scores)

BLIND = {"weight_outlier": "stands out, knows no text", "random_scores": "drawn blindly"}
"""Those that look at no text: references, never the best localizer."""
