"""Which prefix tokens carry the continuation? Replace one at a time and see what breaks.

For every prefix position: put a random other token there, score the original
continuation teacher-forced, and compare with the untouched prefix. EM alone is decided
by the first continuation token, so NLL rise and position-wise matches stand beside it.
"""

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.recitation import exact_match, score_tokens
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs


def perturb(model: HookedModel, paragraphs: Paragraphs, *, seed: int, batch_size: int = 64) -> xr.Dataset:
    """Replace each prefix token once by a uniformly random other one and score the same continuation.

    Returns:
        Dataset over `paragraph` and `pos` (the replaced position): `nll_rise` (nats per token),
        `em_drop` and `match_drop` (tokens), `replacement` (token id), and over `paragraph`
        the untouched `nll` and `exact_match`.
    """
    paragraphs.check(model)
    replacement = random_replacements(paragraphs.prefix, model.cfg.d_vocab, seed=seed)
    n, n_prefix = paragraphs.prefix.shape
    variants = paragraphs.tokens.repeat(n_prefix, 1, 1)  # [replaced position, paragraph, pos]
    each = torch.arange(n_prefix)
    variants[each, :, each] = replacement.T
    rows = torch.cat([paragraphs.tokens, variants.flatten(0, 1)])
    nll, em, matches = _summary(model, rows, paragraphs.continuation.repeat(1 + n_prefix, 1), batch_size)
    (clean_nll, nll), (clean_em, em), (clean_matches, matches) = (
        (one[:n], one[n:].reshape(n_prefix, n).T) for one in (nll, em, matches)
    )
    axes = ("paragraph", "pos")
    names = {"paragraph": paragraphs.ids, "pos": range(paragraphs.n_prefix)}
    return labelled(
        provenance(model, paragraphs.tokens) | {"seed": seed, "n_prefix": paragraphs.n_prefix},
        nll_rise=Variable(nll - clean_nll[:, None], axes, "nats per continuation token, 0 = no effect", names),
        em_drop=Variable(clean_em[:, None] - em, axes, "tokens of exact match lost, 0 = no effect"),
        match_drop=Variable(clean_matches[:, None] - matches, axes, "matching tokens lost, 0 = no effect"),
        replacement=Variable(replacement, axes, "token id"),
        nll=Variable(clean_nll, ("paragraph",), "nats per continuation token, untouched"),
        exact_match=Variable(clean_em, ("paragraph",), "tokens before the first miss, untouched"),
    )


def random_replacements(
    prefix: Int[Tensor, "paragraph pos"], d_vocab: int, *, seed: int
) -> Int[Tensor, "paragraph pos"]:
    """For each prefix token another one, uniform over the rest of the vocabulary.

    Raises:
        InputError: the vocabulary has fewer than two tokens.
    """
    if d_vocab < 2:
        raise InputError("a vocabulary of one token has no replacement")
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, d_vocab, prefix.shape, generator=generator)
    return (prefix + shift) % d_vocab


def corrupted(
    paragraphs: Paragraphs, effect: xr.Dataset
) -> tuple[Int[Tensor, "paragraph pos"], Int[Tensor, " paragraph"]]:
    """Each paragraph with its most damaging replacement, and where that is (the first of equals)."""
    at = torch.from_numpy(effect["nll_rise"].values).argmax(dim=1)
    tokens = paragraphs.tokens.clone()
    row = torch.arange(len(tokens))
    tokens[row, at] = torch.from_numpy(effect["replacement"].values)[row, at]
    return tokens, at


def _summary(
    model: HookedModel,
    tokens: Int[Tensor, "row pos"],
    continuation: Int[Tensor, "row n_continuation"],
    batch_size: int,
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Mean NLL, EM and matches of each row's continuation."""
    first = tokens.shape[1] - continuation.shape[1]
    passes = list(score_tokens(model, tokens, first=first, batch_size=batch_size))
    hits = torch.cat([one.predicted for one in passes]) == continuation
    return torch.cat([one.nll for one in passes]).mean(-1), exact_match(hits), hits.sum(-1)
