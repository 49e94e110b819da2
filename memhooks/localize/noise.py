"""Are the top weights the paragraph's own? Noise in them, and in as many others, in growing doses.

1. Each draw takes one sample of Gaussian noise; its size is `factor` times the standard
   deviation of the parameter tensor that a weight lies in. All doses of a draw scale this one sample.
2. The noise is added to the chosen weights alone, every paragraph set is measured, and the
   weights are put back bit for bit.
3. The same sample goes into as many weights drawn blindly from the same matrices, anew in each draw.

Top weights are the paragraph's own only if noise in them hurts memorized text more than other
text, and more than noise in random weights or in another text's top weights does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Unpack

import numpy as np
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.noised import check_factors, check_mask, noised
from memhooks.localize.weight_region import Region, Scores, part_of
from memhooks.localize.weight_search import by_component, joined_mask, largest, search_weights
from memhooks.measure.recitation import exact_match, score_tokens
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

Sets = Mapping[str, Paragraphs]
Measured = tuple[np.ndarray, np.ndarray, np.ndarray]
"""EM, matches and NLL of every paragraph of all sets."""


class _Dose(NamedTuple):
    """Which weights get how much noise: one row of a result."""

    mask: str
    factor: float
    n_weights: int


def noise_doses(
    model: HookedModel,
    sets: Sets,
    mask: WeightMask,
    *,
    factors: Sequence[float] = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0),
    seed: int,
    n_draws: int = 3,
    controls: Mapping[str, WeightMask] | None = None,
) -> xr.Dataset:
    """Noise of growing size in the chosen weights, beside as many random ones of each parameter.

    Args:
        model: a hooked GPT-Neo; its weights are moved and put back.
        sets: paragraphs to measure by name, such as memorized and control.
        mask: the chosen weights, such as `top_weights(weight_gradients(...), fraction=0.001)`.
        factors: standard deviations of the noise, in those of each weight's parameter tensor; 0 = no noise.
        seed: of the noise and of the random weights.
        n_draws: samples of noise.
        controls: further masks by name, such as the top weights of a control's gradient: are the chosen ones special?

    Returns:
        Dataset over `row` (a mask with a factor), `draw` and `paragraph` (all sets, one after the other):
        `exact_match`, `matches` (tokens), `nll` and `nll_rise` (nats per continuation token; over the untouched
        model's). Over `row`: `mask` (`chosen`, `random`, or a control's name), `factor`, `n_weights`; over
        `paragraph`: `set`.

    Raises:
        InputError: no sets, factors or draws, an empty mask or one of another model, a control with a taken name, or
            paragraphs that the model cannot read.
    """
    _check(model, sets, seed, n_draws)
    check_factors(factors)
    taken = {"chosen", "random"} & set(controls or {})
    if taken:
        raise InputError(f"{min(taken)!r} names a row of every result; call the control something else")
    fixed = {"chosen": mask, **(controls or {})}
    for name, one in fixed.items():
        check_mask(model, name, one)
    names = list(dict.fromkeys(["chosen", "random", *fixed]))
    doses = [_Dose(name, factor, len(fixed.get(name, mask))) for name in names for factor in factors]

    def masks(draw: int) -> list[WeightMask]:
        made = {"random": matched_random_weights(mask, seed=_seed(seed, draw)), **fixed}
        return [made[dose.mask] for dose in doses]

    return _swept(model, sets, doses, masks, seed=seed, n_draws=n_draws)


def noise_counts(
    model: HookedModel,
    sets: Sets,
    scores: Scores,
    *,
    numbers: Sequence[int] = (0, 10, 30, 100, 300, 1000),
    factor: float = 1.0,
    seed: int,
    n_draws: int = 3,
    **region: Unpack[Region],
) -> xr.Dataset:
    """Noise of one size in ever more weights from the top of the scores, beside random ones and the bottom's.

    Random and bottom weights are as many of each component as the top holds there.

    Args:
        model: a hooked GPT-Neo; its weights are moved and put back.
        sets: paragraphs to measure by name, such as memorized and control.
        scores: one per weight by parameter name, as `weight_gradients` returns them.
        numbers: how many weights get noise; 0 = none.
        factor: standard deviation of the noise, in those of each weight's parameter tensor.
        seed: of the noise and of the random weights.
        n_draws: samples of noise.
        **region: in one `layer`, in some `matrices`, in one `head` only.

    Returns:
        Dataset as of `noise_doses`; `mask` is `top`, `random` or `bottom`.

    Raises:
        InputError: as `noise_doses` and `search_weights`, or no numbers, or negative ones.
    """
    _check(model, sets, seed, n_draws)
    check_factors([factor])
    if not len(numbers) or min(numbers) < 0:
        raise InputError(f"numbers must be one or more numbers of weights, 0 or more each, got {list(numbers)}")
    rows = search_weights(model, scores, k=max(1, *numbers), **region)
    doses = [_Dose(name, factor, number) for name in ("top", "random", "bottom") for number in numbers]

    def masks(draw: int) -> list[WeightMask]:
        made = [_masks_like(rows.isel(row=slice(number)), scores, model, _seed(seed, draw)) for number in numbers]
        return [made[place % len(made)][dose.mask] for place, dose in enumerate(doses)]

    return _swept(model, sets, doses, masks, seed=seed, n_draws=n_draws)


def _masks_like(rows: xr.Dataset, scores: Scores, model: HookedModel, seed: int) -> dict[str, WeightMask]:
    """The weights of a search, and as many of each component drawn blindly, and with the smallest |score|."""
    top = by_component(rows, model)
    sizes = {str(cell): part_of(scores, cell).numel() for cell in top}
    drawn = matched_random_weights(WeightMask({str(cell): own.int() for cell, own in top.items()}, sizes), seed=seed)
    low = {cell: largest(-part_of(scores, cell).detach().abs().flatten().cpu(), len(own)) for cell, own in top.items()}
    parts = {"top": top, "random": {cell: drawn.indices[str(cell)] for cell in top}, "bottom": low}
    return {name: joined_mask(own, model) for name, own in parts.items()}


def _swept(
    model: HookedModel,
    sets: Sets,
    doses: Sequence[_Dose],
    masks: Callable[[int], Sequence[WeightMask]],
    *,
    seed: int,
    n_draws: int,
) -> xr.Dataset:
    """Every dose in every draw; a dose of nothing is the untouched model, measured once."""
    untouched = _measured(model, sets)
    found = []
    for draw in tracked(range(n_draws), "noise"):
        for dose, mask in zip(doses, masks(draw), strict=True):
            if dose.factor == 0 or dose.n_weights == 0:
                found.append(untouched)
                continue
            with noised(model, mask, factor=dose.factor, seed=[seed, draw]):
                found.append(_measured(model, sets))
    shape, axes = (n_draws, len(doses), -1), ("row", "draw", "paragraph")
    em, matches, nll = (np.stack(one).reshape(shape).swapaxes(0, 1) for one in zip(*found, strict=True))
    by_set = [name for name, rows in sets.items() for _ in range(len(rows))]
    columns = [np.array(one) for one in zip(*doses, strict=True)]
    labels = {
        "row": [f"{dose.mask} {dose.n_weights} weights x {dose.factor:g}" for dose in doses],
        "draw": range(n_draws),
        "paragraph": [name for rows in sets.values() for name in rows.ids],
    }
    first = next(iter(sets.values()))
    about = provenance(model, first.tokens) | {
        "tokens_hash": {name: tensor_hash(rows.tokens) for name, rows in sets.items()},
        "n_continuation": {name: rows.n_continuation for name, rows in sets.items()},
        "seed": seed,
    }
    return labelled(
        about,
        exact_match=Variable(em, axes, "tokens before the first miss, 0 = none", labels),
        matches=Variable(matches, axes, "tokens, 0 = none"),
        nll=Variable(nll, axes, "nats per continuation token, 0 = certain"),
        nll_rise=Variable(nll - untouched[2], axes, "nats per continuation token, 0 = as without noise"),
        mask=Variable(columns[0], axes[:1], "which weights get noise"),
        factor=Variable(columns[1], axes[:1], "std of the noise over that of the weight's parameter tensor, 0 = none"),
        n_weights=Variable(columns[2], axes[:1], "weights that get noise, 0 = none"),
        set=Variable(np.array(by_set), axes[2:], "paragraph set"),
    )


def _measured(model: HookedModel, sets: Sets) -> Measured:
    """What `recitation` measures of all sets, without the fingerprint of weights that are about to go."""
    found = []
    for rows in sets.values():
        scores = list(score_tokens(model, rows.tokens, first=rows.n_prefix))
        hits = torch.cat([one.predicted for one in scores]) == rows.continuation
        nll = torch.cat([one.nll for one in scores]).mean(-1)
        found.append((exact_match(hits), hits.sum(-1), nll))
    em, matches, nll = (torch.cat(one).numpy() for one in zip(*found, strict=True))
    return em, matches, nll


def _seed(seed: int, draw: int) -> int:
    return int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])


def _check(model: HookedModel, sets: Sets, seed: int, n_draws: int) -> None:
    if not sets:
        raise InputError("no paragraph sets to measure; pass a mapping such as {'memorized': ..., 'control': ...}")
    for rows in sets.values():
        rows.check(model)
    if seed < 0 or n_draws < 1:
        raise InputError(f"seed must be at least 0 and n_draws at least 1, got {seed} and {n_draws}")
