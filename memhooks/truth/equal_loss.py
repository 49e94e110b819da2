"""Is text that was read harder to corrupt and to unlearn, and do its gradients lie lower, at equal loss?

Text that a model recites in full is nearly certain to it, and nothing that it did not read is: so most of what is said
about memorized text may be said about certain text. Where both exist at the same loss, they can be told apart.

1. The model continues prefixes that it read a few times, and prefixes that it never read. Either way it recites what
   it says: exact match is full on both sides. Continuations that run into a loop are left out.
2. Pairs of one each are formed within a caliper of the loss (NLL of the continuation).
3. Both sides of the pairs are perturbed, pushed away by gradient ascent, and looked at; pairs are compared.
4. The same for a twin that read none of the prefixes: there, no difference may be left.

Caveats: only a part of what is said after a read prefix was read there (`remembered`). And matching takes the least
remembered of the read text and the most certain of the other, so it may hide a difference as well as show one;
`with_remembered` says whether a difference grows with what is remembered.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.stats import rankdata

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_scores
from memhooks.localize.common_losses import check_nearest
from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.measure.effects import drops
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean, interval_ends
from memhooks.measure.membership import membership_p
from memhooks.measure.perturbation import perturb
from memhooks.measure.perturbation_statistics import spread_of_drop
from memhooks.measure.recitation import in_loop, recitation, with_own_continuation
from memhooks.measure.within_paragraphs import rank_correlation
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.matching import matched_pairs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart, clusters
from memhooks.unlearn.breaking import steps_to_break

CALIPER = 0.1
"""Greatest difference in loss within a pair, in standard deviations."""

MEASURES = {
    "EM lost per replaced token": "tokens, mean over prefix positions, 0 = none",
    "NLL rise per replaced token": "nats per token, mean over prefix positions, 0 = none",
    "positions that hold half of the drop": "prefix positions, of the NLL rise",
    "Spearman of drop with position": "0 = early tokens matter as much as late ones",
    "updates until EM has halved": "updates; all of them where it has not",
    "updates until NLL is 1 nat higher": "updates; all of them where it is not",
    "centre of |gradient|, largest": "layers, 0 = all in the first layer; each component's largest |gradient|",
    "centre of |gradient|, norm": "layers, 0 = all in the first layer; each component's Euclidean norm",
}
"""What the sides of a pair are compared by, with its unit."""

_ENDS, _SAID = ("", "_low", "_high"), ("", "; lower end of the 95 % interval", "; upper end")
_CRITERIA = {"updates until EM has halved": "steps_half", "updates until NLL is 1 nat higher": "steps_nat"}


@dataclass(frozen=True)
class EqualLossPairs:
    """Continuations that the model itself says, of equal loss, row by row.

    Attributes:
        read: after prefixes that it read.
        unread: after prefixes that it never read.
        loss: NLL of either side, nats per token, `[paragraph, 2]`.
        remembered: share of the tokens said after a read prefix that stand there in the text, from 0 to 1.
    """

    read: Paragraphs
    unread: Paragraphs
    loss: Float[np.ndarray, "paragraph 2"]
    remembered: Float[np.ndarray, " paragraph"]


def equal_loss_pairs(
    model: HookedModel, read: Paragraphs, unread: Paragraphs, *, n: int = 40, caliper: float = CALIPER, seed: int = 0
) -> EqualLossPairs:
    """Up to `n` pairs of what the model says after a read and after an unread prefix, nearly equal in loss.

    Args:
        model: that read the one set and never the other.
        read: paragraphs that it read so seldom that it is not certain of them.
        unread: paragraphs that it never read, of the same shape; the more, the nearer the pairs.
        n: pairs, drawn from all within the caliper.
        caliper: greatest difference in loss within a pair, in standard deviations.
        seed: of the draw.

    Raises:
        InputError: sets that share near-duplicates or differ in shape, all continuations of a set loop, fewer than
            three pairs within the caliper, or paragraphs that the model cannot read.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    check_apart({"read": read.check(model), "unread": unread.check(model)})
    said = {name: _straight(model, rows, name) for name, rows in (("read", read), ("unread", unread))}
    loss = {name: _loss(model, rows) for name, rows in said.items()}
    check_nearest(loss["read"], loss["unread"], caliper)
    pairs = matched_pairs(said["read"], said["unread"], on={"loss": (loss["read"], loss["unread"])}, caliper=caliper)
    if len(pairs.one) < 3:
        raise InputError(f"only {len(pairs.one)} pairs of equal loss; give more paragraphs, or a wider caliper")
    order = np.sort(np.random.default_rng(seed).permutation(len(pairs.one))[:n])
    one, other = pairs.one.select(order), pairs.other.select(order)
    true = read.select([read.ids.index(name) for name in one.ids]).continuation
    return EqualLossPairs(
        read=one,
        unread=other,
        loss=np.column_stack([_loss(model, one), _loss(model, other)]),
        remembered=(one.continuation == true).double().mean(1).numpy(),
    )


