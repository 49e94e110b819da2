"""The null of every mask: as many weights in each parameter, drawn blindly."""

import torch

from memhooks.localize.masks.weight_mask import WeightMask


def matched_random_weights(like: WeightMask, *, seed: int) -> WeightMask:
    """A mask with the same number of weights per parameter as `like`, drawn uniformly."""
    generator = torch.Generator().manual_seed(seed)
    indices = {
        name: torch.randperm(like.sizes[name], generator=generator)[: len(own)].sort().values.int()
        for name, own in like.indices.items()
    }
    return WeightMask(indices, like.sizes, like.model_hash)
