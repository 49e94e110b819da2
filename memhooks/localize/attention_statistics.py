"""Does one row of attention go to rare tokens? Rank correlations and shares, in float64, for many rows at once.

1. All pairs of keys are compared once: the sign of the difference of their attention, and of their counts.
2. Row sums of these signs are twice the centred average ranks: Spearman. Their products give Kendall's tau-b.
3. Distance from the query is regressed out of both rankings: the partial Spearman.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

STATISTICS = ("spearman", "kendall", "pearson", "partial_spearman", "share_on_rarest", "entropy")
_TOGETHER = 2**20  # pairs of keys that are compared at once: what fits a processor's cache is fastest
_ROUNDING = 1e-12  # what regression leaves of ranks that distance explains in full, relative to them


@dataclass(frozen=True)
class Keys:
    """The keys of some paragraphs that one layer can see, and what all its heads share.

    Attributes:
        counts: how often each key's token occurs in the corpus.
    """

    counts: Float[Tensor, "paragraph key"]

    @cached_property
    def signs(self) -> Float[Tensor, "paragraph key other"]:
        """1 where the key's token is more common than the other's, -1 where it is rarer, 0 where they tie."""
        return pair_signs(self.counts)

    @cached_property
    def ranks(self) -> Float[Tensor, "paragraph key"]:
        """Standardised ranks of the counts."""
        return standardised(self.signs.double().sum(-1))

    @cached_property
    def dense_ranks(self) -> Int[Tensor, "paragraph key"]:
        """0 for the rarest token; equal counts share a rank and the next count has the next."""
        ordered, place = self.counts.sort(-1)
        steps = torch.zeros_like(place)
        steps[:, 1:] = (ordered[:, 1:] > ordered[:, :-1]).cumsum(-1)
        return torch.empty_like(place).scatter_(-1, place, steps)

    @cached_property
    def log_counts(self) -> Float[Tensor, "paragraph key"]:
        """Standardised log(1 + count)."""
        return standardised(self.counts.log1p())

    def among_rarest(self, n: int) -> Float[Tensor, "paragraph key"]:
        """1 for the `n` rarest keys, 0 for others; keys that tie at the border share what is left of `n`."""
        rarer, tied = (self.signs > 0).sum(-1), (self.signs == 0).sum(-1)
        return ((n - rarer).double() / tied).clamp(0, 1)


def head_statistics(
    attention: Float[Tensor, "paragraph head key"], keys: Keys, *, n_rarest: int
) -> tuple[dict[str, Float[Tensor, "paragraph head"]], Float[Tensor, "paragraph head key"]]:
    """Every one of `STATISTICS`, and the standardised ranks of attention.

    A correlation is 0 where attention or counts are all equal: without ranks there is no evidence.

    Args:
        attention: on the reachable keys in their order, the nearest last; sums to 1.
        keys: the same keys' counts.
        n_rarest: how many keys count as the rarest.
    """
    ours, kendall = compared(attention, keys)
    among = keys.among_rarest(n_rarest)
    found = {
        "spearman": (ours * keys.ranks[:, None]).mean(-1),
        "kendall": kendall,
        "pearson": (standardised(attention) * keys.log_counts[:, None]).mean(-1),
        "partial_spearman": _without_distance(ours, keys.ranks[:, None]),
        "share_on_rarest": (attention * among[:, None]).sum(-1),
        "entropy": torch.special.entr(attention).sum(-1),
    }
    return found, ours


def compared(
    attention: Float[Tensor, "paragraph head key"], keys: Keys
) -> tuple[Float[Tensor, "paragraph head key"], Float[Tensor, "paragraph head"]]:
    """Standardised ranks of attention, and Kendall's tau-b with the counts."""
    n_pairs = attention.shape[1] * attention.shape[2] ** 2
    ranks, tau = [], []
    step = max(1, _TOGETHER // n_pairs)
    for some, theirs in zip(attention.split(step), keys.signs.split(step), strict=True):
        signs = pair_signs(some)
        # Sums of signs are whole numbers, exact in float32 up to 4,096 keys.
        ranks.append(signs.sum(-1).double())
        agreeing = (signs.flatten(-2) @ theirs.flatten(-2)[..., None]).squeeze(-1).double()
        untied = signs.flatten(-2).count_nonzero(-1) * theirs.flatten(-2).count_nonzero(-1)[:, None]
        tau.append(agreeing / untied.double().sqrt().clamp_min(1))
    return standardised(torch.cat(ranks)), torch.cat(tau)


def pair_signs(values: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows key other"]:
    """The sign of every difference of two values in a row, in float32."""
    return torch.sign(values[..., :, None] - values[..., None, :]).float()


def rank_rows(values: Float[Tensor, "*rows key"] | Int[Tensor, "*rows key"]) -> Float[Tensor, "*rows key"]:
    """Standardised average ranks by sorting, where pairs are not wanted."""
    ordered = values.sort(-1).values
    values = values.contiguous()
    below = torch.searchsorted(ordered, values, right=False)
    up_to = torch.searchsorted(ordered, values, right=True)
    return standardised((below + up_to - values.shape[-1]).double())


def standardised(values: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows key"]:
    """Mean 0 and variance 1 along the last axis; all 0 where all values are equal."""
    values = values.double()
    centred = values - values.mean(-1, keepdim=True)
    # The mean of equal values may be off by rounding, which must not pass for ranks.
    equal = values.amax(-1, keepdim=True) == values.amin(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    return torch.where(equal, 0.0, centred / torch.where(equal, 1.0, spread))


def _without_distance(
    ours: Float[Tensor, "paragraph head key"], theirs: Float[Tensor, "paragraph one key"]
) -> Float[Tensor, "paragraph head"]:
    """Correlation of what a straight line in the rank of distance leaves of both standardised rankings."""
    # Distances do not tie and fall by 1 from key to key, so their ranks are the keys' order.
    order = standardised(torch.arange(ours.shape[-1], dtype=torch.float64))
    left = [x - (x * order).mean(-1, keepdim=True) * order for x in (ours, theirs)]
    x, y = (torch.where(one.square().mean(-1, keepdim=True) > _ROUNDING, one, 0.0) for one in left)
    size = (x.square().mean(-1) * y.square().mean(-1)).sqrt()
    return torch.where(size > 0, (x * y).mean(-1) / torch.where(size > 0, size, 1.0), 0.0)
