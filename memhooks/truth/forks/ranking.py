"""Does a localizer rank the parts of the model as their exchange does?

1. A part's mass is the sum of a localizer's scores over its matrices; its effect the NLL rise of the memorized
   text when the other fork's part takes its place (`swap_parts`).
2. Spearman's correlation of both over the parts; and with the ranks of the parts' sizes taken out of both, for
   larger parts have more mass and more effect alike.
3. p: the parts' effects in random order within each kind (attention, MLP, W_Q, ...), the same for all localizers;
   how often the largest of all localizers' correlations, each in standard deviations beyond its own mean under
   permutation, is as large as the one seen. Kinds differ in size and place, so that a localizer that tells kinds
   apart alone must not look right.
4. The same with what each part brings to the other fork: the rise tells which parts recitation is sensitive to,
   the gain which ones hold it.
5. Intervals draw clusters of paragraphs anew for the effects; parts and scores stay what they are.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.stats import rankdata

from memhooks.errors import InputError
from memhooks.localize.pooling import component_scores
from memhooks.measure.intervals import interval_ends
from memhooks.measure.within_paragraphs import ROUNDING
from memhooks.model.components import MATRICES
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.truth.forks.parts import every_part, view
from memhooks.truth.forks.scored import Scored

N_PERMUTED, N_DRAWS = 2000, 500
CUTS: dict[str, tuple[str, ...]] = {
    "attention and MLP": ("attention", "mlp"),
    "matrices": ("matrix",),
    "heads": ("head",),
}
"""Ways to cut the model into parts that do not overlap, by their kinds."""


def localizer_agreement(
    model: HookedModel,
    swaps: xr.Dataset,
    scores: Mapping[str, Scored],
    *,
    clusters: Int[np.ndarray, " paragraph"] | None = None,
    cuts: Sequence[str] = tuple(CUTS),
    seed: int = 0,
) -> xr.Dataset:
    """Rank correlation of each localizer's mass with the effect of exchanging the part.

    Args:
        model: whose parts they are.
        swaps: of `swap_parts`, for the text that was localized, with the parts of the cuts.
        scores: of `localized`.
        clusters: near-duplicates among the memorized paragraphs; by default each is its own.
        cuts: names of `CUTS`.
        seed: of permutations and draws.

    Returns:
        Dataset over `row` (cut and localizer) with `cut`, `localizer`, `n_parts`: `spearman` with `_low` and `_high`
        and `p` (one-sided, permuted within kinds, largest of all localizers in the cut), `partial` with `_low`,
        `_high` and `p_partial` (size taken out), from -1 to 1, 0 = no agreement, NaN where a localizer names none of
        the parts; the same with `_brings` at the end of the name (`spearman_brings`, `spearman_brings_low`,
        `p_brings`, ...) for the gain in the other fork; `first` (the part with the largest mass) and `rank_of_first`
        (1 = its exchange has the largest rise).

    Raises:
        InputError: an unknown cut, no scores, or swaps that lack its parts.
    """
    unknown = [one for one in cuts if one not in CUTS]
    if unknown or not cuts:
        raise InputError(f"cuts must be among {', '.join(CUTS)}, got {unknown[0] if unknown else 'none'}")
    if not scores:
        raise InputError("there are no scores to rank parts by; make them with localized")
    for one in scores.values():
        component_scores(model, one.scores)  # refuses what is missing, of another shape or not finite
    rows = [row for cut in cuts for row in _of_cut(model, swaps, scores, cut, clusters, seed)]
    units = dict.fromkeys(("p", "p_brings"), "one-sided, within kinds, of the largest of all localizers")
    units |= dict.fromkeys(("p_partial", "p_partial_brings"), "the same, size taken out")
    units |= {"cut": "parts compared", "localizer": "localizer, or bound", "n_parts": "parts", "first": "part"}
    units |= {"rank_of_first": "rank of its swap's effect, 1 = largest"}
    labels = {"row": [f"{row['cut']}: {row['localizer']}" for row in rows]}
    columns = {
        name: Variable(
            np.array([row[name] for row in rows]), ("row",), units.get(name, "correlation, 0 = none"), labels
        )
        for name in rows[0]
    }
    about = {key: swaps.attrs[key] for key in ("model_hash", "other_hash", "tokens_hash") if key in swaps.attrs}
    return labelled(about | {"seed": seed, "pooling": "sum over the part's matrices"}, **columns)


def _of_cut(
    model: HookedModel,
    swaps: xr.Dataset,
    scores: Mapping[str, Scored],
    cut: str,
    clusters: np.ndarray | None,
    seed: int,
) -> list[dict[str, object]]:
    parts = every_part(model, CUTS[cut])
    names = [part.name for part in parts]
    if missing := [name for name in names if name not in swaps["row"].values]:
        raise InputError(f"the swaps lack {missing[0]}, a part of the cut {cut!r}; compute them with swap_parts")
    recited = swaps["set"].values == "memorized"
    each = swaps.sel(row=names)
    rises = each["nll_model"].values[:, recited] - each["clean_nll_model"].values[recited]
    gains = each["clean_nll_other"].values[recited] - each["nll_other"].values[:, recited]
    pieces = [[piece for piece in part.pieces if piece[0].endswith(tuple(f".{m}" for m in MATRICES))] for part in parts]
    mass = np.array(
        [
            [sum(float(view(one.scores[p[0]], p).double().sum()) for p in own) for own in pieces]
            for one in scores.values()
        ]
    )
    size = each["n_weights"].values
    # a matrix's kind is its name, W_Q of any layer
    kinds = np.array([part.name.split()[0] if part.kind == "matrix" else part.kind for part in parts])
    agreed = _agreement(mass, rises, size, kinds, clusters, seed)
    brought = _agreement(mass, gains, size, kinds, clusters, seed)
    agreed |= {f"{name.removesuffix(end)}_brings{end}": one for name, one in brought.items() for end in [_end(name)]}
    ranks = rankdata(-rises.mean(1), method="min").astype(int)
    return [
        {
            "cut": cut,
            "localizer": name,
            "n_parts": len(parts),
            **{what: one[row] for what, one in agreed.items()},
            "first": names[int(mass[row].argmax())] if mass[row].any() else "none",
            "rank_of_first": int(ranks[mass[row].argmax()]) if mass[row].any() else 0,
        }
        for row, name in enumerate(scores)
    ]


def _end(name: str) -> str:
    return next((end for end in ("_low", "_high") if name.endswith(end)), "")


def _agreement(
    mass: Float[np.ndarray, "localizer part"],
    effects: Float[np.ndarray, "part paragraph"],
    size: Int[np.ndarray, " part"],
    kinds: np.ndarray,
    clusters: np.ndarray | None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Correlations with their intervals and p, plain and with the size taken out, for each localizer."""
    effect = effects.mean(1)
    permuted = _within(effect, kinds, seed)
    found = {}
    for name, p_name, given in (("spearman", "p", None), ("partial", "p_partial", size)):
        own = _correlations(mass, effect[None], given)[0]
        low, high = _ends(mass, effects, given, clusters, seed)
        found |= {name: own, f"{name}_low": low, f"{name}_high": high}
        found[p_name] = _of_largest(own, _correlations(mass, permuted, given))
    return found


