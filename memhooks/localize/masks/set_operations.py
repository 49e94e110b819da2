"""Union, intersection and difference of sorted indices without repetition."""

import torch
from jaxtyping import Int32
from torch import Tensor

Indices = Int32[Tensor, " _"]


def joined(one: Indices, other: Indices) -> Indices:
    """Those of either."""
    return torch.cat([one, other]).unique()


def common(one: Indices, other: Indices) -> Indices:
    """Those of both."""
    both = torch.cat([one, other]).sort().values
    return both[1:][both[1:] == both[:-1]]


def remaining(one: Indices, other: Indices) -> Indices:
    """Those of the first that the other lacks."""
    if not len(other):
        return one
    place = torch.searchsorted(other, one).clamp_(max=len(other) - 1)
    return one[other[place] != one]


def missing(own: Indices, size: int) -> Indices:
    """Those of `0..size - 1` that are not among them."""
    rest = torch.ones(size, dtype=torch.bool)
    rest[own.long()] = False
    return rest.nonzero()[:, 0].int()
