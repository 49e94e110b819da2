"""Do gradients of memorized paragraphs lie lower in the network than those of controls, and at equal loss, too?

1. Each paragraph's gradients become shares of layers, and these a centre of mass.
2. Raw: the mean centre of memorized paragraphs minus that of each control, with interval and permutation test.
3. Adjusted: the same among paragraphs of losses that both sets have, with the logarithm of the loss as covariate,
   for memorized text has almost no loss, and the profile goes with it.
4. Matched: `nll_matched` picks pairs of paragraphs of equal loss; the raw difference of these needs no adjustment.

The tests count every cluster of near-duplicates once. Each layer's share is held against the largest
difference of all layers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from memhooks.errors import InputError
from memhooks.localize.common_losses import check_nearest, in_both_ranges, overlap
from memhooks.localize.profile import about, centre_of_mass, check_comparable, ids_of, layer_shares, losses_of, named
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean
from memhooks.measure.membership import adjusted_difference, membership_p
from memhooks.model.labelled import Variable, labelled
from memhooks.paragraphs.matching import MatchedPairs, matched_pairs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

CALIPER = 0.2
"""Greatest difference in loss of a matched pair, in standard deviations (Austin, 2011, doi:10.1002/pst.433)."""

MIN_COMMON = 8
"""Clusters that each set needs among the losses both have; with fewer nothing is adjusted."""

LEAST_LOSS = 1e-3
"""Nats added to each loss before its logarithm is taken: recited text may have a loss of 0."""

_LARGEST_P = 0.05
_NO_INTERVAL = (np.array(np.nan),) * 3
_UNITS = {
    "difference": "layers, memorized minus control; 0 = same centre of mass, negative = memorized lower in the network",
    "p": "share of deals at least as far from 0",
    "survives": "the interval excludes 0 and p is at most 0.05",
    "nll_memorized": "mean loss, nats per token",
    "nll_control": "mean loss, nats per token",
    "overlap": "share of paragraphs whose loss lies in the range of both sets; 0 = the ranges do not meet",
    "n_memorized": "clusters of near-duplicates, or paragraphs where these are not known",
    "n_control": "clusters of near-duplicates, or paragraphs where these are not known",
    "n_common_memorized": "clusters with a loss that both sets have; 0 = none, nothing can be adjusted",
    "n_common_control": "clusters with a loss that both sets have; 0 = none, nothing can be adjusted",
    "adjusted": "layers, memorized minus control at equal loss; 0 = same, negative = memorized lower in the network",
    "p_adjusted": "share of deals at least as far from 0",
    "survives_adjusted": "the interval excludes 0 and p is at most 0.05",
    "paired": "the control is the same paragraphs under another model",
    "share_difference": "share of the layer, memorized minus control; 0 = same share",
    "p_layer": "share of deals whose largest difference of all layers is at least as large",
}


@dataclass(frozen=True)
class _Set:
    profile: Float[np.ndarray, "paragraph column"]
    """Centre of mass, then the share of each layer."""
    loss: Float[np.ndarray, " paragraph"]
    cluster: Int[np.ndarray, " paragraph"]


def profile_contrasts(
    results: Mapping[str, xr.Dataset],
    *,
    sets: Mapping[str, Paragraphs] | None = None,
    paired: Collection[str] = ("twin",),
    memorized: str = "memorized",
    pooling: str = "max_gradient",
    seed: int,
    n_dealt: int = 2000,
) -> xr.Dataset:
    """How much lower in the network the gradients of memorized paragraphs lie than those of each control.

    The adjusted difference is the membership coefficient of a linear regression of the centre of mass on set and
    log(loss + `LEAST_LOSS`), with one slope for both sets; of pairs, that of their differences. Only paragraphs take
    part whose loss lies in the range of both sets; a set's outermost 5 % at either end do not widen its range, so that
    one outlier does not make losses common. With fewer than `MIN_COMMON` clusters of either set it is NaN.

    Args:
        results: of `weight_scores`, by set.
        sets: the paragraphs of each result; clusters of near-duplicates among them then count once.
        paired: which controls are the memorized paragraphs under another model; "twin" may be missing.
        memorized: which of the results is of memorized text; all others are controls.
        pooling: how each component was pooled.
        seed: of the bootstrap and of the deals.
        n_dealt: how often the sets' names are dealt anew to the clusters (within each pair, where paired).

    Returns:
        Dataset over `row` (the controls): `difference` of the mean centres of mass, memorized minus control, with
        `_low` and `_high` (95 % interval) and `p`; `nll_memorized`, `nll_control` (mean losses) and their `overlap`;
        `adjusted` with `_low`, `_high` and `p_adjusted`; `survives` and `survives_adjusted` (the interval excludes
        0 and p is at most 0.05); `paired`; the clusters of each set (`n_memorized`, `n_control`) and those among
        losses that both have (`n_common_memorized`, `n_common_control`). Over `row` and `layer`: `share_difference`
        with `_low` and `_high` (of this layer alone) and `p_layer` (against the largest difference of all layers).
        All p are two-sided.

    Raises:
        InputError: the memorized set or every control is missing, scores without a finite loss, of other layers, of
            another objective or (unless paired) another model, `sets` are not theirs, a paired control is missing or
            of other paragraphs, fewer deals than one, or scores that `layer_shares` refuses.
    """
    pairs = {paired} if isinstance(paired, str) else set(paired)
    _check(results, sets, memorized, n_dealt)
    check_comparable(results, to=memorized, paired=pairs)
    found = {name: _set(name, one, pooling, sets) for name, one in results.items()}
    controls = [name for name in results if name != memorized]
    contrasts = [
        _contrast(found[memorized], found[name], paired=name in pairs, seed=seed, n_dealt=n_dealt) for name in controls
    ]
    labels = {"row": controls, "layer": results[memorized]["layer"].values.tolist()}
    columns = {}
    for name, first in contrasts[0].items():
        axes = ("row", "layer")[: 1 + np.ndim(first)]
        values = np.stack([np.asarray(one[name]) for one in contrasts])
        columns[name] = Variable(values, axes, _unit(name), {axis: labels[axis] for axis in axes})
    made = {"memorized": memorized, "pooling": pooling, "seed": seed, "n_dealt": n_dealt}
    kept = {key: value for key, value in about(results[memorized]).items() if key in ("model_hash", "objective")}
    return labelled(kept | made, **columns)


def nll_matched(
    one: xr.Dataset, other: xr.Dataset, one_rows: Paragraphs, other_rows: Paragraphs, *, caliper: float | None = CALIPER
) -> tuple[xr.Dataset, xr.Dataset, MatchedPairs]:
    """Scores of pairs of paragraphs with nearly the same loss, one of each set.

    Compare them by a `profile_contrasts` of their own, with the pairs' paragraphs as its `sets`: whatever
    differs there is not due to the loss. `balance` of the pairs says what difference in loss is left.

    Args:
        one: scores of one set, such as memorized paragraphs.
        other: scores of the other.
        one_rows: the paragraphs to choose from; their scores are found by id.
        other_rows: the same of the other set.
        caliper: the greatest difference in loss within a pair, in standard deviations; None for any.

    Returns:
        The scores of either set's matched paragraphs, pair by pair, and the pairs.

    Raises:
        NoEqualLossError: no pair lies within the caliper.
        InputError: ids that are missing or not unique, scores without a finite loss, or sets that `matched_pairs`
            refuses.
    """
    ours, theirs = _by_id("the first set", one, one_rows), _by_id("the second set", other, other_rows)
    losses = (losses_of("the first set", ours), losses_of("the second set", theirs))
    check_nearest(*losses, caliper)
    pairs = matched_pairs(one_rows, other_rows, on={"loss": losses}, caliper=caliper)
    return _by_id("the first set", ours, pairs.one), _by_id("the second set", theirs, pairs.other), pairs


def _check(
    results: Mapping[str, xr.Dataset], sets: Mapping[str, Paragraphs] | None, memorized: str, n_dealt: int
) -> None:
    if memorized not in results or len(results) < 2:
        raise InputError(f"profile_contrasts needs {memorized!r} and a control, got {', '.join(results) or 'nothing'}")
    if n_dealt < 1:
        raise InputError(f"n_dealt must be at least 1, got {n_dealt}")
    layers = results[memorized]["layer"].values.tolist()
    for name, one in results.items():
        if one["layer"].values.tolist() != layers:
            raise InputError(f"{name!r} and {memorized!r} must be scores of the same layers")
        if sets is not None and (name not in sets or sets[name].ids != ids_of(one)):
            raise InputError(f"sets must hold the {one.sizes['paragraph']} paragraphs of {name!r}, in their order")


def _set(name: str, scores: xr.Dataset, pooling: str, sets: Mapping[str, Paragraphs] | None) -> _Set:
    shares = layer_shares(scores, pooling=pooling)
    alone = np.arange(len(shares))
    return _Set(
        profile=np.column_stack([centre_of_mass(shares).values, shares.values]),
        loss=losses_of(name, scores),
        cluster=alone if sets is None else clusters(sets[name]).numpy(),
    )


def _contrast(mine: _Set, theirs: _Set, *, paired: bool, seed: int, n_dealt: int) -> dict[str, np.ndarray | float]:
    label = (mine.cluster, theirs.cluster)
    if paired:
        ends = bootstrap_mean(mine.profile - theirs.profile, seed=seed, clusters=label[0])
    else:
        ends = bootstrap_difference(mine.profile, theirs.profile, seed=seed, clusters=label)
    test = partial(membership_p, clusters=label, paired=paired, seed=seed, n_dealt=n_dealt)
    centres, losses = (mine.profile[:, :1], theirs.profile[:, :1]), (mine.loss, theirs.loss)
    common = in_both_ranges(*losses, paired=paired)
    n_common = [len(np.unique(own[chosen])) for own, chosen in zip(label, common, strict=True)]
    adjusted, p_adjusted = _NO_INTERVAL, np.nan
    if min(n_common) >= MIN_COMMON:
        y, x, own = (
            [one[chosen] for one, chosen in zip(both, common, strict=True)] for both in (centres, losses, label)
        )
        how = {"covariate": tuple(np.log(one + LEAST_LOSS) for one in x), "clusters": tuple(own), "paired": paired}
        adjusted = adjusted_difference(*(one[:, 0] for one in y), **how, seed=seed)
        p_adjusted = membership_p(*y, **how, seed=seed, n_dealt=n_dealt)[0]
    return {
        **_judged("difference", [end[0] for end in ends], "p", test(*centres)[0], "survives"),
        "nll_memorized": mine.loss.mean(),
        "nll_control": theirs.loss.mean(),
        "overlap": overlap(*losses),
        "n_memorized": len(np.unique(label[0])),
        "n_control": len(np.unique(label[1])),
        "n_common_memorized": n_common[0],
        "n_common_control": n_common[1],
        **_judged("adjusted", adjusted, "p_adjusted", p_adjusted, "survives_adjusted"),
        "paired": paired,
        **_interval("share_difference", [end[1:] for end in ends]),
        "p_layer": test(mine.profile[:, 1:], theirs.profile[:, 1:]),
    }


def _judged(name: str, ends: Sequence, p_name: str, p: float, verdict: str) -> dict[str, np.ndarray | float]:
    return {**_interval(name, ends), p_name: p, verdict: bool(ends[1] * ends[2] > 0 and p <= _LARGEST_P)}


def _interval(name: str, ends: Sequence) -> dict[str, np.ndarray | float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def _unit(name: str) -> str:
    unit = _UNITS.get(name) or _UNITS[name.removesuffix("_low").removesuffix("_high")]
    end = {"_low": "; lower end of the 95 % interval", "_high": "; upper end"}
    return unit + next((words for ending, words in end.items() if name.endswith(ending)), "")


def _by_id(name: str, scores: xr.Dataset, rows: Paragraphs) -> xr.Dataset:
    ids = ids_of(scores)
    if any(len(set(each)) < len(each) for each in (ids, rows.ids)) or not set(rows.ids) <= set(ids):
        raise InputError(
            f"the scores and paragraphs of {name} are matched by ids, which must be unique in both, and each "
            f"paragraph's among those of the scores; got {named(rows.ids)} and {named(ids)}"
        )
    place = {one: number for number, one in enumerate(ids)}
    return scores.isel(paragraph=[place[one] for one in rows.ids])
