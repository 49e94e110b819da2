"""Statements over several parts at once: the largest of many, and the sum of single ones against all together.

The same draws of clusters are used for every part, so that what is compared is drawn together. The largest of many is
chosen anew in each draw, for the part that happened to be largest would look too good by its own interval alone.
"""

from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.measure.intervals import interval_ends

N_DRAWS = 2000

Effect = Literal["removes", "brings"]


class Estimate(NamedTuple):
    """A share of the gap with the ends of its 95 % interval (NaN with one cluster), and the part that it belongs to."""

    value: float
    low: float
    high: float
    part: str = ""


def largest(swaps: xr.Dataset, kind: str, effect: Effect, *, seed: int) -> Estimate:
    """The largest effect among the parts of a kind; its interval finds the largest anew in each draw.

    Raises:
        InputError: the swaps hold no part of the kind.
    """
    some = swaps.isel(row=swaps["kind"].values == kind)
    if not some.sizes["row"]:
        raise InputError(f"the swaps hold no part of the kind {kind!r}; compute them with swap_parts")
    seen, drawn, n = _drawn(some, effect, seed)
    low, high = interval_ends(drawn.max(1), n, 0.95)
    return Estimate(float(seen.max()), float(low), float(high), str(some["row"].values[int(seen.argmax())]))


def beyond_sum(swaps: xr.Dataset, effect: Effect, *, whole: str, kind: str = "layer", seed: int) -> Estimate:
    """The effect of all at once less the sum of single parts' effects; above 0: single ones are less than additive."""
    seen, drawn, n = _drawn(swaps, effect, seed)
    sign = np.where(swaps["row"].values == whole, 1.0, 0.0) - (swaps["kind"].values == kind)
    low, high = interval_ends(drawn @ sign, n, 0.95)
    return Estimate(float(seen @ sign), float(low), float(high), whole)


def _drawn(
    swaps: xr.Dataset, effect: Effect, seed: int
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "draw row"], int]:
    """Each row's share of the gap, the same in sets of clusters drawn with replacement, and how many clusters."""
    here = swaps["set"].values == "memorized"
    near, far = (swaps[f"clean_nll_{one}"].values[here].astype(float) for one in ("model", "other"))
    if effect == "removes":
        change = swaps["nll_model"].values[:, here] - near
    else:
        change = far - swaps["nll_other"].values[:, here]
    label = np.unique(swaps["cluster"].values[here], return_inverse=True)[1]
    n = int(label.max()) + 1
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_DRAWS)[:, label]
    return change.mean(1) / (far - near).mean(), (times @ change.T) / (times @ (far - near))[:, None], n
