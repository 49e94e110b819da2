"""Which prefix tokens carry the continuation? Replace one at a time and see what breaks.

For every prefix position: put a random other token there, score the original
continuation teacher-forced, and compare with the untouched prefix. EM alone is decided
by the first continuation token, so NLL rise and position-wise matches stand beside it.
"""

from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.recitation import exact_match, score_tokens
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked


def perturb(model: HookedModel, paragraphs: Paragraphs, *, seed: int, batch_size: int = 64) -> xr.Dataset:
    """Replace each prefix token once by a uniformly random other one and score the same continuation.

    Returns:
        Dataset over `paragraph` and `pos` (the replaced position): `nll_rise` (nats per token),
        `em_drop` and `match_drop` (tokens), `replacement` (token id), and over `paragraph`
        the untouched `nll` and `exact_match`.
    """
    paragraphs.check(model)
    replacement = random_replacements(paragraphs.prefix, model.cfg.d_vocab, seed=seed)
    clean = _summary(model, paragraphs.tokens, paragraphs, batch_size)
    edited = []
    for pos in tracked(range(paragraphs.n_prefix), "perturbing"):
        tokens = paragraphs.tokens.clone()
        tokens[:, pos] = replacement[:, pos]
        edited.append(_summary(model, tokens, paragraphs, batch_size))
    nll, em, matches = (torch.stack([getattr(one, name) for one in edited], dim=1) for name in ("nll", "em", "matches"))
    axes = ("paragraph", "pos")
    names = {"paragraph": paragraphs.ids, "pos": range(paragraphs.n_prefix)}
    return labelled(
        provenance(model, paragraphs.tokens) | {"seed": seed, "n_prefix": paragraphs.n_prefix},
        nll_rise=Variable(nll - clean.nll[:, None], axes, "nats per continuation token, 0 = no effect", names),
        em_drop=Variable(clean.em[:, None] - em, axes, "tokens of exact match lost, 0 = no effect"),
        match_drop=Variable(clean.matches[:, None] - matches, axes, "matching tokens lost, 0 = no effect"),
        replacement=Variable(replacement, axes, "token id"),
        nll=Variable(clean.nll, ("paragraph",), "nats per continuation token, untouched"),
        exact_match=Variable(clean.em, ("paragraph",), "tokens before the first miss, untouched"),
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


@dataclass(frozen=True)
class _Summary:
    nll: Tensor
    em: Tensor
    matches: Tensor


def _summary(model: HookedModel, tokens: Tensor, paragraphs: Paragraphs, batch_size: int) -> _Summary:
    passes = list(score_tokens(model, tokens, first=paragraphs.n_prefix, batch_size=batch_size))
    hits = torch.cat([one.predicted for one in passes]) == paragraphs.continuation
    return _Summary(torch.cat([one.nll for one in passes]).mean(-1), exact_match(hits), hits.sum(-1))
