"""A set of single weights, as exact indices into named parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int32
from torch import Tensor, nn

from memhooks.errors import InputError


@dataclass(frozen=True)
class WeightMask:
    """The chosen entries of each parameter, as sorted indices into its flattened values."""

    indices: Mapping[str, Int32[Tensor, " chosen"]]
    sizes: Mapping[str, int]

    def __len__(self) -> int:
        return sum(map(len, self.indices.values()))

    @property
    def fraction(self) -> float:
        """Chosen weights over all weights of the parameters it may choose from, from 0 to 1."""
        return len(self) / sum(self.sizes.values())


@contextmanager
def frozen_outside(model: nn.Module, mask: WeightMask) -> Iterator[None]:
    """A block after which every weight outside the mask must be bit-identical.

    Raises:
        RuntimeError: one is not.
    """
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    yield
    for name, weight in model.named_parameters():
        moved = _bits(weight) != _bits(before[name])
        if name in mask.indices:
            moved[mask.indices[name].long()] = False
        if moved.any():
            raise RuntimeError(f"{int(moved.sum())} weights of {name} moved outside the mask")


def _bits(weight: Tensor) -> Tensor:
    # As integers: compared as numbers, -0.0 would equal 0.0 and NaN would differ from itself.
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return weight.detach().flatten().view(integer)


def check_fraction(fraction: float) -> None:
    """Refuse fractions that select nothing or more than everything.

    Raises:
        InputError: it lies outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction must lie in (0, 1], got {fraction}")