def equal_loss(
    model: HookedModel,
    pairs: EqualLossPairs,
    *,
    weights: float = 0.001,
    lr: float = 2e-4,
    n_steps: int = 40,
    seed: int = 0,
) -> xr.Dataset:
    """Both sides of the pairs, perturbed, unlearned and looked at.

    Args:
        model: of which the pairs were made; its weights are as before afterwards.
        pairs: of `equal_loss_pairs`.
        weights: share of the weights, those with the paragraph's largest |gradient|, that gradient ascent moves.
        lr: its step size.
        n_steps: updates, at most.
        seed: of the replaced tokens, the intervals and the permutations.

    Returns:
        Dataset over `row` (`MEASURES`): means `read`, `unread`, their `difference` (read minus unread; 0 = no
        difference) and `effect` (the difference over the standard deviation of the pairs' differences), each with the
        ends of its 95 % interval; `p` (of the largest of all rows where the sides of pairs are swapped at random);
        `with_remembered` (Spearman, over pairs, of the difference with the share that is remembered, and its
        interval); over `paragraph` the `loss_read`, `loss_unread`, `remembered`, `cluster` and, by row, `differences`
        of each pair.

    Raises:
        InputError: hooks on the model, or settings out of range.
    """
    sides = {"read": pairs.read, "unread": pairs.unread}
    # Ids may recur between sides, never within one.
    broken = steps_to_break(model, sides, weights=weights, lr=lr, n_steps=n_steps, seed=seed)
    values = {
        name: _measured(model, rows, broken.isel(paragraph=broken["set"].values == name), n_steps, seed)
        for name, rows in sides.items()
    }
    about = provenance(model, pairs.read.tokens) | {"weights": weights, "lr": lr, "n_steps": n_steps, "seed": seed}
    return _table(about | {"n_pairs": len(pairs.read)}, pairs, values, seed)


def _measured(
    model: HookedModel, rows: Paragraphs, broken: xr.Dataset, n_steps: int, seed: int
) -> Float[np.ndarray, "paragraph measure"]:
    """Each paragraph's number of every one of `MEASURES`."""
    effect = perturb(model, rows, seed=seed)
    lost, rise = (drops(effect, name).astype(float).mean(1) for name in ("em_drop", "nll_rise"))
    position = np.broadcast_to(np.arange(float(rows.n_prefix)), rise.shape)
    found = {
        "EM lost per replaced token": lost.mean(1),
        "NLL rise per replaced token": rise.mean(1),
        "positions that hold half of the drop": spread_of_drop(rise)[0],
        "Spearman of drop with position": rank_correlation(rankdata(rise, axis=1), position),
    }
    for name, criterion in _CRITERIA.items():
        found[name] = broken[criterion].fillna(n_steps).values
    scores = weight_scores(model, rows)
    for name, pooling in (("largest", "max_gradient"), ("norm", "l2_gradient")):
        found[f"centre of |gradient|, {name}"] = centre_of_mass(layer_shares(scores, pooling=pooling)).values
    return np.column_stack([found[name] for name in MEASURES])


