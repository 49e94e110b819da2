"""What does the model say after a perturbed prefix? It may leave the text, and come back to it.

A rise in NLL is measured with the true continuation before the model's eyes at every step. Here
the model decodes freely from the perturbed prefix, and what it says is compared with the
original continuation position by position: recitation dies, resumes, or was never disturbed.

One token more or less shifts all that follows, and then no position matches although the
paragraph is recited: so a run of original tokens is also looked for at any offset.
"""

from typing import Literal

import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.effects import EFFECT_AXES, check_effect, replaced, worst_place
from memhooks.measure.recitation import exact_match, with_own_continuation
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs

__all__ = ["DIES_BELOW", "perturbed_continuations", "worst_place"]

DIES_BELOW = 0.2
"""Share of original tokens below which recitation has died."""


def perturbed_continuations(
    model: HookedModel,
    paragraphs: Paragraphs,
    effect: xr.Dataset,
    *,
    at: Literal["worst", "every"] = "worst",
    batch_size: int = 64,
) -> xr.Dataset:
    """Decode greedily after prefixes with one token replaced, and compare with the original continuation.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: those that were perturbed.
        effect: what `perturb` returned; it names the replacements.
        at: at each paragraph's `worst_place` alone, or at `every` position and draw: as many decodings
            as there are replacements.
        batch_size: prefixes per decoding.

    Returns:
        Dataset over `paragraph` (for every place also `draw` and `pos`): `match` (share of positions that
        equal the original's), `dies` (whether fewer than a fifth do), `first_miss` (tokens before the first
        difference, all of them if there is none), `later_run` (most tokens in a row, after the first difference,
        that stand in a row in the original too, at any offset) and `resumes` (whether that run is at least a
        fifth of the continuation). Text that only lost its place both dies and resumes.

    Raises:
        InputError: an unknown `at`, a batch size below one, paragraphs that the model cannot read, or an
            effect of others.
    """
    if at not in ("worst", "every"):
        raise InputError(f"at must be 'worst' or 'every', got {at!r}")
    check_batch_size(batch_size)
    check_effect(effect, paragraphs.check(model))
    axes = EFFECT_AXES if at == "every" else EFFECT_AXES[:1]
    row, draw, pos = _places(effect, at)
    edited = Paragraphs(replaced(paragraphs, effect, row, draw, pos), paragraphs.n_prefix)
    said = with_own_continuation(model, edited, batch_size=batch_size).continuation
    original, shape = paragraphs.continuation[row], [effect.sizes[axis] for axis in axes]
    hits = said == original
    later = longest_shared_run(said, original, first=exact_match(hits))
    return labelled(
        provenance(model, paragraphs.tokens)
        | {"at": at, "n_prefix": paragraphs.n_prefix, "n_continuation": paragraphs.n_continuation},
        **_compared(
            hits.reshape(*shape, -1), later.reshape(shape), axes, {axis: effect[axis].values.tolist() for axis in axes}
        ),
    )


def _places(
    effect: xr.Dataset, at: Literal["worst", "every"]
) -> tuple[Int[Tensor, " variant"], Int[Tensor, " variant"], Int[Tensor, " variant"]]:
    """Paragraph, draw and position of each replacement to decode after."""
    rows = torch.arange(effect.sizes["paragraph"])
    if at == "worst":
        return rows, *worst_place(effect)
    n_draws, n_prefix = effect.sizes["draw"], effect.sizes["pos"]
    place = torch.cartesian_prod(rows, torch.arange(n_draws), torch.arange(n_prefix))
    return place[:, 0], place[:, 1], place[:, 2]


def longest_shared_run(
    said: Int[Tensor, "row pos"], original: Int[Tensor, "row pos"], *, first: Int[Tensor, " row"]
) -> Int[Tensor, " row"]:
    """Most tokens in a row, from position `first` of what was said on, that also stand in a row in the original."""
    run = longest = torch.zeros_like(original)  # run[row, j]: length of the shared run that ends at the original's j
    for i in range(said.shape[1]):
        same = (said[:, i : i + 1] == original) & (i >= first)[:, None]
        run = (torch.nn.functional.pad(run[:, :-1], (1, 0)) + 1) * same
        longest = torch.maximum(longest, run)
    return longest.amax(1)


def _compared(
    hits: Bool[Tensor, "*place pos"], later: Int[Tensor, "*place"], axes: tuple[str, ...], labels: dict[str, list]
) -> dict[str, Variable]:
    n = hits.shape[-1]
    enough = max(1, n // 5)
    match = hits.sum(-1).double() / n  # in double precision a fifth of the tokens is exactly DIES_BELOW
    return {
        "match": Variable(match, axes, f"share of {n} positions with the original token, 0 = none", labels),
        "dies": Variable(match < DIES_BELOW, axes, f"whether match is below {DIES_BELOW}"),
        "first_miss": Variable(exact_match(hits), axes, f"tokens before the first difference, {n} = none"),
        "later_run": Variable(later, axes, "tokens in a row shared with the original after the first difference"),
        "resumes": Variable(later >= enough, axes, f"whether later_run is at least {enough}"),
    }
