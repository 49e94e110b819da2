"""Which prefix tokens matter: late ones, rare ones, or a few? Each number stands beside what chance gives.

1. Drops (how much recitation suffers from replacing a token) are averaged over draws: `[paragraph, pos]`.
2. Statistics are computed within each paragraph and averaged over paragraphs, with an interval that
   resamples clusters of near-duplicates.
3. Rare tokens are not spread evenly over positions, so each correlation also stands with the ranks of the
   other quantity regressed out.
4. The null: the drops of every paragraph in random order, which cuts any tie to position and token alike.
"""

from collections.abc import Iterable
from functools import partial
from math import ceil

import numpy as np
import xarray as xr
from jaxtyping import Float, Num
from scipy.stats import rankdata
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.effects import check_effect, drops
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.within_paragraphs import (
    ROUNDING,
    mean_where_defined,
    rank_correlation,
    shuffle_tests,
    shuffles,
)
from memhooks.model.labelled import Variable, labelled
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.rarity import rarity_ranks
from memhooks.paragraphs.splits import clusters

N_SHUFFLES = 1000
WORST = 5
_PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 10: "tenth"}


def perturbation_statistics(
    effect: xr.Dataset,
    paragraphs: Paragraphs,
    counts: Num[Tensor, " d_vocab"] | None = None,
    *,
    seed: int,
    effect_of: str = "nll_rise",
    n_shuffles: int = N_SHUFFLES,
) -> xr.Dataset:
    """What the drop of a replaced token goes with, and over how many tokens it is spread.

    Args:
        effect: what `perturb` returned.
        paragraphs: those that were perturbed.
        counts: how often each token id occurs in the corpus; without them the rows that need them are left out.
        seed: of the bootstrap and of the shuffles.
        effect_of: the variable of `effect` that is the drop.
        n_shuffles: how often the drops are put in random order.

    Returns:
        Dataset over `row` (the statistics by name): `estimate`, the ends `low` and `high` of its 95 % interval,
        `null` (its mean under shuffling; for the two of spread, which no shuffle changes, the value if all
        tokens mattered alike) and `p` (two-sided, of the shuffle test); NaN where there is none. Paragraphs
        in which a statistic is undefined, as correlations with equal drops are, are left out of it.

    Raises:
        InputError: an effect of other paragraphs, no such variable, counts of another vocabulary, or no shuffles.
    """
    drop = _drops(effect, paragraphs, effect_of)
    if n_shuffles < 1:
        raise InputError(f"n_shuffles must be at least 1, got {n_shuffles}")
    cluster, n = clusters(paragraphs).numpy(), paragraphs.n_prefix
    position = np.broadcast_to(np.arange(float(n)), drop.shape)
    correlations = {"Spearman of drop with position": partial(rank_correlation, other=position)}
    if counts is not None:
        count = rarity_ranks(paragraphs.prefix, counts, ties="average").double().numpy()
        correlations |= {
            "Spearman of drop with token count": partial(rank_correlation, other=count),
            "the same, position partialled out": partial(rank_correlation, other=count, given=position),
            "Spearman of drop with position, token count partialled out": partial(
                rank_correlation, other=position, given=count
            ),
        }
    ranks = rankdata(drop, axis=1)
    tests = shuffle_tests(list(correlations.values()), ranks, seed=seed, n=n_shuffles, clusters=cluster)
    half, share = spread_of_drop(drop)
    found = [  # name, one value per paragraph, null and p
        ("mean drop per replaced token", drop.mean(1), (np.nan, np.nan)),
        *((name, one(ranks), test) for (name, one), test in zip(correlations.items(), tests, strict=True)),
        ("positions that hold half of the drop", half, (ceil(n / 2), np.nan)),
        (f"share of the drop held by the {WORST} worst positions", share, (min(WORST, n) / n, np.nan)),
    ]
    rows = [(*mean_where_defined(values, cluster, seed=seed), *against) for _, values, against in found]
    unit = f"as the row says: {effect[effect_of].attrs.get('units', 'drop')}; correlation; positions; share"
    units = dict.fromkeys(("estimate", "low", "high", "null"), unit) | {"p": "share of shuffles at least as far out"}
    about = _about(effect, statistics_of=effect_of, statistics_seed=seed, n_shuffles=n_shuffles)
    return labelled(about, **_columns(np.array(rows), units, "row", [name for name, *_ in found]))


