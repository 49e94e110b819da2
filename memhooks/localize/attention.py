"""Does a head look at rare tokens? Per-paragraph rank correlation of attention with unigram counts.

For one query position (the last prefix token, which predicts the first continuation
token) and every head: Spearman's correlation between the attention on each prefix token
and that token's corpus count. Negative means rare tokens get more attention.

Nulls: uniform attention has no ranks, so its correlation is 0 by construction here
(the published statistic, which sums attention over paragraphs by rank, gives -0.5 to
-0.7 for it); and counts shuffled within each paragraph give the distribution of the
most negative head when no head looks at rarity.
"""

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.hooks import recorded
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel, window_of
from memhooks.model.provenance import provenance
from memhooks.model.replay.block import reachable
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked


def rare_token_attention(
    model: HookedModel,
    paragraphs: Paragraphs,
    counts: Int[Tensor, " d_vocab"],
    *,
    seed: int,
    n_shuffles: int = 200,
    batch_size: int = 32,
) -> xr.Dataset:
    """Correlate every head's attention to prefix tokens with how common these tokens are.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: whose last prefix position asks.
        counts: corpus count of each token id.
        seed: of the shuffles.
        n_shuffles: how often counts are dealt anew to token types for the null.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph`, `layer`, `head`: `spearman` (-1 = rarest most attended);
        over `layer`, `head`: `reach` (keys a head can see) and `p_value` (share of shuffles whose
        most negative head is at least as negative as this one, so over all heads at once).

    Raises:
        InputError: counts of another vocabulary.
    """
    paragraphs.check(model)
    if len(counts) != model.cfg.d_vocab:
        raise InputError(f"counts must cover the vocabulary of {model.cfg.d_vocab} tokens, got {len(counts)}")
    reach = reachable_keys(model, paragraphs.n_prefix - 1)
    rows = [prefix_attention(model, prefix) for prefix in tracked(paragraphs.prefix.split(batch_size), "attention")]
    looked_at = torch.cat(rows)
    frequency = counts[paragraphs.prefix].double()
    found = _spearman(looked_at, frequency, reach)
    null = _most_negative_when_shuffled(looked_at, paragraphs.prefix, counts, reach, seed=seed, n_shuffles=n_shuffles)
    p_value = (1 + (null[:, None, None] <= found.mean(0)).sum(0)) / (1 + n_shuffles)
    labels = {
        "paragraph": paragraphs.ids,
        "layer": range(model.cfg.n_layers),
        "head": range(model.cfg.n_heads),
    }
    return labelled(
        provenance(model, paragraphs.tokens)
        | {"seed": seed, "n_shuffles": n_shuffles, "query": paragraphs.n_prefix - 1},
        spearman=Variable(
            found,
            ("paragraph", "layer", "head"),
            "rank correlation of attention and count, 0 = none, -1 = rarest first",
            labels,
        ),
        p_value=Variable(p_value, ("layer", "head"), "probability under shuffled counts, maximum over heads"),
        reach=Variable(reach.sum(-1), ("layer",), "keys that the layer's heads can see"),
    )


@torch.no_grad()
def prefix_attention(model: HookedModel, prefix: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch layer head pos"]:
    """Attention of the last position to every position, all layers and heads, from one pass."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    with recorded(model, names) as store:
        model(prefix.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
        return torch.stack([store[name][:, :, -1, :] for name in names], dim=1).float().cpu()


def reachable_keys(model: HookedModel, query: int) -> Bool[Tensor, "layer pos"]:
    """Which keys each layer's heads can see from `query`: all before it, or those in the local window."""
    windows = [window_of(model, layer) for layer in range(model.cfg.n_layers)]
    return torch.cat([reachable(window, query, 1, 0, query + 1) for window in windows])


def _spearman(
    attention: Float[Tensor, "paragraph layer head pos"],
    frequency: Float[Tensor, "paragraph pos"],
    reach: Bool[Tensor, "layer pos"],
) -> Float[Tensor, "paragraph layer head"]:
    per_layer = []
    for layer, keys in enumerate(reach):
        theirs = _standard_ranks(frequency[:, keys])
        ours = _standard_ranks(attention[:, layer, :, keys])
        per_layer.append((ours * theirs[:, None]).mean(-1))
    return torch.stack(per_layer, dim=1)


def _most_negative_when_shuffled(
    attention: Float[Tensor, "paragraph layer head pos"],
    prefix: Int[Tensor, "paragraph pos"],
    counts: Int[Tensor, " d_vocab"],
    reach: Bool[Tensor, "layer pos"],
    *,
    seed: int,
    n_shuffles: int,
) -> Float[Tensor, " shuffle"]:
    generator = torch.Generator().manual_seed(seed)
    types, place = prefix.unique(return_inverse=True)
    ours = [_standard_ranks(attention[:, layer, :, keys]) for layer, keys in enumerate(reach)]
    most_negative = []
    for _ in tracked(range(n_shuffles), "shuffling"):
        dealt = counts[types][torch.randperm(len(types), generator=generator)][place].double()
        means = [
            (rank * _standard_ranks(dealt[:, keys])[:, None]).mean((0, 2)).min()
            for rank, keys in zip(ours, reach, strict=True)
        ]
        most_negative.append(torch.stack(means).min())
    return torch.stack(most_negative)


def _standard_ranks(values: Float[Tensor, "*rows pos"]) -> Float[Tensor, "*rows pos"]:
    """Average ranks with mean 0 and variance 1 along the last axis; 0 where all values are equal."""
    ranks = torch.from_numpy(rankdata(values.numpy(), axis=-1))
    ranks = ranks - ranks.mean(-1, keepdim=True)
    spread = ranks.pow(2).mean(-1, keepdim=True).sqrt()
    return torch.where(spread > 0, ranks / spread.clamp_min(1e-12), torch.zeros_like(ranks))
