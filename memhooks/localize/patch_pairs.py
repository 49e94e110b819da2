"""Patching of pairs: where is the information that decides the first token which one replaced token changes?

The published setting (Stoehr et al., 2024, arXiv:2403.19851, appendix A.3): each pair has its own
perturbed position, and its own impact token, the first of the continuation that differs. Up to
there both runs read the same continuation, so one pass scores the memorized token, the new
token, and the one against the other.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import xarray as xr
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.patch_grid import At, own_position, positions, rectangle, whole_grid
from memhooks.localize.patch_result import patch_result
from memhooks.localize.patching import Direction, check_source, sweep_cells
from memhooks.measure.pairs import Pairs
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable
from memhooks.model.loading import HookedModel
from memhooks.model.replay.clean_run import CleanRun, Site
from memhooks.model.replay.readers import at_token
from memhooks.model.replay.scoring import Reader

Place = Literal["perturbed", "impact"]


def patch_pairs(
    model: HookedModel,
    pairs: Pairs,
    *,
    sites: Sequence[Site] = ("q", "k", "v"),
    at: Place | At = "perturbed",
    direction: Direction = "denoising",
    batch_size: int | None = None,
) -> xr.Dataset:
    """Patch every layer (and head) of pairs and read off the impact token.

    Args:
        model: a hooked GPT-Neo.
        pairs: of `make_pairs`; those whose continuation did not change are refused.
        sites: as in `patch`.
        at: each pair's own `"perturbed"` position, or the one that predicts its `"impact"` token; or positions
            as in `patch`.
        direction: `"denoising"` puts the memorized run's activations into the perturbed run (published as
            MP into PMP), `"noising"` the reverse.
        batch_size: rows per pass; by default what fits into free memory.

    Returns:
        The variables of `patch`, and: `impact_nll_change` of the memorized token (nats, patched minus unpatched),
        `new_nll_change` of the perturbed run's token there, `logit_difference_change` (memorized minus new token)
        and `logit_effect`, its share of the mean gap between both runs.

    Raises:
        InputError: a pair without an impact token, an unknown place or direction, or as `patch`.
    """
    check_batch_size(batch_size)
    check_source(pairs.clean, direction)
    if not pairs.changed.all():
        unchanged = int((~pairs.changed).sum())
        raise InputError(f"{unchanged} of {len(pairs)} pairs have no impact token; pass pairs.select(pairs.changed)")
    if isinstance(at, str):
        if at not in get_args(Place):
            raise InputError(f"at must be one of {', '.join(get_args(Place))} or positions, got {at!r}")
        at = pairs.position if at == "perturbed" else pairs.impact - 1
    paragraphs, other = pairs.clean, pairs.tokens_with_clean_continuation
    where = positions(paragraphs, at)
    places, grid = rectangle(model, sites, where), whole_grid(model, sites, where)
    impact = _Impact(pairs)
    scores = sweep_cells(
        model, paragraphs, other, grid, direction=direction, batch_size=batch_size, readers=impact.readers
    )
    shape = (len(pairs), *[len(one) for one in places.values()])
    more = impact.variables(scores.patched.read["impact"].unflatten(0, shape), ("paragraph", *places), direction)
    about = {"direction": direction} | scores.about
    return patch_result(model, paragraphs, scores, places, about, **more, **own_position(where))


class _Impact:
    """Reads the impact token off patched runs and off both unpatched ones."""

    def __init__(self, pairs: Pairs) -> None:
        row = torch.arange(len(pairs))
        self.scored = pairs.impact - pairs.clean.n_prefix
        self.token = pairs.clean.tokens[row, pairs.impact]
        self.new = pairs.perturbed.tokens[row, pairs.impact]
        self.unpatched: list[Tensor] = []
        self.other: list[Tensor] = []

    def readers(self, base: CleanRun, source: CleanRun, rows: slice) -> dict[str, Reader]:
        """The reader of one group; notes what the unpatched runs say there."""
        own = [one[rows].to(base.device) for one in (self.scored, self.token, self.new)]
        reader = at_token(*own)
        for run, into in ((base, self.unpatched), (source, self.other)):
            into.append(reader(run.scored).cpu())
        return {"impact": reader}

    def variables(self, patched: Tensor, axes: tuple[str, ...], direction: Direction) -> dict[str, Variable]:
        """Changes at the impact token, `[*axes]` each."""
        base, other = torch.cat(self.unpatched), torch.cat(self.other)
        change = patched - base.reshape(len(base), *[1] * (len(axes) - 1), 3)
        nats = "nats, patched minus unpatched; 0 = no effect"
        share = "undone" if direction == "denoising" else "done"
        gap = (other - base)[:, 2]
        return {
            "impact_nll_change": Variable(change[..., 0], axes, f"{nats}; of the memorized token"),
            "new_nll_change": Variable(change[..., 1], axes, f"{nats}; of the perturbed run's token"),
            "logit_difference_change": Variable(change[..., 2], axes, "memorized minus new token; 0 = no effect"),
            "logit_effect": Variable(
                change[..., 2] / gap.mean(), axes, f"share of the mean gap that is {share}; 0 = none"
            ),
            "logit_gap": Variable(gap, ("paragraph",), "logit difference of the other run minus that of the unpatched"),
        }
