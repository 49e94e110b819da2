"""One claim of the paper put to the test, and how numbers with intervals are said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memhooks.measure.intervals import Interval


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, put to the test.

    Attributes:
        text: the sentence.
        holds: whether it does here; None = not tested, as there is no interval.
        measured: the number, with its interval where there is one.
        control: what the same gives where the claim should not hold.
        published: the paper's own number.
    """

    text: str
    holds: bool | None
    measured: str
    control: str
    published: str


def above(end: np.ndarray | float | None) -> bool | None:
    """Whether the nearer end of an interval is above 0; None without one."""
    return None if end is None or np.isnan(end) else bool(end > 0)


def shown(ends: Interval | Sequence, form: str) -> str:
    """A number with its interval, or alone where it has none."""
    mean, low, high = (None if one is None or np.isnan(one) else f"{float(one):{form}}" for one in ends)
    return f"{mean}" if low is None else f"{mean} [{low}, {high}]"
