"""From NLL under swaps to shares of what separates the forks, with intervals over clusters of near-duplicates."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.stats import t

from memhooks.errors import InputError
from memhooks.measure.intervals import Interval, bootstrap_difference, bootstrap_mean, bootstrap_ratio

SHARE = "share of the NLL that separates the forks, 0 = nothing, 1 = all of it"
NATS = "nats per token, 0 = no change"


class Gap(NamedTuple):
    """What separates the forks on a set that one of them recites: NLL under each, `[paragraph]`, nats per token."""

    low: Float[np.ndarray, " paragraph"]
    high: Float[np.ndarray, " paragraph"]
    clusters: Int[np.ndarray, " paragraph"]

    @property
    def size(self) -> Float[np.ndarray, " paragraph"]:
        """The difference."""
        return self.high - self.low

    def removed(self, nll: Float[np.ndarray, "row paragraph"], *, seed: int) -> Interval:
        """Share by which each swap raises the NLL where it was low."""
        return bootstrap_ratio((nll - self.low).T, self.size, seed=seed, clusters=self.clusters)

    def brought(self, nll: Float[np.ndarray, "row paragraph"], *, seed: int) -> Interval:
        """Share by which each swap lowers the NLL where it was high."""
        return bootstrap_ratio((self.high - nll).T, self.size, seed=seed, clusters=self.clusters)

    def specific(
        self,
        nll: Float[np.ndarray, "row paragraph"],
        rise: Float[np.ndarray, "row control"],
        control: Int[np.ndarray, " control"],
        *,
        seed: int,
    ) -> Interval:
        """Share removed less what never-read text loses by the same swap; the gap itself is taken as it is."""
        ends = bootstrap_difference((nll - self.low).T, rise.T, seed=seed, clusters=(self.clusters, control))
        mean, low, high = (one / self.size.mean() for one in ends)
        return mean, low, high


def gap_of(name: str, low: np.ndarray, high: np.ndarray, clusters: np.ndarray, *, sure: bool = True) -> Gap:
    """The gap, if there is one; `sure`: its interval must lie above 0, too.

    Raises:
        InputError: the fork that should recite the set does not find it likelier than the other does, or that is not
            sure, for the interval of the gap reaches down to 0 (one cluster has no interval).
    """
    gap = Gap(low, high, clusters)
    lower = float(bootstrap_mean(gap.size, seed=0, clusters=clusters)[1])
    if not gap.size.mean() > 0 or (sure and lower <= 0):
        raise InputError(
            f"nothing separates the forks on the {name} set: NLL {low.mean():.3f} under the fork that recites it, "
            f"{high.mean():.3f} under the other, lower end of the gap {lower:.3f}; "
            "give more text that only that fork has read"
        )
    return gap


def with_draws(ends: Interval, drawn: Float[np.ndarray, "row draw"]) -> Interval:
    """The interval of a share less the mean of random draws, widened by how much one draw differs from the next.

    What is compared might be a draw itself: its chance and that of the mean add up to (1 + 1/n) of the variance.
    """
    n = drawn.shape[1]
    half = t.ppf(0.975, n - 1) * drawn.std(1, ddof=1) * np.sqrt(1 + 1 / n)
    middle, low, high = ends
    return middle, middle - np.hypot(middle - low, half), middle + np.hypot(high - middle, half)


def mean(values: Num[np.ndarray, "row paragraph"], clusters: Int[np.ndarray, " paragraph"], *, seed: int) -> Interval:
    """Mean over paragraphs of each row, with its interval."""
    return bootstrap_mean(np.asarray(values, np.float64).T, seed=seed, clusters=clusters)
