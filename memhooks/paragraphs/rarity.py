"""How rare is each token among those of its own paragraph?"""

from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from scipy.stats import rankdata
from torch import Tensor

from memhooks.errors import InputError

Ties = Literal["dense", "average", "min", "max", "ordinal"]


def rarity_ranks(
    tokens: Int[Tensor, "paragraph pos"], counts: Num[Tensor, " d_vocab"], *, ties: Ties = "dense"
) -> Int[Tensor, "paragraph pos"] | Float[Tensor, "paragraph pos"]:
    """Rank of each token by its corpus count among the tokens of its paragraph; 0 is the rarest.

    Args:
        tokens: whole paragraphs or, as in Stoehr et al. (2024, arXiv:2403.19851), their prefixes.
        counts: how often each token id occurs in the corpus.
        ties: what tokens of equal count get: `dense` one rank and the next count the next (as published,
            so the highest rank differs between paragraphs); `min`, `max` or `average` (the only one that
            gives fractions) of the ranks they take up; `ordinal` ranks in their order.

    Raises:
        InputError: there are no tokens, a token has no count, or a count is not a number.
    """
    if tokens.numel() == 0:
        raise InputError(f"tokens must be a non-empty [paragraph, pos] tensor, got shape {tuple(tokens.shape)}")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= len(counts):
        raise InputError(
            f"token ids must lie in 0..{len(counts) - 1}, where there are counts, got {low}..{high}; "
            "give counts of the tokens' own vocabulary"
        )
    if counts.isnan().any():
        raise InputError("counts must be numbers, got NaN; put 0 for tokens that never occur")
    ranks = rankdata(counts.cpu()[tokens.cpu()].numpy(), method=ties, axis=1) - 1
    return torch.from_numpy(ranks if ties == "average" else ranks.astype("int64"))
