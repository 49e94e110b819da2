"""How many of the written weights does a localizer name, if it may name as many as were written?"""

from collections.abc import Mapping

import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask


def named_weights(scores: Mapping[str, Tensor], written: WeightMask) -> WeightMask:
    """As many weights as were written, those with the largest scores.

    Raises:
        InputError: scores of another model, NaN or infinite ones.
    """
    sizes = {name: one.numel() for name, one in scores.items()}
    if sizes != dict(written.sizes):
        raise InputError("the localizer must score every weight that could have been written, and no other")
    named = top_weights(scores, fraction=len(written) / sum(sizes.values()))
    return WeightMask(named.indices, written.sizes, written.model_hash)


def recall(named: WeightMask, written: WeightMask) -> float:
    """Share of the written weights that are named, from 0 to 1.

    Raises:
        InputError: masks of different models.
    """
    return len(named.unbound() & written.unbound()) / len(written)


def ranks(scores: Mapping[str, Tensor], written: WeightMask) -> bool:
    """Whether any of the written weights has a score: some localizers rank MLP weights alone."""
    return any(bool(scores[name].flatten()[own.long()].ne(0).any()) for name, own in written.indices.items())


def changed_weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|Change| of every weight: the reference that knows the model before, and finds all."""
    return {name: (one.detach() - before[name]).abs() for name, one in after.items()}


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as they are now."""
    return {name: torch.clone(one.detach()) for name, one in weights.items()}
