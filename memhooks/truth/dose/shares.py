"""Intervals of shares: exact ones, because draws of no hits out of many never hold one."""

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binomtest

from memhooks.measure.membership import cluster_means


def share_interval(
    hits: Float[np.ndarray, " paragraph"], *, clusters: Int[np.ndarray, " paragraph"]
) -> tuple[float, float, float]:
    """Share of hits (1 or 0) with the ends of its exact 95 % interval (Clopper and Pearson, 1934).

    The share is of paragraphs; the interval has no more trials than clusters of near-duplicates, the hits among them
    rounded to whole ones.
    """
    means = cluster_means(hits.astype(float), clusters)
    ends = binomtest(round(float(means.sum())), len(means)).proportion_ci(0.95, method="exact")
    return float(hits.mean()), float(ends.low), float(ends.high)
