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

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.stats import rankdata

from memhooks.localize.attribution import weight_scores
from memhooks.localize.profile import centre_of_mass, layer_shares
from memhooks.measure.effects import drops
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean, interval_ends
from memhooks.measure.membership import membership_p
from memhooks.measure.perturbation import perturb
from memhooks.measure.perturbation_statistics import spread_of_drop
from memhooks.measure.within_paragraphs import rank_correlation
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.truth.equal_loss_pairs import EqualLossPairs
from memhooks.unlearn.breaking import steps_to_break

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
