"""Does a localizer name weights that hold the text? The named ones are exchanged for the other fork's.

1. Top-k masks of each localizer, at several fractions, get the other's values: what of the gap vanishes?
2. As many weights, drawn blindly from the same matrices, are exchanged in its place, several times: the named ones are
   better only if they stand out from such draws, too. And all weights of the matrices but the named ones (the
   complement): what vanishes with these does not need the named.
3. Other memorized paragraphs, read as often, and never-read text under the same swaps tell whether it is the target's
   own.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.localizers import Localizer
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked
from memhooks.truth.forks.passes import Passes
from memhooks.truth.forks.scored import QUICK, Scored, localized
from memhooks.truth.forks.sets import Rows, batch
from memhooks.truth.forks.shares import NATS, SHARE, Gap, gap_of, mean, with_draws
from memhooks.truth.forks.swapped import check_forks

FRACTIONS = (0.001, 0.01, 0.1)
SETS = ("target", "others", "control")
"""The text that was localized; other text that the model recites; text that neither fork has read."""


class _Swap(NamedTuple):
    named: np.ndarray
    random: np.ndarray  # [draw, paragraph]
    rest: np.ndarray
    em: np.ndarray
    delta: tuple[float, float]


def swap_curves(
    model: HookedModel,
    other: HookedModel,
    sets: Mapping[str, Paragraphs],
    scores: Mapping[str, Scored],
    *,
    fractions: Sequence[float] = FRACTIONS,
    n_draws: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """The share of the gap that vanishes with the weights that each localizer names.

    Args:
        model: the fork that recites target and others.
        other: the fork that recites neither.
        sets: `target`, `others` (read about as often, else `own` tells readings apart), `control`.
        scores: of `localized`, for the target.
        fractions: of all weights of the grid.
        n_draws: matched random masks for each, at least 2.
        seed: of the draws and intervals.

    Returns:
        Dataset over `row` (localizer and fraction) with `localizer`, `fraction`, `n_weights`, `seconds`; with `_low`
        and `_high` (shares of the gap): `target`, `others`, `random` (target, matched random weights), `beyond_random`
        (target minus random, paired; its interval holds the chance of paragraphs and of the random draw, with Student's
        t of so few draws), `complement` (target, all but the named), `own` (target minus others); with
        `_low` and `_high`: `control_rise` (nats); `em_left` (target's tokens), `delta` and `delta_random` (norm of the
        change).

    Raises:
        InputError: no forks, sets or fractions that cannot be used, fewer than two draws, or no gap.
    """
    check_forks(model, other)
    if n_draws < 2:
        raise InputError(f"n_draws must be at least 2, for random masks differ from each other, got {n_draws}")
    if not fractions or not scores:
        raise InputError("fractions and scores must not be empty")
    rows = batch(sets, SETS)
    there, away = Passes(model, other, rows.all), Passes(other, model, rows.all)
    gaps = {
        name: gap_of(name, there.clean.nll[rows.of[name]], away.clean.nll[rows.of[name]], rows.clusters[name])
        for name in ("target", "others")
    }
    jobs = [(name, fraction) for name in scores for fraction in fractions]
    masks = {job: top_weights(scores[job[0]].scores, fraction=job[1]) for job in jobs}
    found = [
        _swap(there, masks[job], seed=seed + 1000 * place, n_draws=n_draws)
        for place, job in enumerate(tracked(jobs, "swapping masks"))
    ]
    about = provenance(model, rows.all.tokens) | {"other_hash": model_hash(other), "seed": seed, "n_draws": n_draws}
    labels = {"row": [f"{name} {fraction:g}" for name, fraction in jobs]}
    columns = {
        "localizer": Variable(np.array([name for name, _ in jobs]), ("row",), "localizer, or bound", labels),
        "fraction": Variable(np.array([fraction for _, fraction in jobs]), ("row",), "of all weights of the grid"),
        "n_weights": Variable(np.array([len(masks[job]) for job in jobs]), ("row",), "weights exchanged"),
        "seconds": Variable(np.array([scores[name].seconds for name, _ in jobs]), ("row",), "to make the scores"),
    }
    return labelled(about, **columns, **_columns(rows, there, gaps, found, seed))


def single_targets(
    model: HookedModel,
    other: HookedModel,
    sets: Mapping[str, Paragraphs],
    retain: Paragraphs,
    *,
    localizers: Sequence[Localizer] = QUICK,
    fraction: float = 0.01,
    seed: int = 0,
) -> xr.Dataset:
    """The same for each paragraph of the target set on its own: localized, and exchanged, one by one.

    Args:
        model: the fork that recites target and others.
        other: the fork that recites neither.
        sets: `target` (each paragraph in turn), `others`, `control`.
        retain: text to keep, for localizers that use it.
        localizers: to compare.
        fraction: of all weights of the grid.
        seed: of the draws and intervals.

    Returns:
        Dataset over `row` (localizer): `target`, `others`, `random`, `own` (target minus others) with `_low` and
        `_high`, shares of the gap: ratios of means over the targets, so that one with a small gap weighs little.

    Raises:
        InputError: as `swap_curves`.
    """
    rows = batch(sets, SETS)
    away = Passes(other, model, rows.all)
    there = Passes(model, other, rows.all)
    gap = away.clean.nll - there.clean.nll
    for name in ("target", "others"):
        own, theirs = (runs.clean.nll[rows.of[name]] for runs in (there, away))
        gap_of(name, own, theirs, rows.clusters[name], sure=False)  # a few paragraphs may have no interval
    found: dict[str, list[list[float]]] = {}
    target, where = sets["target"], rows.of["others"]
    for place in tracked(range(len(target)), "single targets"):
        scores = localized(model, other, target.select([place]), retain, localizers=localizers, seed=seed + place)
        for name, one in scores.items():
            mask = top_weights(one.scores, fraction=fraction)
            blind = matched_random_weights(mask, seed=seed + place)
            rise, chance = (there.under(which).nll - there.clean.nll for which in (mask, blind))
            others = gap[place] * rise[where].sum() / gap[where].sum()
            found.setdefault(name, []).append([rise[place], others, chance[place], rise[place] - others])
        del scores
    apart = Gap(np.zeros(len(target)), gap[rows.of["target"]], rows.clusters["target"])
    values = np.array(list(found.values())).transpose(0, 2, 1)  # localizer, quantity, target
    labels, columns = {"row": list(found)}, {}
    for number, what in enumerate(("target", "others", "random", "own")):
        for end, one in zip(("", "_low", "_high"), apart.removed(values[:, number], seed=seed), strict=True):
            columns[f"{what}{end}"] = Variable(one, ("row",), SHARE, labels)
    about = provenance(model, rows.all.tokens) | {"other_hash": model_hash(other), "fraction": fraction, "seed": seed}
    return labelled(about | {"n_targets": len(target)}, **columns)


def _swap(runs: Passes, mask: WeightMask, *, seed: int, n_draws: int) -> _Swap:
    named = runs.under(mask)
    blind = [matched_random_weights(mask, seed=seed + draw) for draw in range(n_draws)]
    random = np.stack([runs.under(one).nll for one in blind])
    rest = mask.complement()
    under_rest = runs.under(rest).nll if len(rest) else runs.clean.nll
    return _Swap(named.nll, random, under_rest, named.em, (_delta(runs, mask), _delta(runs, blind[0])))


def _delta(runs: Passes, mask: WeightMask) -> float:
    own, theirs = (dict(one.named_parameters()) for one in (runs.model, runs.other))
    squares = [
        float((theirs[name] - own[name]).detach().flatten()[index.long()].double().square().sum())
        for name, index in mask.indices.items()
    ]
    return sum(squares) ** 0.5


def _columns(
    rows: Rows, runs: Passes, gaps: Mapping[str, Gap], found: Sequence[_Swap], seed: int
) -> dict[str, Variable]:
    target, others, control = (rows.of[name] for name in SETS)
    named, draws, rest = (np.stack([getattr(one, name) for one in found]) for name in ("named", "random", "rest"))
    gap, clean = gaps["target"], runs.clean.nll
    rise, random = named - clean, draws.mean(1)
    beyond = gap.removed((named - random)[:, target] + gap.low, seed=seed)
    shares = {
        "target": gap.removed(named[:, target], seed=seed),
        "others": gaps["others"].removed(named[:, others], seed=seed),
        "random": gap.removed(random[:, target], seed=seed),
        "beyond_random": with_draws(beyond, draws[..., target].mean(-1) / gap.size.mean()),
        "complement": gap.removed(rest[:, target], seed=seed),
        "own": gap.specific(named[:, target], rise[:, others], rows.clusters["others"], seed=seed),
        "control_rise": mean(rise[:, control], rows.clusters["control"], seed=seed),
    }
    columns = {
        f"{name}{end}": Variable(one, ("row",), NATS if name == "control_rise" else SHARE)
        for name, ends in shares.items()
        for end, one in zip(("", "_low", "_high"), ends, strict=True)
    }
    columns["em_left"] = Variable(
        np.array([one.em[target].mean() for one in found]), ("row",), "target's mean EM, tokens"
    )
    for place, name in enumerate(("delta", "delta_random")):
        columns[name] = Variable(
            np.array([one.delta[place] for one in found]), ("row",), "norm of the change, 0 = none"
        )
    return columns
