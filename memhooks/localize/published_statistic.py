"""What does the published rare-token statistic say of attention that looks nowhere in particular?

Stoehr et al. (2024, arXiv:2403.19851, Fig. 7) sum attention over paragraphs by dense rarity rank and correlate these
sums with the rank. A rank's sum grows with how many tokens have it, and high ranks exist in few paragraphs: so
uniform attention is strongly "negative" too, and here stands beside what was found.
"""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from memhooks.localize.attention_statistics import Keys, compared, standardised
from memhooks.model.labelled import Variable, labelled

_CELLS = ("query", "layer", "head")


def published_statistic(result: xr.Dataset) -> xr.Dataset:
    """The published statistic beside what it gives for uniform attention: correlation of rank and SUMMED attention.

    Stoehr et al. (2024) report -0.97 for one head and name no coefficient; uniform attention has -0.3 to -0.7 on
    their paragraphs. As published, ranks that no token has count with a sum of 0.

    Args:
        result: of `rare_token_attention`.

    Returns:
        Dataset over `query`, `layer`, `head`: `summed_pearson`, `summed_spearman`, `summed_kendall`, from -1 (rarest
        first) to 1, 0 = none; over `query`, `layer`: `uniform_pearson`, `uniform_spearman`, `uniform_kendall`, the
        same for attention that is uniform over the reachable keys. What is not more negative says nothing.
    """
    tokens = result["tokens_at_rank"].transpose("query", "layer", "rank").values
    reach = result["reach"].transpose("query", "layer").values
    mean = result["attention_by_rank"].transpose(*_CELLS, "rank").fillna(0).values
    sums = {"summed": mean * tokens[:, :, None], "uniform": (tokens / reach[..., None])[:, :, None]}
    found = {}
    for what, by_rank in sums.items():
        axes = _CELLS if what == "summed" else _CELLS[:2]
        labels = {axis: result[axis].values.tolist() for axis in axes}
        for name, values in _correlations(torch.from_numpy(by_rank), reach).items():
            unit = f"{name} of rank and {what} attention, 0 = none, -1 = rarest first"
            values = values if what == "summed" else values[..., 0]
            found[f"{what}_{name}"] = Variable(values, axes, unit, labels)
    return labelled({str(key): value for key, value in result.attrs.items()}, **found)


def _correlations(
    by_rank: Float[Tensor, "query layer head rank"], reach: np.ndarray
) -> dict[str, Float[Tensor, "query layer head"]]:
    found = {name: torch.empty(by_rank.shape[:3], dtype=torch.float64) for name in ("pearson", "spearman", "kendall")}
    for cell in np.ndindex(reach.shape):
        n = int(reach[cell])  # as many ranks as a paragraph can have
        sums, rank = by_rank[cell][None, :, :n], torch.arange(n, dtype=torch.float64)[None]
        ranks, kendall = compared(sums, Keys(rank))
        found["pearson"][cell] = (standardised(sums) * standardised(rank)).mean(-1)[0]
        found["spearman"][cell] = (ranks * standardised(rank)).mean(-1)[0]
        found["kendall"][cell] = kendall[0]
    return found
