"""What is lost when some weights are set to zero: the target text, other recited text, language."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.measure.recitation import exact_match, score_tokens
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.injection.writing import holding

Scored = dict[str, tuple[float, float]]
"""Mean NLL (nats per token) and mean exact match (tokens) of the continuations of each set."""

Lost = dict[str, list[float]]
"""[NLL rise in nats per token, EM drop in tokens] of each set; 0 = nothing is lost."""


@contextmanager
def deleted(model: HookedModel, mask: WeightMask) -> Iterator[HookedModel]:
    """A block in which the mask's weights are zero; afterwards all are bit for bit as before."""
    with holding(model, mask, torch.zeros(len(mask))):
        yield model


def scored(model: HookedModel, sets: Mapping[str, Paragraphs]) -> Scored:
    """Mean NLL and exact match of each set, all sets in one go; they must have the same prefix and length.

    Raises:
        InputError: they do not.
    """
    first, *rest = sets.values()
    together = first.joined(*rest)
    passes = list(score_tokens(model, together.tokens, first=together.n_prefix))
    nll = torch.cat([one.nll for one in passes]).double().mean(-1)
    hits = torch.cat([one.predicted for one in passes]) == together.continuation
    sizes = [len(one) for one in sets.values()]
    pairs = zip(sets, nll.split(sizes), exact_match(hits).double().split(sizes), strict=True)
    return {name: (float(one.mean()), float(em.mean())) for name, one, em in pairs}


def lost(before: Scored, after: Scored) -> Lost:
    """What each set lost between two scorings."""
    return {name: [after[name][0] - before[name][0], before[name][1] - after[name][1]] for name in before}


def lost_without(model: HookedModel, mask: WeightMask, sets: Mapping[str, Paragraphs], before: Scored) -> Lost:
    """What each set loses when the mask's weights are zero; `before` is what `scored` said of the model as it is."""
    with deleted(model, mask):
        return lost(before, scored(model, sets))
