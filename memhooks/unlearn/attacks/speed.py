"""In how many steps does a text come back, and how does that compare with learning it afresh?

The mean exact match over paragraphs is followed step by step; its intervals resample clusters of near-duplicates. A
text that does not come back within the steps is censored: its number is a bound, and is said to be one.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.unlearn.rows import Ends, drawn_weights, interval

_NEVER = 1e9  # steps; finite, so that quantiles of draws can be taken


class Speed(NamedTuple):
    """How fast one tested set comes back.

    Attributes:
        steps: updates until the mean exact match is half of the old one, with the ends of its 95 % interval; inf =
            not within the run's steps, NaN ends = one cluster.
        area: mean of the exact match over the run's steps (trapezoid rule), tokens, 0 = nothing came back.
    """

    steps: Ends
    area: Ends


class Ratio(NamedTuple):
    """Steps of the unlearned model over steps of a twin that learns the text afresh.

    Attributes:
        ends: the ratio with its 95 % interval, 1 = as if never seen, 0 = it was there at once. Where a run never came
            back its number of steps stands in.
        bound: `exact`; `at least` (only the twin came there within the steps); `at most` (only the unlearned model
            did); `unknown` (neither did: NaN).
    """

    ends: Ends
    bound: str


def relearning_speed(result: xr.Dataset, tested: str, *, seed: int = 0) -> Speed:
    """How fast one tested set of a result of `relearn` comes back.

    Args:
        result: of `relearn`.
        tested: `trained`, `held out` or `all`.
        seed: of the interval.

    Raises:
        InputError: the result has no such set.
    """
    own = tested_part(result, tested)
    curves, cluster = _curves(own, seed), own["cluster"].values
    steps = _steps(curves, own)
    found = tuple(end if np.isnan(end) or end < _n_steps(own) + 0.5 else np.inf for end in interval(steps, cluster))
    area = np.trapezoid(curves, axis=1) / _n_steps(own)
    return Speed((found[0], found[1], found[2]), interval(area, cluster))


def relearn_ratio(unlearned: xr.Dataset, twin: xr.Dataset, tested: str, *, seed: int = 0) -> Ratio:
    """Steps of the unlearned model over those of the twin, in which the same text is tested.

    Args:
        unlearned: result of `relearn`.
        twin: the same attack on the twin.
        tested: `trained`, `held out` or `all`.
        seed: of the interval; the same paragraphs are drawn for both.

    Raises:
        InputError: results of different attacks, or without such a set.
    """
    ours, theirs = tested_part(unlearned, tested), tested_part(twin, tested)
    same = all(ours.attrs[name] == theirs.attrs[name] for name in ("on", "train_hash", "old_em", "lr", "batch", "seed"))
    if not same or not ours["paragraph"].equals(theirs["paragraph"]) or not ours["step"].equals(theirs["step"]):
        raise InputError("a ratio needs the same attack on both models: the same text, lr, number of steps and seed")
    last = _n_steps(ours)
    found = [_steps(_curves(one, seed), one) for one in (ours, theirs)]
    back = bool(found[0][0] <= last), bool(found[1][0] <= last)
    bound = {(True, True): "exact", (False, True): "at least", (True, False): "at most"}.get(back, "unknown")
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.minimum(found[0], last) / np.minimum(found[1], last)
    if bound == "unknown" or found[1][0] == 0:  # a twin that recites from the start is none
        return Ratio((np.nan, np.nan, np.nan), "unknown")
    return Ratio(interval(drawn, ours["cluster"].values), bound)


def tested_part(result: xr.Dataset, tested: str) -> xr.Dataset:
    """The paragraphs of one tested set.

    Raises:
        InputError: the result has no such set.
    """
    here = result["tested"].values == tested
    if not here.any():
        raise InputError(f"nothing is tested as {tested!r}; there is {', '.join(np.unique(result['tested'].values))}")
    return result.isel(paragraph=here)


def _curves(own: xr.Dataset, seed: int) -> Float[np.ndarray, "draw step"]:
    """The mean exact match at every step: row 0 of the set itself, then of resampled sets."""
    weights = drawn_weights(own["cluster"].values, seed=seed).astype(float)
    em = own["exact_match"].transpose("paragraph", "step").values
    return weights @ em / weights.sum(1, keepdims=True)


def _steps(curves: Float[np.ndarray, "draw step"], own: xr.Dataset) -> Float[np.ndarray, " draw"]:
    reached = curves >= float(own["half"].values[0])
    return np.where(reached.any(1), reached.argmax(1), _NEVER)


def _n_steps(own: xr.Dataset) -> int:
    return own.sizes["step"] - 1