def _table(
    about: Mapping[str, object], pairs: EqualLossPairs, values: Mapping[str, np.ndarray], seed: int
) -> xr.Dataset:
    cluster = clusters(pairs.read).numpy()
    difference = values["read"] - values["unread"]
    p = membership_p(values["read"], values["unread"], clusters=(cluster, cluster), seed=seed, paired=True)
    spread = difference.std(0, ddof=1)
    per_spread = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    columns = {name: bootstrap_mean(own, seed=seed, clusters=cluster) for name, own in values.items()}
    columns["difference"] = bootstrap_mean(difference, seed=seed, clusters=cluster)
    columns["effect"] = bootstrap_mean(difference * per_spread, seed=seed, clusters=cluster)
    columns["with_remembered"] = _rank_correlations(difference, pairs.remembered, cluster, seed)
    unit = {
        "with_remembered": "Spearman over pairs, 0 = the difference does not grow with what is remembered",
        "effect": "standard deviations of the pairs' differences, 0 = none",
    }
    rows = {"row": list(MEASURES)}
    variables = {
        name + end: Variable(own, ("row",), unit.get(name, "as the row says") + said, rows)
        for name, ends in columns.items()
        for end, said, own in zip(_ENDS, _SAID, ends, strict=True)
    }
    variables["p"] = Variable(p, ("row",), "of the largest of all rows, sides of pairs swapped at random")
    variables["units_of_row"] = Variable(np.array(list(MEASURES.values())), ("row",), "units of each row")
    for side, loss in zip(("read", "unread"), pairs.loss.T, strict=True):
        variables[f"loss_{side}"] = Variable(loss, ("paragraph",), "nats per token", {"paragraph": pairs.read.ids})
    variables["remembered"] = Variable(pairs.remembered, ("paragraph",), "share of the tokens, 0 = none")
    variables["cluster"] = Variable(cluster, ("paragraph",), "near-duplicates among the read paragraphs")
    variables["differences"] = Variable(difference, ("paragraph", "row"), "read minus unread, as the row says")
    return labelled(about, **variables)


def against_twin(model: xr.Dataset, twin: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """The model's differences minus the twin's: what reading did, whatever sets apart the prefixes themselves.

    Each model says other things, so the pairs differ; the mean differences are compared as those of two samples.

    Args:
        model: of `equal_loss`, for the model that read the prefixes.
        twin: the same for a twin that did not.
        seed: of the intervals.

    Returns:
        Dataset over `row`: `more` (the model's difference minus the twin's, 0 = reading did nothing) with `_low` and
        `_high`; intervals are for each row alone.
    """
    both = [one["differences"].transpose("paragraph", "row").values for one in (model, twin)]
    label = (model["cluster"].values, twin["cluster"].values)
    ends = bootstrap_difference(*both, seed=seed, clusters=label)
    rows = {"row": model["row"].values.tolist()}
    about = {"model_hash": model.attrs["model_hash"], "twin_hash": twin.attrs["model_hash"], "seed": seed}
    return labelled(
        about,
        **{
            f"more{end}": Variable(own, ("row",), f"difference, model minus twin, as the row says{said}", rows)
            for end, said, own in zip(_ENDS, _SAID, ends, strict=True)
        },
    )


def _rank_correlations(
    difference: Float[np.ndarray, "paragraph measure"],
    remembered: Float[np.ndarray, " paragraph"],
    cluster: Int[np.ndarray, " paragraph"],
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spearman of each measure's differences with what is remembered; clusters are drawn anew for the interval."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(cluster == one) for one in np.unique(cluster)]

    def of(rows: np.ndarray) -> np.ndarray:
        known = np.broadcast_to(rankdata(remembered[rows]), (difference.shape[1], len(rows)))
        return rank_correlation(rankdata(difference[rows], axis=0).T, known)

    picks = generator.integers(0, len(members), (1000, len(members)))
    drawn = np.array([of(np.concatenate([members[one] for one in pick])) for pick in picks])
    known = np.asarray(~np.isnan(drawn).any(axis=0))  # where all pairs differ by the same there is nothing to correlate
    low, high = np.full((2, len(known)), np.nan)
    low[known], high[known] = interval_ends(drawn[:, known], len(members), 0.95)
    return of(np.arange(len(remembered))), low, high


def _straight(model: HookedModel, rows: Paragraphs, name: str) -> Paragraphs:
    """What the model says after each prefix, without what runs into a loop.

    Raises:
        InputError: all of it does.
    """
    own = with_own_continuation(model, rows)
    kept = np.array([not in_loop(row) for row in own.continuation])
    if not kept.any():
        raise InputError(f"all that the model says after the {name} prefixes runs into loops; give other text")
    return own.select(kept)


def _loss(model: HookedModel, rows: Paragraphs) -> Float[np.ndarray, " paragraph"]:
    return recitation(model, rows)["nll"].mean("pos").values.astype(np.float64)
