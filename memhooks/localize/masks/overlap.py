"""Do two masks choose the same weights more often than blind choice would?

Blind choice draws as many weights of each parameter as a mask holds there, so what is shared is a sum of
hypergeometric numbers, one for each parameter: a mask that merely likes the same matrices is expected to
share more than one drawn anywhere.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve
from scipy.stats import hypergeom

from memhooks.errors import InputError
from memhooks.localize.masks.set_operations import common
from memhooks.localize.masks.weight_mask import WeightMask

SMALLEST_P = 1e-12
"""Smaller probabilities drown in rounding and are given as this."""


@dataclass(frozen=True)
class Overlap:
    """What two masks share.

    Attributes:
        shared: weights in both.
        jaccard: of all weights in either, from 0 (none) to 1 (the same mask).
        expected: weights shared on average if both masks drew blindly, as many of each parameter as they hold there.
        spread: standard deviation of the same.
        ratio: shared over expected, 1 = as blind choice; NaN where nothing is expected.
        p_value: probability that blind choice shares as many or more, not below `SMALLEST_P`.
    """

    shared: int
    jaccard: float
    expected: float
    spread: float
    ratio: float
    p_value: float


def mask_overlap(one: WeightMask, other: WeightMask) -> Overlap:
    """What two masks of one model share, beside what blind choice would.

    Raises:
        InputError: an empty mask, or masks of different models or parameters.
    """
    one.check_same_model(other)
    if not len(one) or not len(other):
        raise InputError("an empty mask shares nothing with any other")
    shared = sum(len(common(one.of(name), other.of(name))) for name in one.sizes)
    numbers = [(size, len(one.of(name)), len(other.of(name))) for name, size in one.sizes.items()]
    drawn = [hypergeom(*three) for three in numbers if three[1] and three[2]]
    expected = float(sum(each.mean() for each in drawn))
    return Overlap(
        shared,
        jaccard=shared / (len(one) + len(other) - shared),
        expected=expected,
        spread=math.sqrt(sum(each.var() for each in drawn)),
        ratio=shared / expected if expected else math.nan,
        p_value=_p_value(shared, [three for three in numbers if three[1] and three[2]]),
    )


def _p_value(shared: int, numbers: list[tuple[int, int, int]]) -> float:
    """P(sum of the parameters' hypergeometric numbers >= shared), by convolution of what is likely of each."""
    start, chances = 0, np.ones(1)
    for size, first, second in numbers:
        each = hypergeom(size, first, second)
        mean, reach = each.mean(), 12 * each.std() + 40
        low = max(math.floor(mean - reach), first + second - size, 0)
        high = min(math.ceil(mean + reach), first, second)
        chances = fftconvolve(chances, hypergeom.pmf(np.arange(low, high + 1), size, first, second))
        start += low
    tail = chances[max(0, shared - start) :].sum() if shared < start + len(chances) else 0.0
    return float(min(1.0, max(SMALLEST_P, tail)))
