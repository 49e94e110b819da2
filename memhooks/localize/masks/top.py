"""The weights with the largest or smallest scores, exactly as many as asked for.

1. The number is `k = max(1, round(fraction * weights))`, ties or not.
2. With `per`, each group gets its share of k by size; the largest remainders are rounded up, so that k is exact.
3. Weights rank by |score|; of equal ones the first counts, in the order of the scores and then of the index.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from memhooks.localize.masks.groups import Per, budgets, grouped, n_chosen
from memhooks.localize.masks.selection import best
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.loading import HookedModel


def top_weights(
    scores: Mapping[str, Tensor], *, fraction: float, per: Per = "all", model: HookedModel | None = None
) -> WeightMask:
    """The `fraction` of all weights with the largest |score|.

    Args:
        scores: one per weight by parameter name, such as a localizer returns them.
        fraction: of all weights with scores, over 0 to 1.
        per: which weights compete: all together, or those of each `parameter`, `layer`, or `component` (one head's
            matrix), where each group gets its share.
        model: binds the mask to the model as it is now; needed for `layer` and `component`.

    Raises:
        InputError: the fraction lies outside (0, 1], NaN or infinite scores, none, an unknown `per`, or scores of
            another model.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> forget = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> retain = memhooks.load_controls().select(slice(0, 2))
        >>> scores = memhooks.LOCALIZERS[0](model, forget, retain, seed=0)
        >>> mask = memhooks.top_weights(scores, fraction=0.001, model=model)
        >>> len(mask), round(mask.fraction, 5)
        (6291, 0.001)
    """
    return _chosen(scores, fraction, per, model, smallest=False)


def bottom_weights(
    scores: Mapping[str, Tensor], *, fraction: float, per: Per = "all", model: HookedModel | None = None
) -> WeightMask:
    """The `fraction` of all weights with the smallest |score|; arguments as of `top_weights`.

    Raises:
        InputError: as `top_weights`.
    """
    return _chosen(scores, fraction, per, model, smallest=True)


def all_but_top(
    scores: Mapping[str, Tensor], *, fraction: float, per: Per = "all", model: HookedModel | None = None
) -> WeightMask:
    """All weights but those of `top_weights` with the same arguments: does anything need the top?

    Raises:
        InputError: as `top_weights`.
    """
    return top_weights(scores, fraction=fraction, per=per, model=model).complement()


def _chosen(
    scores: Mapping[str, Tensor], fraction: float, per: Per, model: HookedModel | None, *, smallest: bool
) -> WeightMask:
    sizes = {name: one.numel() for name, one in scores.items()}
    groups = grouped(scores, per, model)
    k = n_chosen(fraction, sum(sizes.values()))
    found: dict[str, list[Tensor]] = {name: [] for name in sizes}
    places = budgets([sum(len(part.scores) for part in group) for group in groups], k)
    for group, n_places in zip(groups, places, strict=True):
        for part, own in zip(group, best(group, n_places, smallest=smallest), strict=True):
            found[part.name].append(own + part.start)
    mask = WeightMask({name: torch.cat(own) for name, own in found.items()}, sizes)
    return mask if model is None else mask.bound(model)
