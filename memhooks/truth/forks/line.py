"""Is there a hill between the forks? Loss at weights on the straight line from one to the other.

If never-read text is lost on the way, mixed weights are no language model any more, and a swap, which is a mix, too,
says nothing about where text is kept (linear mode connectivity: Frankle et al., 2020, arXiv:1912.05671).

1. At each point all weights are `(1 - share) * model + share * other`.
2. The barrier is the largest rise of the control's NLL over the straight line between its two ends.
3. Its interval finds the largest anew in sets of clusters drawn with replacement.
"""

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from memhooks.errors import InputError
from memhooks.measure.intervals import interval_ends
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked
from memhooks.truth.forks.passes import Passes, Recited
from memhooks.truth.forks.sets import batch
from memhooks.truth.forks.shares import mean
from memhooks.truth.forks.swapped import check_forks
from memhooks.unlearn.unlearning import restored

TOLERANCE = 0.1
"""Nats per token by which the control's NLL may rise over the line between its ends: about 10 % of perplexity."""

N_DRAWS = 2000


def loss_along_line(
    model: HookedModel,
    other: HookedModel,
    sets: Mapping[str, Paragraphs],
    *,
    steps: int = 11,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> xr.Dataset:
    """NLL and EM of each set along the line from the model to the other.

    Args:
        model: the fork that recites the memorized set; bit for bit as before afterwards.
        other: the fork that recites the mirror set.
        sets: `memorized`, `mirror` and `control`.
        steps: points on the line, both ends included.
        tolerance: barrier in nats per token from which on swaps are not to be interpreted.
        seed: of the intervals.

    Returns:
        Dataset over `row` (the share of the other's weights, 0 to 1): `nll_<set>` and `em_<set>` with `_low` and
        `_high`; without axis `barrier` (nats per token, 0 = no hill) with its ends. Attributes: `interpretable`
        (whether the upper end of the barrier stays within the tolerance), `verdict`.

    Raises:
        InputError: no forks, fewer than 3 steps, a tolerance that is not positive, or sets as `swap_parts` refuses.
    """
    check_forks(model, other)
    if steps < 3:
        raise InputError(f"steps must be at least 3, both ends and a point between, got {steps}")
    if not 0 < tolerance < np.inf:
        raise InputError(f"tolerance must be a positive number of nats per token, got {tolerance}")
    rows = batch(sets)
    shares = np.linspace(0, 1, steps)
    runs = Passes(model, other, rows.all)
    found = [_at(runs, float(share)) for share in tracked(shares, "along the line")]
    columns: dict[str, Variable] = {}
    for name, where in rows.of.items():
        for what, unit in (("nll", "nats per token, 0 = certain"), ("em", "tokens before the first miss")):
            values = np.stack([getattr(one, what)[where] for one in found])
            for end, one in zip(("", "_low", "_high"), mean(values, rows.clusters[name], seed=seed), strict=True):
                columns[f"{what}_{name}{end}"] = Variable(one, ("row",), unit, {"row": shares.round(6).tolist()})
    control = np.stack([one.nll[rows.of["control"]] for one in found])
    size, low, high = barrier(control, rows.clusters["control"], seed=seed)
    for end, one in zip(("", "_low", "_high"), (size, low, high), strict=True):
        columns[f"barrier{end}"] = Variable(np.asarray(one), (), "nats per token above the line, 0 = no hill")
    about = provenance(model, rows.all.tokens) | {"other_hash": model_hash(other), "seed": seed, "tolerance": tolerance}
    return labelled(about | _verdict(size, low, high, tolerance), **columns)


def barrier(
    nll: Float[np.ndarray, "step paragraph"], clusters: Int[np.ndarray, " paragraph"], *, seed: int
) -> tuple[float, float, float]:
    """Largest rise of the mean over the line between the ends, 0 or more, and the ends of its 95 % interval."""
    label = np.unique(clusters, return_inverse=True)[1]
    n = int(label.max()) + 1
    share = np.linspace(0, 1, len(nll))[:, None]
    above = nll - (1 - share) * nll[0] - share * nll[-1]
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_DRAWS)[:, label]
    drawn = (above @ times.T / times.sum(1)).max(0)
    low, high = interval_ends(drawn, n, 0.95)
    return float(above.mean(1).max()), float(low), float(high)


def _at(runs: Passes, share: float) -> Recited:
    """The rows at one point of the line."""
    theirs = dict(runs.other.named_parameters())
    with restored(runs.model):
        with torch.no_grad():
            for name, weight in runs.model.named_parameters():
                weight.copy_(theirs[name] if share == 1 else (1 - share) * weight + share * theirs[name])
        return runs.now()


def _verdict(size: float, low: float, high: float, tolerance: float) -> dict[str, object]:
    words = f"barrier {size:+.3f} nats per token [{low:+.3f}, {high:+.3f}] for never-read text, tolerance {tolerance:g}"
    if np.isnan(high) and size <= tolerance:
        return {
            "interpretable": 0,
            "verdict": f"One cluster has no interval, so it is open whether swaps mean anything: {words}.",
        }
    if high <= tolerance:
        return {
            "interpretable": 1,
            "verdict": f"No hill on the straight line between the forks: {words}. Swaps lie beside that line, "
            "so each is held against its own cost for never-read text, too.",
        }
    if size > tolerance:
        return {
            "interpretable": 0,
            "verdict": f"A hill lies between the forks, so swaps are not interpretable: {words}.",
        }
    return {"interpretable": 0, "verdict": f"A hill cannot be ruled out, so swaps are not interpretable: {words}."}
