"""Does a head treat rare token types differently? One observation per type, however often the type occurs.

1. Ranks of attention within each paragraph are averaged over all occurrences of a token type, in running sums.
2. Each head's averages are correlated with the types' counts (Spearman).
3. The counts are permuted among the types: how negative is the most negative of all heads then?
"""

from collections import defaultdict

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from memhooks.localize.attention_statistics import rank_rows

Cell = tuple[int, int]
"""Places of a query and of a layer among those asked for."""

_TOGETHER = 2**19  # ranks of permuted counts that are held at once
_ROUNDING = 1e-9  # averages closer than this are equal but for the order in which they were summed


class TypeAverages:
    """Mean rank of attention of every token type that occurs, for each query, layer and head.

    Memory: one number per type that occurs, query, layer and head, however many paragraphs there are.
    """

    def __init__(self, tokens: Int[Tensor, "paragraph pos"], counts: Num[Tensor, " d_vocab"]) -> None:
        self.types = tokens.unique()
        # Ranks do not change if counts are replaced by their order, which takes half the memory.
        self.order = counts[self.types].unique(return_inverse=True)[1].int()
        self.sums: dict[Cell, Float[Tensor, "type head"]] = {}
        self.occurrences: dict[Cell, Int[Tensor, " type"]] = {}

    def add_(self, cell: Cell, tokens: Int[Tensor, "row key"], ranks: Float[Tensor, "row head key"]) -> None:
        """Add some paragraphs' keys and the standardised ranks of one layer's attention to them."""
        place = torch.searchsorted(self.types, tokens.contiguous()).flatten()
        if cell not in self.sums:
            self.sums[cell] = torch.zeros(len(self.types), ranks.shape[1], dtype=torch.float64)
            self.occurrences[cell] = torch.zeros(len(self.types), dtype=torch.int64)
        self.sums[cell].index_add_(0, place, ranks.transpose(1, 2).flatten(0, 1))
        self.occurrences[cell] += torch.bincount(place, minlength=len(self.types))

    def against_counts(
        self, *, seed: int, n_shuffles: int
    ) -> tuple[Float[Tensor, "query layer head"], Float[Tensor, " shuffle"]]:
        """Spearman over types of averages and counts; and the most negative of all of them in every shuffle.

        One permutation of the counts holds for all heads, layers and queries. A layer that does not see some
        types (a local one) ranks the counts of those that it does see.
        """
        groups = self._same_types()
        spearman: dict[Cell, Tensor] = {}
        for cells, seen, averages in groups:
            found = averages @ rank_rows(self.order[seen][None])[0] / averages.shape[1]
            spearman |= dict(zip(cells, found.chunk(len(cells)), strict=True))
        generator, lowest = torch.Generator().manual_seed(seed), []
        for some in torch.arange(n_shuffles).split(max(1, _TOGETHER // len(self.types))):
            drawn = [self.order[torch.randperm(len(self.types), generator=generator)] for _ in some]
            permuted = torch.stack(drawn)
            found = [rank_rows(permuted[:, seen]) @ averages.T / averages.shape[1] for _, seen, averages in groups]
            lowest.append(torch.cat(found, dim=1).amin(1))
        n_queries, n_layers = (1 + max(places) for places in zip(*spearman, strict=True))
        rows = [torch.stack([spearman[query, layer] for layer in range(n_layers)]) for query in range(n_queries)]
        return torch.stack(rows), torch.cat(lowest)

    def _same_types(self) -> list[tuple[list[Cell], Bool[Tensor, " type"], Float[Tensor, "_ _"]]]:
        """Cells that see the same types, which, and the standardised ranks `[head, seen]` of their averages."""
        cells = defaultdict(list)
        for cell, occurrences in self.occurrences.items():
            cells[(occurrences > 0).numpy().tobytes()].append(cell)
        groups = []
        for same in cells.values():
            seen = self.occurrences[same[0]] > 0
            means = [self.sums[cell][seen] / self.occurrences[cell][seen, None] for cell in same]
            averages = (torch.cat(means, dim=1).T / _ROUNDING).round().contiguous()
            groups.append((same, seen, rank_rows(averages)))
        return groups
