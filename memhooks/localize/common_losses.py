"""Which losses do two sets have in common? Only there can their paragraphs be compared at equal loss."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from memhooks.errors import InputError

_OUTERMOST = 0.05  # share of each set, at either end, that does not count for the range of its losses


class NoEqualLossError(InputError):
    """Two sets have no paragraphs of nearly equal loss, so they cannot be matched."""


def overlap(one: Float[np.ndarray, " paragraph"], other: Float[np.ndarray, " other"]) -> float:
    """Share of the paragraphs of both sets whose loss lies in the range of both; 0 = the ranges do not meet."""
    return float(np.concatenate(_within_both((one, other), (0.0, 1.0))).mean())


def in_both_ranges(
    one: Float[np.ndarray, " paragraph"], other: Float[np.ndarray, " other"], *, paired: bool
) -> tuple[Bool[np.ndarray, " paragraph"], Bool[np.ndarray, " other"]]:
    """Which paragraphs have a loss in the range of both sets; of a pair both must.

    The outermost 5 % of a set at either end (one paragraph at least) do not widen its range: one outlier does not
    make losses common.
    """
    ours, theirs = _within_both((one, other), (_OUTERMOST, 1 - _OUTERMOST))
    return (ours & theirs, ours & theirs) if paired else (ours, theirs)


def check_nearest(
    one: Float[np.ndarray, " paragraph"], other: Float[np.ndarray, " other"], caliper: float | None
) -> None:
    """Check that some pair lies within the caliper, in standard deviations as `matched_pairs` has them.

    Raises:
        NoEqualLossError: none does.
    """
    nearest = float(np.abs(one[:, None] - other).min())
    deviation = float(np.sqrt(np.mean([each.var(ddof=1) if len(each) > 1 else 0.0 for each in (one, other)])))
    if caliper is not None and nearest > caliper * deviation:
        raise NoEqualLossError(
            f"no pair of equal loss: the nearest are {nearest:.3g} nats apart, but a caliper of {caliper:g} standard "
            f"deviations allows {caliper * deviation:.3g}; widen it, or compare other sets"
        )


def _within_both(losses: Sequence[np.ndarray], ends: tuple[float, float]) -> list[Bool[np.ndarray, " paragraph"]]:
    """Which values lie in the range of both sets, each from one quantile of the set to another."""
    low, high = (
        limit(np.quantile(one, end, method=towards) for one in losses)
        for limit, end, towards in zip((max, min), ends, ("higher", "lower"), strict=True)
    )
    return [(one >= low) & (one <= high) for one in losses]
