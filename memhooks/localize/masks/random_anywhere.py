"""Weights drawn blindly from the whole grid of components."""

import numpy as np
import torch

from memhooks.localize.masks.groups import n_chosen
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel


def random_weights(model: HookedModel, *, fraction: float, seed: int) -> WeightMask:
    """`max(1, round(fraction * weights))` weights of all components together, drawn uniformly without repetition.

    Unlike `matched_random_weights` it does not know which matrices a localizer prefers.

    Raises:
        InputError: the fraction lies outside (0, 1].
    """
    sizes = {name: weight.numel() for name, weight in component_parameters(model).items()}
    ends = np.cumsum(list(sizes.values()))
    k = n_chosen(fraction, int(ends[-1]))
    drawn = np.sort(np.random.default_rng(seed).choice(ends[-1], size=k, replace=False, shuffle=False))
    own = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    starts = ends - np.array(list(sizes.values()))
    indices = {
        name: torch.from_numpy((each - start).astype(np.int32))
        for name, each, start in zip(sizes, own, starts, strict=True)
    }
    return WeightMask(indices, sizes).bound(model)
