"""The weights with the largest scores, exactly as many as asked for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from memhooks.localize.masks.weight_mask import WeightMask, check_fraction


def top_weights(scores: Mapping[str, Tensor], *, fraction: float) -> WeightMask:
    """The `fraction` of all weights with the largest |score|, over all parameters together.

    The number is `max(1, round(fraction * weights))`, also where scores tie.

    Raises:
        InputError: the fraction lies outside (0, 1].
    """
    check_fraction(fraction)
    sizes = {name: score.numel() for name, score in scores.items()}
    flat = torch.cat([score.detach().abs().flatten().cpu() for score in scores.values()])
    chosen = flat.topk(max(1, round(fraction * len(flat)))).indices.sort().values
    indices, start = {}, 0
    for name, size in sizes.items():
        own = chosen[(chosen >= start) & (chosen < start + size)] - start
        indices[name] = own.int()
        start += size
    return WeightMask(indices, sizes)
