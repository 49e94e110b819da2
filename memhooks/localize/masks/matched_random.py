"""The null of every mask: as many weights in each parameter, drawn blindly."""

import torch

from memhooks.localize.masks.weight_mask import WeightMask


def matched_random_weights(like: WeightMask, *, seed: int) -> WeightMask:
    """A mask with the same number of weights per parameter as `like`, drawn uniformly.

    Example:
        >>> import memhooks, torch
        >>> mask = memhooks.top_weights({"W": torch.arange(100.0)}, fraction=0.05)
        >>> mask.of("W")
        tensor([95, 96, 97, 98, 99], dtype=torch.int32)
        >>> memhooks.matched_random_weights(mask, seed=0)
        WeightMask(5 of 100 weights, in 1 parameters)
    """
    generator = torch.Generator().manual_seed(seed)
    indices = {
        name: torch.randperm(like.sizes[name], generator=generator)[: len(own)].sort().values.int()
        for name, own in like.indices.items()
    }
    return WeightMask(indices, like.sizes, like.model_hash)
