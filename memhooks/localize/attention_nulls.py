"""How negative is the most negative head by chance? Shares of shuffles, and counts shuffled within each paragraph."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.localize.attention_statistics import Keys

_ROUNDING = 1e-12  # of sums in double precision: a shuffle may give the very order observed


class ShuffledWithin:
    """Sums over paragraphs of Spearman's correlation where each paragraph's counts change places among its keys.

    The order is the same for all heads, layers and queries of a paragraph, and for near-duplicates. A token that
    recurs gets a new count each time, as if every occurrence were evidence of its own.
    """

    def __init__(
        self, n_paragraphs: int, width: int, *, seed: int, n: int, clusters: Int[np.ndarray, " paragraph"] | None
    ) -> None:
        self.seed, self.n, self.width = seed, n, width
        self.label = np.arange(n_paragraphs) if clusters is None else np.unique(clusters, return_inverse=True)[1]
        self.sums: dict[tuple[int, int], Float[Tensor, "shuffle head"]] = {}

    def orders(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "shuffle row pos"]:
        """Numbers by whose order each paragraph's keys change places, near-duplicates' in the same order."""
        # A generator for each cluster, so that its order does not depend on how paragraphs are batched.
        drawn = [
            np.random.default_rng([self.seed, 1, label]).random((self.n, self.width), dtype=np.float32)
            for label in self.label[rows.numpy()]
        ]
        return torch.from_numpy(np.stack(drawn, axis=1))

    def shuffled(self, keys: Keys, orders: Float[Tensor, "shuffle row key"]) -> Float[Tensor, "row key shuffle"]:
        """Standardised ranks of the keys' counts in every shuffle."""
        ranks = keys.ranks.expand(self.n, -1, -1).gather(-1, orders.argsort(-1))
        return ranks.permute(1, 2, 0).contiguous()

    def add_(
        self,
        cell: tuple[int, int],
        theirs: Float[Tensor, "row key shuffle"],
        ours: Float[Tensor, "row head key"],
    ) -> None:
        """Add some paragraphs' correlations of one layer for one query."""
        heads, keys = ours.shape[1:]
        flat = ours.transpose(1, 2).reshape(-1, heads)  # the sum over rows and keys is one matrix product
        self.sums[cell] = self.sums.get(cell, 0) + theirs.flatten(0, 1).T @ flat / keys

    def lowest(self) -> Float[Tensor, " shuffle"]:
        """The most negative mean of all heads, layers and queries in every shuffle."""
        return torch.stack([sums.amin(-1) for sums in self.sums.values()]).amin(0) / len(self.label)


def share_as_low(
    observed: Float[Tensor, "query layer head"], lowest: Float[Tensor, " shuffle"]
) -> Float[Tensor, "query layer head"]:
    """Share of shuffles whose most negative head is at most what was observed; never 0, as one counts itself."""
    extreme = torch.searchsorted(lowest.sort().values, observed.contiguous() + _ROUNDING, right=True)
    return (1 + extreme).double() / (1 + len(lowest))
