"""Intervals of shares: exact ones, because draws of no hits out of many never hold one."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import beta

from memhooks.errors import InputError
from memhooks.measure.intervals import Interval

_TAIL = 0.025


def share_interval(
    hits: Bool[np.ndarray, "paragraph ..."] | Float[np.ndarray, "paragraph ..."],
    *,
    clusters: Int[np.ndarray, " paragraph"],
) -> Interval:
    """Share of hits (1 or 0) with the ends of its exact 95 % interval (Clopper and Pearson, 1934).

    Near-duplicates may all do the same, so they are worth fewer trials: n / design effect = n^2 / (sum of the squared
    sizes of the clusters), as if the paragraphs of a cluster were copies (Kish, 1965). Without near-duplicates these
    are the n trials themselves. The share lies within its interval always.

    Args:
        hits: 1 or 0, for each entry of the other axes.
        clusters: of near-duplicates.

    Returns:
        Share, lower and upper end, 0 to 1, 0 = none.

    Raises:
        InputError: there are no paragraphs.
    """
    if not len(hits):
        raise InputError("no paragraphs to take a share of")
    size = np.unique(clusters, return_counts=True)[1]
    n = len(hits) ** 2 / float((size**2).sum())
    share = np.asarray(np.asarray(hits, dtype=float).mean(0))
    some, miss = np.maximum(share * n, 1e-12), np.maximum((1 - share) * n, 1e-12)
    low = np.where(share > 0, beta.ppf(_TAIL, some, miss + 1), 0.0)
    high = np.where(share < 1, beta.ppf(1 - _TAIL, some + 1, miss), 1.0)
    return share, low, high