def drop_by_position(
    effect: xr.Dataset, paragraphs: Paragraphs, *, seed: int, effect_of: str = "nll_rise"
) -> xr.Dataset:
    """Mean drop at each prefix position.

    Returns:
        Dataset over `pos`: `mean`, the ends `low` and `high` of its 95 % interval, and `shuffled_low` and
        `shuffled_high`, between which 95 % of the means lie if the drops of every paragraph are in random order.

    Raises:
        InputError: an effect of other paragraphs, or no such variable.
    """
    drop = _drops(effect, paragraphs, effect_of)
    cluster = clusters(paragraphs).numpy()
    ends = bootstrap_mean(drop, seed=seed, clusters=cluster)
    null = (one.mean(0) for one in shuffles(drop, seed=seed, n=N_SHUFFLES, clusters=cluster))
    about = _about(effect, statistics_of=effect_of, statistics_seed=seed, n_shuffles=N_SHUFFLES)
    columns = _profile(np.stack(ends, axis=1), null, effect[effect_of], "pos", list(range(paragraphs.n_prefix)))
    return labelled(about, **columns)


def drop_by_rarity(
    effect: xr.Dataset,
    paragraphs: Paragraphs,
    counts: Num[Tensor, " d_vocab"],
    *,
    seed: int,
    effect_of: str = "nll_rise",
    n_bins: int = 5,
) -> xr.Dataset:
    """Mean drop of tokens by how rare they are within their own prefix, from the rarest fifth to the commonest.

    Each bin has an equal share of every prefix's tokens, except that tokens of equal count stay together, in
    the bin of their middle rank. Paragraphs without tokens in a bin are left out of it.

    Returns:
        Dataset over `row` (the bins), with the columns of `drop_by_position`.

    Raises:
        InputError: an effect of other paragraphs, no such variable, counts of another vocabulary, or fewer bins
            than two or more than prefix tokens.
    """
    drop, n = _drops(effect, paragraphs, effect_of), paragraphs.n_prefix
    if not 2 <= n_bins <= n:
        raise InputError(f"n_bins must lie between 2 and the {n} tokens of a prefix, got {n_bins}")
    middle = rankdata(rarity_ranks(paragraphs.prefix, counts).numpy(), axis=1) - 0.5  # equals share their middle rank
    member = (middle * n_bins // n)[..., None] == np.arange(n_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the mean of a bin without tokens
        weight = member / member.sum(1, keepdims=True)
        used = ~np.isnan(weight).any(1)
        mean_weight = np.nan_to_num(weight) / np.where(used.any(0), used.sum(0), np.nan)
    per_paragraph = np.einsum("pt,ptb->bp", drop, weight)
    cluster = clusters(paragraphs).numpy()
    ends = np.array([mean_where_defined(values, cluster, seed=seed) for values in per_paragraph])
    null = (np.tensordot(one, mean_weight, axes=2) for one in shuffles(drop, seed=seed, n=N_SHUFFLES, clusters=cluster))
    about = _about(effect, statistics_of=effect_of, statistics_seed=seed, n_shuffles=N_SHUFFLES)
    return labelled(about, **_profile(ends, null, effect[effect_of], "row", _bin_names(n_bins)))


def _drops(effect: xr.Dataset, paragraphs: Paragraphs, effect_of: str) -> Float[np.ndarray, "paragraph pos"]:
    check_effect(effect, paragraphs)
    return drops(effect, effect_of).astype(np.float64).mean(1)


def spread_of_drop(
    drop: Float[np.ndarray, "paragraph pos"],
) -> tuple[Float[np.ndarray, " paragraph"], Float[np.ndarray, " paragraph"]]:
    """How many positions hold half of the positive drop, and the share of the worst; NaN where no drop is positive."""
    largest = -np.sort(-drop.clip(min=0), axis=1)
    held = largest.cumsum(1) / np.where(largest.any(1), largest.sum(1), np.nan)[:, None]
    half = (held < 0.5 - ROUNDING).sum(1) + 1.0
    return np.where(np.isnan(held[:, 0]), np.nan, half), held[:, :WORST][:, -1]


def _profile(
    ends: Float[np.ndarray, "bin 3"], null: Iterable[np.ndarray], measured: xr.DataArray, axis: str, labels: list
) -> dict[str, Variable]:
    chance = np.quantile(np.stack(list(null)), [0.025, 0.975], axis=0).T
    unit = str(measured.attrs.get("units", "drop"))
    units: dict[str, str] = dict.fromkeys(("mean", "low", "high", "shuffled_low", "shuffled_high"), unit)
    return _columns(np.hstack([ends, chance]), units, axis, labels)


def _columns(
    table: Float[np.ndarray, "row column"], units: dict[str, str], axis: str, labels: list
) -> dict[str, Variable]:
    columns = zip(units.items(), table.T, strict=True)
    return {name: Variable(values, (axis,), unit, {axis: labels}) for (name, unit), values in columns}


def _about(effect: xr.Dataset, **more: object) -> dict[str, object]:
    """What the effect was computed from, and how these statistics were."""
    kept = {key: value for key, value in effect.attrs.items() if not key.startswith("version_")}
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in kept.items()} | more


def _bin_names(n_bins: int) -> list[str]:
    part = _PARTS.get(n_bins, f"1/{n_bins}")
    return [f"rarest {part}", *(f"{part} {i} of {n_bins}" for i in range(2, n_bins)), f"commonest {part}"]
