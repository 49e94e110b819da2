"""What stands in place of a prefix token?

A replacement is a function of model, paragraphs and random generator that names, for every
prefix token, another token id: one draw. How much a paragraph suffers depends on what is
put in: a random token of the vocabulary is mostly a rare and absurd one, so the others here
are likely (`first2sec`), as frequent (`frequency_matched`) or from real text
(`from_paragraphs`). Any function of the same signature will do.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int, Num
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.decoding import scored_logits
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

Replacement = Callable[[HookedModel, Paragraphs, torch.Generator], Int[Tensor, "paragraph pos"]]
"""For each prefix token another token id, `[paragraph, n_prefix]`."""

NEAREST = 100
"""How many tokens of the most similar frequency `frequency_matched` draws from."""

_ROWS = 16  # two copies of the logits at once


def drawn(
    model: HookedModel, paragraphs: Paragraphs, replace: Replacement, *, seed: int, n_draws: int
) -> Int[Tensor, "paragraph draw pos"]:
    """`n_draws` replacements of every prefix token, one call of `replace` each, all from one generator.

    Raises:
        InputError: fewer than one draw, paragraphs that the model cannot read, or a `replace` that returns
            anything but token ids of this model in the shape of the prefix.
    """
    paragraphs.check(model)
    if not callable(replace):
        raise InputError(
            f"replace must be a function such as uniform or first2sec of memhooks.measure.replacements, got {replace!r}"
        )
    if n_draws < 1:
        raise InputError(f"n_draws must be at least 1, got {n_draws}")
    generator = torch.Generator().manual_seed(seed)
    draws = [_checked(model, paragraphs, replace(model, paragraphs, generator)) for _ in range(n_draws)]
    return torch.stack(draws, dim=1)


def uniform(model: HookedModel, paragraphs: Paragraphs, generator: torch.Generator) -> Int[Tensor, "paragraph pos"]:
    """A random other token, uniform over the rest of the vocabulary (Stoehr et al., 2024, arXiv:2403.19851).

    Raises:
        InputError: the vocabulary has fewer than two tokens.
    """
    _check_vocabulary(model)
    shift = torch.randint(1, model.cfg.d_vocab, paragraphs.prefix.shape, generator=generator)
    return (paragraphs.prefix + shift) % model.cfg.d_vocab


@torch.no_grad()
def first2sec(model: HookedModel, paragraphs: Paragraphs, generator: torch.Generator) -> Int[Tensor, "paragraph pos"]:
    """What the model finds most likely there, or second most likely where the most likely is the token itself.

    The only random choice is at position 0, which nothing precedes and the model thus does not
    predict: it gets a uniformly random other token. All further draws are alike elsewhere.

    Raises:
        InputError: the vocabulary has fewer than two tokens.
    """
    chosen = uniform(model, paragraphs, generator)
    for rows, out in zip(paragraphs.prefix.split(_ROWS), chosen.split(_ROWS), strict=True):
        residual = model(rows.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)[:, :-1]
        # A token that is forbidden cannot be the best, so the best of the rest is its second choice or still the first.
        logits = scored_logits(model, residual)
        others = logits.scatter(-1, rows[:, 1:, None].to(logits.device), -torch.inf)
        out[:, 1:] = others.argmax(-1).cpu()
    return chosen


def frequency_matched(counts: Num[Tensor, " d_vocab"]) -> Replacement:
    """A random other token out of the 100 that are nearest to the token in order of corpus count.

    Tokens of equal count stand in the order of their ids. A smaller vocabulary offers all its other tokens.

    Raises:
        InputError: a count is not a number; when called, a vocabulary of one token or counts of another one.
    """
    if counts.isnan().any():
        raise InputError("counts must be numbers, got NaN; put 0 for tokens that never occur")
    order = counts.cpu().argsort(stable=True)
    rank = order.argsort()

    def replace(model: HookedModel, paragraphs: Paragraphs, generator: torch.Generator) -> Tensor:
        _check_vocabulary(model)
        if tuple(counts.shape) != (model.cfg.d_vocab,):
            raise InputError(
                f"counts must have one entry for each of the model's {model.cfg.d_vocab} token ids, "
                f"got shape {tuple(counts.shape)}"
            )
        own = rank[paragraphs.prefix]
        n_others = min(NEAREST, len(counts) - 1)
        lowest = (own - n_others // 2).clamp(0, len(counts) - 1 - n_others)
        other = lowest + torch.randint(n_others, own.shape, generator=generator)
        return order[other + (other >= own)]  # the ranks from its own on are one further: never the token itself

    replace.__name__ = "frequency_matched"
    return replace


def from_paragraphs(source: Paragraphs) -> Replacement:
    """The token at the same position of a random paragraph of `source`, out of those that differ there.

    Raises:
        InputError: when called, prefixes longer than those of the source, or a token that all of the source share.
    """

    def replace(model: HookedModel, paragraphs: Paragraphs, generator: torch.Generator) -> Tensor:
        n_prefix = paragraphs.n_prefix
        if source.n_prefix < n_prefix:
            raise InputError(
                f"the source's prefixes must have at least {n_prefix} tokens, as those to replace, "
                f"got {source.n_prefix}"
            )
        columns = [_other_tokens(paragraphs, source, pos, generator) for pos in range(n_prefix)]
        return torch.stack(columns, dim=1)

    replace.__name__ = "from_paragraphs"
    return replace


def _other_tokens(
    paragraphs: Paragraphs, source: Paragraphs, pos: int, generator: torch.Generator
) -> Int[Tensor, " paragraph"]:
    # Chosen among the rows that differ, not redrawn until one does: that might go on for long.
    own, offered = paragraphs.tokens[:, pos], source.tokens[:, pos]
    differs = own[:, None] != offered
    stuck = ~differs.any(1)
    if stuck.any():
        first = int(stuck.nonzero()[0])
        raise InputError(
            f"every paragraph of the source has token {int(own[first])} at position {pos}, as has paragraph "
            f"{paragraphs.ids[first]}; give a source with other tokens there"
        )
    return offered[torch.multinomial(differs.double(), 1, generator=generator)[:, 0]]


def _checked(model: HookedModel, paragraphs: Paragraphs, made: object) -> Int[Tensor, "paragraph pos"]:
    shape = tuple(paragraphs.prefix.shape)
    if not isinstance(made, Tensor):
        raise InputError(f"a replacement must return an integer tensor of shape {shape}, got {type(made).__name__}")
    if made.is_floating_point() or made.is_complex() or made.dtype == torch.bool:
        raise InputError(f"a replacement must return integer token ids, got {made.dtype}")
    if tuple(made.shape) != shape:
        raise InputError(f"a replacement must return one id per prefix token, shape {shape}, got {tuple(made.shape)}")
    low, high = int(made.min()), int(made.max())
    if low < 0 or high >= model.cfg.d_vocab:
        raise InputError(f"a replacement's ids must lie in 0..{model.cfg.d_vocab - 1}, got {low}..{high}")
    return made.long().cpu()


def _check_vocabulary(model: HookedModel) -> None:
    if model.cfg.d_vocab < 2:
        raise InputError("a vocabulary of one token has no replacement")
