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
from memhooks.model.replay.clean_run import TOGETHER, Outcome, clean_run
from memhooks.model.replay.edits import token_edits
from memhooks.model.replay.replay import Work, joined, replay
from memhooks.model.watched import has_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked


def perturb(model: HookedModel, paragraphs: Paragraphs, *, seed: int, batch_size: int = 64) -> xr.Dataset:
    """Replace each prefix token once by a uniformly random other one and score the same continuation.

    Returns:
        Dataset over `paragraph` and `pos` (the replaced position): `nll_rise` (nats per token),
        `em_drop` and `match_drop` (tokens), `replacement` (token id), and over `paragraph`
        the untouched `nll` and `exact_match`.

    Raises:
        InputError: a batch size below one, or paragraphs that the model cannot read.
    """
    paragraphs.check(model)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    replacement = random_replacements(paragraphs.prefix, model.cfg.d_vocab, seed=seed)
    work = Work()
    if has_hooks(model):
        base, after = _scored_by_passes(model, paragraphs, replacement, batch_size)
    else:
        base, after = _scored_by_replay(model, paragraphs, replacement, batch_size, work)
    clean_nll, clean_em, clean_matches = _summary(base)
    nll, em, matches = (one.reshape(replacement.shape) for one in _summary(after))
    axes = ("paragraph", "pos")
    names = {"paragraph": paragraphs.ids, "pos": range(paragraphs.n_prefix)}
    return labelled(
        provenance(model, paragraphs.tokens) | {"seed": seed, "n_prefix": paragraphs.n_prefix} | work.about(),
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


def _scored_by_replay(
    model: HookedModel,
    paragraphs: Paragraphs,
    replacement: Int[Tensor, "paragraph n_prefix"],
    batch_size: int,
    work: Work,
) -> tuple[Outcome, Outcome]:
    """Outcome of the untouched paragraphs and of every replacement, paragraph by paragraph."""
    n_prefix, base, after = paragraphs.n_prefix, [], []
    pairs = zip(paragraphs.tokens.split(TOGETHER), replacement.split(TOGETHER), strict=True)
    for tokens, others in tracked(list(pairs), "perturbing"):
        run = clean_run(model, tokens, first=n_prefix)
        row, position = torch.meshgrid(torch.arange(len(tokens)), torch.arange(n_prefix), indexing="ij")
        edits = token_edits(run, row.flatten(), position.flatten(), others.flatten())
        base.append(run.outcome)
        after.append(replay(run, edits, batch_size=batch_size, work=work))
    return joined(base), joined(after)


def _scored_by_passes(
    model: HookedModel, paragraphs: Paragraphs, replacement: Int[Tensor, "paragraph n_prefix"], batch_size: int
) -> tuple[Outcome, Outcome]:
    """The same by full passes, which hooks of others on the model take part in."""
    n_prefix = paragraphs.n_prefix
    variants = paragraphs.tokens[:, None].repeat(1, n_prefix, 1)  # [paragraph, replaced position, pos]
    each = torch.arange(n_prefix)
    variants[:, each, each] = replacement
    both = []
    for rows in (paragraphs.tokens, variants.flatten(0, 1)):
        passes = list(score_tokens(model, rows, first=n_prefix, batch_size=batch_size))
        hits = torch.cat([one.predicted for one in passes]) == rows[:, n_prefix:]
        both.append(Outcome(torch.cat([one.nll for one in passes]), hits))
    return both[0], both[1]


def _summary(scores: Outcome) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Mean NLL, EM and matches of each row's continuation."""
    return scores.nll.mean(-1), exact_match(scores.hits), scores.hits.sum(-1)