def _within(effect: Float[np.ndarray, " part"], kinds: np.ndarray, seed: int) -> Float[np.ndarray, "draw part"]:
    """The effects in random order within each kind."""
    generator, made = np.random.default_rng(seed), np.empty((N_PERMUTED, len(effect)))
    for kind in np.unique(kinds):
        here = np.flatnonzero(kinds == kind)
        made[:, here] = generator.permuted(np.tile(effect[here], (N_PERMUTED, 1)), axis=1)
    return made


def _correlations(
    mass: Float[np.ndarray, "localizer part"],
    effects: Float[np.ndarray, "draw part"],
    size: Int[np.ndarray, " part"] | None,
) -> Float[np.ndarray, "draw localizer"]:
    """Of ranks; the ranks of `size` are regressed out of both, if given. NaN where nothing is left."""
    left = []
    for values in (effects, mass):
        ranks = rankdata(values, axis=1)
        ranks = ranks - ranks.mean(1, keepdims=True)
        total = (ranks**2).sum(1, keepdims=True)
        if size is not None and np.ptp(size):
            given = rankdata(size) - (len(size) + 1) / 2
            ranks = ranks - np.outer(ranks @ given / (given @ given), given)
        norm = np.sqrt((ranks**2).sum(1, keepdims=True))
        unit = np.divide(ranks, norm, out=np.full_like(ranks, np.nan), where=norm**2 > ROUNDING * total)
        left.append(unit)
    return left[0] @ left[1].T


def _of_largest(
    own: Float[np.ndarray, " localizer"], null: Float[np.ndarray, "draw localizer"]
) -> Float[np.ndarray, " localizer"]:
    usable = ~np.isnan(own)
    found = np.full(len(own), np.nan)
    if usable.any():
        # Kinds stay apart under permutation, so each localizer has a null mean of its own: compare what is beyond it.
        middle, spread = np.nanmean(null[:, usable], 0), np.nanstd(null[:, usable], 0)
        beyond, seen = (
            np.divide(one - middle, spread, out=np.zeros_like(one), where=spread > ROUNDING)
            for one in (null[:, usable], own[usable])
        )
        largest = np.fmax.reduce(beyond, axis=1)  # what is NaN in a draw is no rival there
        found[usable] = (1 + (largest[:, None] >= seen - 1e-9).sum(0)) / (1 + len(null))
    return found


def _ends(
    mass: np.ndarray,
    effects: Float[np.ndarray, "part paragraph"],
    size: np.ndarray | None,
    clusters: np.ndarray | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    label = np.arange(effects.shape[1]) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    n = int(label.max()) + 1
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_DRAWS)[:, label]
    drawn = _correlations(mass, times @ effects.T / times.sum(1, keepdims=True), size)
    return interval_ends(drawn, n, 0.95)
