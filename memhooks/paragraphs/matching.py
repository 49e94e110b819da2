"""Which controls are most like the memorized paragraphs? Optimal one-to-one pairs by covariates.

1. Each covariate is divided by its pooled standard deviation over the two sets.
2. The distance of a pair is Euclidean; pairs beyond the caliper or from different sources are not allowed.
3. Of all ways to form the greatest number of allowed pairs, the one of least total distance is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from memhooks.errors import InputError
from memhooks.paragraphs.paragraphs import Paragraphs

Covariates = Mapping[str, tuple[ArrayLike | Tensor, ArrayLike | Tensor]]


@dataclass(frozen=True)
class MatchedPairs:
    """Two sets of equal size whose rows belong together.

    Attributes:
        one: rows of the first set, in their order.
        other: row `i` is the match of row `i` of `one`.
        distance: of each pair, in standard deviations; 0 = equal in all covariates.
        balance: a row per covariate: its name, the mean of each whole set (`one_before`, `other_before`) and of
            its matched rows (`one_after`, `other_after`), and the difference of these means, one minus other, in
            the pooled standard deviations of the whole sets (`difference_before`, `difference_after`; 0 = balanced).
    """

    one: Paragraphs
    other: Paragraphs
    distance: Float[np.ndarray, " paragraph"]
    balance: list[dict[str, object]]


def matched_pairs(
    one: Paragraphs, other: Paragraphs, *, on: Covariates, same_source: bool = False, caliper: float | None = None
) -> MatchedPairs:
    """Pair paragraphs of two sets so that the pairs differ least in total.

    The smaller set is matched in full, unless the caliper or the sources forbid it; needs memory
    for one number per pair of paragraphs.

    Args:
        one: such as memorized paragraphs.
        other: such as never-seen controls, of the same length and prefix.
        on: for each covariate its values in `one` and in `other`, for instance NLL or characters of text.
        same_source: allow only pairs whose `sources` are equal.
        caliper: the greatest distance allowed, in standard deviations.

    Raises:
        InputError: the sets have different lengths, a covariate is unusable, or no pair is allowed.
    """
    _check_sets(one, other, same_source=same_source)
    if caliper is not None and not caliper >= 0:
        raise InputError(f"caliper must be a distance of at least 0 standard deviations, got {caliper}")
    values = _covariates(on, len(one), len(other))
    spread = {name: _pooled_deviation(name, *pair) for name, pair in values.items()}
    scaled = [np.column_stack([values[name][side] / spread[name] for name in values]) for side in (0, 1)]
    distance = cdist(scaled[0], scaled[1])
    allowed = np.ones(distance.shape, bool) if caliper is None else distance <= caliper
    if same_source:
        allowed &= np.asarray(one.sources)[:, None] == np.asarray(other.sources)[None, :]
    ours, theirs = _assigned(distance, allowed)
    return MatchedPairs(
        one=one.select(ours),
        other=other.select(theirs),
        distance=distance[ours, theirs],
        balance=[_balance(name, pair, (ours, theirs), spread[name]) for name, pair in values.items()],
    )


def _check_sets(one: Paragraphs, other: Paragraphs, *, same_source: bool) -> None:
    shapes = [(part.tokens.shape[1], part.n_prefix) for part in (one, other)]
    if shapes[0] != shapes[1]:
        (length, prefix), (their_length, their_prefix) = shapes
        raise InputError(
            f"both sets must have the same length and prefix, got {length} tokens with a prefix of {prefix} "
            f"and {their_length} with {their_prefix}; load them with the same n_tokens and n_prefix"
        )
    if same_source and (one.sources is None or other.sources is None):
        raise InputError("same_source needs sources in both sets; load them with a column `source`")


def _covariates(on: Covariates, n_one: int, n_other: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not on:
        raise InputError("pairs are matched on at least one covariate, got none; give on={'nll': (..., ...)}")
    return {name: (_numbers(name, one, n_one), _numbers(name, other, n_other)) for name, (one, other) in on.items()}


def _numbers(name: str, values: ArrayLike | Tensor, n: int) -> Float[np.ndarray, " paragraph"]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"covariate {name!r} must hold numbers, got {values!r:.80}") from error
    if numbers.shape != (n,):
        raise InputError(f"covariate {name!r} needs one number per paragraph, {n} in all, got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise InputError(
            f"covariate {name!r} is NaN or infinite for {int((~np.isfinite(numbers)).sum())} paragraphs; "
            "leave these out with select"
        )
    return numbers


def _pooled_deviation(name: str, one: np.ndarray, other: np.ndarray) -> float:
    """Root of the mean of both variances; 1 for a covariate that is the same everywhere.

    Raises:
        InputError: it is the same within each set but not between them.
    """
    variances = [values.var(ddof=1) if len(values) > 1 else 0.0 for values in (one, other)]
    deviation = float(np.sqrt(np.mean(variances)))
    if deviation > 0:
        return deviation
    if one[0] != other[0]:
        raise InputError(
            f"covariate {name!r} is {one[0]:g} in all of one set and {other[0]:g} in all of the other, "
            "so it cannot be matched; leave it out"
        )
    return 1.0


def _assigned(
    distance: Float[np.ndarray, "paragraph other"], allowed: Bool[np.ndarray, "paragraph other"]
) -> tuple[np.ndarray, np.ndarray]:
    if not allowed.any():
        raise InputError(
            f"no pair is allowed: the nearest paragraphs of any source are {distance.min():.3g} standard deviations "
            "apart; widen the caliper, or leave same_source away if no source is in both sets"
        )
    # One forbidden pair costs more than all allowed ones together, so as few as possible are taken.
    forbidden = (min(distance.shape) + 1) * (float(distance[allowed].max()) + 1)
    ours, theirs = linear_sum_assignment(np.where(allowed, distance, forbidden))
    kept = allowed[ours, theirs]
    return ours[kept], theirs[kept]


def _balance(
    name: str, values: tuple[np.ndarray, np.ndarray], chosen: tuple[np.ndarray, np.ndarray], spread: float
) -> dict[str, object]:
    before = [float(side.mean()) for side in values]
    after = [float(side[rows].mean()) for side, rows in zip(values, chosen, strict=True)]
    return {
        "covariate": name,
        "one_before": before[0],
        "other_before": before[1],
        "one_after": after[0],
        "other_after": after[1],
        "difference_before": (before[0] - before[1]) / spread,
        "difference_after": (after[0] - after[1]) / spread,
    }
