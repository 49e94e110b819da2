"""What patching says, as a labelled result: raw changes and their share of the gap between both runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.measure.intervals import Interval, bootstrap_mean, bootstrap_ratio
from memhooks.measure.recitation import exact_match
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.replay.scoring import Outcome
from memhooks.paragraphs.paragraphs import Paragraphs

NO_GAP = 1e-4
"""Mean gap between both runs, in nats per token, below which shares of it are not given."""


@dataclass(frozen=True)
class Scores:
    """A sweep's outcomes.

    Attributes:
        base: of the unpatched run, one row per paragraph.
        patched: one row per paragraph and cell, paragraph by paragraph.
        clean_nll: of the paragraph itself.
        other_nll: of the same continuation after the other prefix, if the source is one.
        about: how much was run.
    """

    base: Outcome
    patched: Outcome
    clean_nll: Float[Tensor, " paragraph"]
    other_nll: Float[Tensor, " paragraph"] | None
    about: dict[str, object]


def patch_result(
    model: HookedModel,
    paragraphs: Paragraphs,
    scores: Scores,
    places: Mapping[str, Sequence],
    about: Mapping[str, object],
    **more: Variable,
) -> xr.Dataset:
    """Bind a sweep's outcomes to the axes of its cells."""
    labels = {"paragraph": paragraphs.ids} | dict(places)
    axes, shape = tuple(labels), tuple(len(one) for one in labels.values())
    change = _change(scores.base.nll.mean(-1), scores.patched.nll.mean(-1), shape)
    em = _change(exact_match(scores.base.hits), exact_match(scores.patched.hits), shape)
    nats = "nats per continuation token"
    found = {
        "nll_change": Variable(change, axes, f"{nats}, patched minus unpatched; 0 = no effect", labels),
        "em_change": Variable(em, axes, "tokens of exact match, patched minus unpatched; 0 = no effect"),
        "kl": Variable(scores.patched.read["kl"].reshape(shape), axes, "nats, from the unpatched run; 0 = same"),
        "clean_nll": Variable(scores.clean_nll, ("paragraph",), nats),
    }
    if scores.other_nll is not None:
        gap = (scores.other_nll - scores.clean_nll).mean()
        gap = gap if gap > NO_GAP else gap * torch.nan  # a share of nothing is nothing
        sign, what = (-1, "undone") if about["direction"] == "denoising" else (1, "done")
        unit = f"share of the mean gap between both runs that is {what}: 0 = none, 1 = all; NaN = no gap"
        found["effect"] = Variable(sign * change / gap, axes, unit)
        found["other_nll"] = Variable(scores.other_nll, ("paragraph",), f"{nats}, after the other prefix")
    return labelled(provenance(model, paragraphs.tokens) | dict(about), **found, **more)


def patch_interval(
    result: xr.Dataset, values: xr.DataArray, *, seed: int, clusters: Int[np.ndarray, " paragraph"] | None = None
) -> Interval:
    """Mean over paragraphs of a variable of `patch` (or of some of its cells) with the ends of its 95 % interval.

    Of a share the gap is drawn with it: where all is restored it is 1, whatever the paragraphs.
    """
    other = [axis for axis in values.dims if axis != "paragraph"]
    own = values.transpose("paragraph", *other).values.astype(np.float64)
    if values.name not in GAPS:
        return bootstrap_mean(own, seed=seed, clusters=clusters)
    gap = GAPS[str(values.name)](result).values.astype(np.float64)
    return bootstrap_ratio(own * gap.mean(), gap, seed=seed, clusters=clusters)


GAPS: dict[str, Callable[[xr.Dataset], xr.DataArray]] = {
    "effect": lambda result: result["other_nll"] - result["clean_nll"],
    "logit_effect": lambda result: result["logit_gap"],
}
"""What each share is a share of, paragraph by paragraph."""


def _change(base: Tensor, patched: Tensor, shape: tuple[int, ...]) -> Tensor:
    return patched.reshape(shape) - base.reshape(-1, *[1] * (len(shape) - 1))
