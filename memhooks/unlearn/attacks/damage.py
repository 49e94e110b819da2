"""Small damage to all weights: noise and pruning. Text that was only covered up may show again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from memhooks.localize.masks.top import bottom_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.noised import noised
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.unlearn.unlearning import restored


def every_weight(model: HookedModel) -> WeightMask:
    """The mask of all weights of the six matrices of every layer."""
    sizes = {name: weight.numel() for name, weight in component_parameters(model).items()}
    return WeightMask({}, sizes).complement()


@contextmanager
def shaken(model: HookedModel, *, factor: float, seed: int | Sequence[int]) -> Iterator[None]:
    """Inside the block every matrix weight carries Gaussian noise; after it all are bit for bit what they were.

    Args:
        model: whose weights are moved.
        factor: standard deviation of the noise, in those of each weight's parameter tensor.
        seed: of the noise.

    Raises:
        InputError: a factor that is negative or no number.
    """
    with noised(model, every_weight(model), factor=factor, seed=seed):
        yield


@contextmanager
def pruned(model: HookedModel, *, share: float) -> Iterator[None]:
    """Inside the block the smallest matrix weights are 0; after it all are bit for bit what they were.

    Args:
        model: whose weights are pruned.
        share: of all matrix weights, over 0 to 1; those of smallest magnitude in the whole model.

    Raises:
        InputError: a share outside (0, 1].
    """
    weights = component_parameters(model)
    mask = bottom_weights({name: weight.detach() for name, weight in weights.items()}, fraction=share)
    with restored(model):
        with torch.no_grad():
            for name, own in mask.indices.items():
                weights[name].view(-1)[own.long().to(weights[name].device)] = 0.0
        yield
