"""How negative is the most negative head if no head looks at rarity? Shuffled counts, in running sums.

Two ways to shuffle, the same for all heads, layers and queries of a paragraph:
1. dealt: the counts are dealt anew to the token types of the whole set. A token keeps one count wherever it occurs,
   so a head's taste for certain tokens is kept, and only what their counts have to do with it is lost.
2. within: each paragraph's counts change places among the keys. A token that recurs then gets a new count each
   time, as if every occurrence were evidence of its own.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from memhooks.localize.attention_statistics import Keys, rank_rows

_ROUNDING = 1e-12  # of sums in double precision: a shuffle may give the very order observed


class ShuffledCounts:
    """Sums over paragraphs of Spearman's correlation under `n` shuffles of the counts."""

    def __init__(
        self,
        tokens: Int[Tensor, "paragraph pos"],
        counts: Num[Tensor, " d_vocab"],
        *,
        seed: int,
        n: int,
        clusters: Int[np.ndarray, " paragraph"] | None,
    ) -> None:
        self.seed, self.n, self.width = seed, n, tokens.shape[1]
        self.label = np.arange(len(tokens)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
        self.types = tokens.unique()
        # Ranks do not change if counts are replaced by their order, which takes half the memory.
        _, order = counts[self.types].unique(return_inverse=True)
        generator = torch.Generator().manual_seed(seed)
        deals = [order[torch.randperm(len(order), generator=generator)] for _ in range(n)]
        self.dealt = torch.stack(deals).int()
        self.sums: dict[str, dict[tuple[int, int], Tensor]] = {"p_value": {}, "p_within": {}}

    def orders(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "shuffle row pos"]:
        """Numbers by whose order each paragraph's keys change places, near-duplicates' in the same order."""
        # A generator for each cluster, so that its order does not depend on how paragraphs are batched.
        drawn = [
            np.random.default_rng([self.seed, 1, label]).random((self.n, self.width), dtype=np.float32)
            for label in self.label[rows.numpy()]
        ]
        return torch.from_numpy(np.stack(drawn, axis=1))

    def shuffled(
        self,
        tokens: Int[Tensor, "row key"],
        keys: Keys,
        orders: Float[Tensor, "shuffle row key"],
    ) -> dict[str, Float[Tensor, "shuffle row key"]]:
        """Standardised ranks of the keys' counts under both ways of shuffling."""
        ranks = rank_rows(self.dealt[:, torch.searchsorted(self.types, tokens.contiguous())])
        within = keys.ranks.expand(self.n, -1, -1).gather(-1, orders.argsort(-1))
        return {"p_value": ranks, "p_within": within}

    def add_(
        self,
        cell: tuple[int, int],
        shuffled: dict[str, Float[Tensor, "shuffle row key"]],
        ours: Float[Tensor, "row head key"],
    ) -> None:
        """Add some paragraphs' correlations of one layer for one query."""
        for name, theirs in shuffled.items():
            found = torch.einsum("sbk,bhk->sh", theirs, ours) / ours.shape[-1]
            self.sums[name][cell] = self.sums[name].get(cell, 0) + found

    def p_values(self, mean: Float[Tensor, "query layer head"]) -> dict[str, Float[Tensor, "query layer head"]]:
        """How often the most negative of all heads is, shuffled, as negative as each one's mean; never 0."""
        found = {}
        for name, cells in self.sums.items():
            lowest = torch.stack([sums.amin(-1) for sums in cells.values()]).amin(0) / len(self.label)
            extreme = (lowest <= mean[..., None] + _ROUNDING).sum(-1)
            found[name] = (1 + extreme) / (1 + self.n)
        return found
