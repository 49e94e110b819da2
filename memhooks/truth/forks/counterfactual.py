"""How much of a paragraph's likelihood is owed to having read it? One fork has, the other has not.

Counterfactual memorization (Feldman and Zhang, 2020, arXiv:2008.03703; Zhang et al., 2023, arXiv:2112.12938) is a mean
over many models trained with and without the paragraph. Two forks are one draw of each: a paragraph's
own number holds the chance of both trainings. How large that chance is, the control says, which neither has read: a
paragraph counts as above it beyond the 97.5 % conformal threshold: of n control clusters the ceil(.975 (n + 1))-th
value, so that a paragraph as unread as they are passes it with a chance of 2.5 % at most. Fewer than 39 clusters
cannot tell it.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from memhooks.measure.recitation import recitation
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.forks.sets import Rows, batch
from memhooks.truth.forks.shares import mean
from memhooks.truth.forks.swapped import check_forks

QUANTILE = 0.975
"""Chance with which unread text stays at or below the threshold, at least."""


def counterfactual_memorization(
    model: HookedModel, other: HookedModel, sets: Mapping[str, Paragraphs], *, seed: int = 0
) -> xr.Dataset:
    """NLL under the fork that has not read a paragraph minus NLL under the one that has.

    Args:
        model: has read the memorized set.
        other: has read the mirror set.
        sets: `memorized`, `mirror` and `control`, with `counts` where known.
        seed: of the intervals.

    Returns:
        Dataset over `paragraph`: `nll_difference` (nats per token, 0 = reading made none; of the control: other minus
        model), `em_difference` (tokens), `nll_read` (nats per token, under the fork that has read it), `set` and
        `count` (readings, 0 = unknown or none). Over `row` (set and count): `mean` with `_low` and `_high`, `em`,
        `above` (share of paragraphs above the threshold; 0.025 is chance; NaN for the control, which set it), `n`.
        Without axis: `threshold` and `threshold_mirror` (of the control, and of its reversed difference; NaN below 39
        clusters), `n_null` (the control's clusters), `control_mean`, `control_std` (nats per token).

    Raises:
        InputError: no forks, or sets that are missing, do not fit or share text.
    """
    check_forks(model, other)
    rows = batch(sets)
    one, two = (recitation(each, rows.all) for each in (model, other))
    difference = (two["nll"] - one["nll"]).mean("pos").values.astype(np.float64)
    em = (one["exact_match"] - two["exact_match"]).values.astype(np.float64)
    read = one["nll"].mean("pos").values.copy()
    null, mirror = difference[rows.of["control"]], rows.of["mirror"]
    near = rows.clusters["control"]
    limits = {"memorized": threshold(null, near), "mirror": threshold(-null, near), "control": np.nan}
    read[mirror] = two["nll"].mean("pos").values[mirror]
    difference[mirror], em[mirror] = -difference[mirror], -em[mirror]
    of = np.concatenate([np.repeat(name, len(sets[name])) for name in rows.of])
    counts = np.concatenate([sets[name].counts or np.zeros(len(sets[name]), int) for name in rows.of])
    nats = "nats per token, 0 = reading it made no difference"
    variables = {
        "nll_difference": Variable(difference, ("paragraph",), nats, {"paragraph": rows.all.ids}),
        "em_difference": Variable(em, ("paragraph",), "tokens of exact match, 0 = reading it made no difference"),
        "nll_read": Variable(read, ("paragraph",), "nats per token under the fork that read it, 0 = certain"),
        "set": Variable(of, ("paragraph",), "set of the paragraph"),
        "count": Variable(counts.astype(int), ("paragraph",), "readings, 0 = none or unknown"),
        "threshold": Variable(
            np.asarray(limits["memorized"]), (), f"nats per token, {QUANTILE:.1%} conformal, of the control"
        ),
        "n_null": Variable(np.asarray(len(np.unique(near))), (), "clusters of the control; 39 can tell the threshold"),
        "threshold_mirror": Variable(np.asarray(limits["mirror"]), (), "the same of the reversed difference"),
        "control_mean": Variable(np.asarray(null.mean()), (), nats),
        "control_std": Variable(np.asarray(null.std(ddof=1) if len(null) > 1 else np.nan), (), "nats per token"),
    }
    table = _by_count(rows, {"difference": difference, "em": em, "count": counts}, limits, seed)
    about = provenance(model, rows.all.tokens) | {"other_hash": model_hash(other), "seed": seed, "draws_per_side": 1}
    return labelled(about, **variables, **table)


def threshold(null: Float[np.ndarray, " paragraph"], clusters: Int[np.ndarray, " paragraph"]) -> float:
    """The ceil(.975 (n + 1))-th of the n clusters' values (of each the largest); NaN where n is too small."""
    highest = np.sort([null[clusters == one].max() for one in np.unique(clusters)])
    place = int(np.ceil(QUANTILE * (len(highest) + 1) - 1e-9))
    return float(highest[place - 1]) if place <= len(highest) else float("nan")


def _by_count(
    rows: Rows, values: Mapping[str, np.ndarray], limits: Mapping[str, float], seed: int
) -> dict[str, Variable]:
    found: dict[str, list] = {name: [] for name in ("row", "mean", "mean_low", "mean_high", "em", "above", "n")}
    found |= {"row_set": [], "row_count": []}
    for name, where in rows.of.items():
        own = {what: one[where] for what, one in values.items()}
        for count in np.unique(own["count"]):
            here = own["count"] == count
            ends = mean(own["difference"][None, here], rows.clusters[name][here], seed=seed)
            cells = [f"{name} {count}x" if count else name, *(float(end[0]) for end in ends), own["em"][here].mean()]
            above = np.nan if np.isnan(limits[name]) else float((own["difference"][here] > limits[name]).mean())
            cells += [above, int(here.sum()), name, int(count)]
            for column, cell in zip(found.values(), cells, strict=True):
                column.append(cell)
    units = {"em": "tokens of exact match", "above": "share above the threshold, 0.025 = chance"}
    units |= {"n": "paragraphs", "row_set": "set", "row_count": "readings, 0 = none or unknown"}
    labels = {"row": found.pop("row")}
    nats = "nats per token, 0 = reading made no difference"
    return {name: Variable(np.array(one), ("row",), units.get(name, nats), labels) for name, one in found.items()}
