"""Gaussian noise in chosen weights for the length of a `with` block, in units of each parameter's own spread."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.loading import HookedModel


@contextmanager
def noised(model: HookedModel, mask: WeightMask, *, factor: float, seed: int | Sequence[int]) -> Iterator[None]:
    """Inside the block the mask's weights carry noise; after it every weight is bit for bit what it was.

    Args:
        model: whose weights are moved.
        mask: which of them.
        factor: standard deviation of the noise, in those of each weight's parameter tensor.
        seed: of the noise, one number or several.

    Raises:
        InputError: an empty mask or one of another model, or a factor that is negative or no number.
    """
    check_mask(model, "mask", mask)
    check_factors([factor])
    generator = np.random.default_rng(seed)
    parameters = dict(model.named_parameters())
    with ExitStack() as before:  # puts the rest back even where Ctrl-C stops one
        for name, own in sorted((name, own) for name, own in mask.indices.items() if len(own)):
            weight = parameters[name]
            place = own.long().to(weight.device)
            values = weight.detach().flatten()[place]
            noise = torch.from_numpy(generator.standard_normal(len(own))).to(values)
            size = factor * weight.detach().double().std().item()
            before.callback(_write_, weight, place, values)
            _write_(weight, place, values + size * noise)
        yield


@torch.no_grad()
def _write_(weight: Tensor, place: Int[Tensor, " chosen"], values: Float[Tensor, " chosen"]) -> None:
    weight.view(-1)[place] = values


def check_factors(factors: Sequence[float]) -> None:
    """Refuse sizes of noise that are none.

    Raises:
        InputError: no factors, or one that is negative, infinite or no number.
    """
    if not len(factors) or not all(0 <= factor < np.inf for factor in factors):
        raise InputError(f"factors must be one or more finite numbers, 0 or more each, got {list(factors)}")


def check_mask(model: HookedModel, name: str, mask: WeightMask) -> None:
    """Refuse a mask that chooses nothing, or weights that the model lacks.

    Raises:
        InputError: it is empty or belongs to another model.
    """
    if not len(mask):
        raise InputError(f"the mask {name!r} is empty, so no weight would get noise")
    mask.check(model, name=name)
