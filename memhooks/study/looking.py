"""The study's observations: where the gradients lie, at equal loss too, and which heads look at rare tokens."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attribution import weight_scores
from memhooks.localize.common_losses import NoEqualLossError
from memhooks.localize.memorization_head import memorization_head
from memhooks.localize.profile_contrasts import nll_matched, profile_contrasts
from memhooks.localize.published_statistic import published_statistic
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.labelled import Variable, labelled
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.study.interventions import Conditions
from memhooks.study.kept import Kept

PARTLY = (8, 16)
"""How often paragraphs were planted of which the organism recites some, at a loss like that of its own text."""


POOLINGS = ("max_gradient", "l2_gradient")
"""The published pooling and the norm: they may disagree, so every contrast is shown by both."""

_MATCHED = {  # which sets are compared in pairs of equal loss: text of one kind, which the model says by itself
    "memorized": ("control_own", "licence_own"),
    "natural": ("licence_own",),
    "partly": ("control_own", "licence_own"),
}


def gradients_stage(keep: Kept, conditions: Conditions, further: Mapping[str, Paragraphs], *, seed: int) -> None:
    """Gradients of every condition and of further controls; which differences in depth survive at equal loss.

    Args:
        keep: the run's results.
        conditions: those of the study.
        further: sets read otherwise, by name: `natural`, recited by chance; `partly`, recited in part;
            `licence_never`, never read, like `natural`.
        seed: of the statistics.
    """
    model = conditions["memorized"][0]
    others = {}
    for name, rows in further.items():
        others[name] = rows
        if name == "licence_never":
            others["licence_own"] = with_own_continuation(model, rows)
    everyone = {**conditions, **{name: (model, rows) for name, rows in others.items()}}
    scores = {name: keep("gradients", name, weight_scores, *pair) for name, pair in everyone.items()}
    sets = {name: rows for name, (_, rows) in everyone.items()}
    licences = {name: scores[name] for name in ("natural", "licence_never", "licence_own") if name in scores}
    for pooling in POOLINGS:
        how, by = {"sets": sets, "pooling": pooling, "seed": seed}, _by(pooling)
        keep("gradient_contrasts", f"A{by}", profile_contrasts, scores, **how)
        if len(licences) == 3:
            keep("gradient_contrasts", f"natural{by}", profile_contrasts, licences, memorized="natural", **how)
        for name, owns in _MATCHED.items():
            for own in owns if name in scores else ():
                if own in scores:
                    pair = {one: scores[one] for one in (name, own)}
                    keep("gradient_contrasts", f"{name}, matched with {own}{by}", at_equal_loss, pair, **how)


def at_equal_loss(
    pair: Mapping[str, xr.Dataset], *, sets: Mapping[str, Paragraphs], pooling: str, seed: int
) -> xr.Dataset:
    """The contrast of the first set's paragraphs with those of the second that have nearly the same loss.

    Returns:
        `profile_contrasts` of the pairs, marked by an attribute `matched`. Without any paragraphs of equal loss:
        both mean losses alone, of all paragraphs.
    """
    (name, one), (own, other) = pair.items()
    try:
        first, second, rows = nll_matched(one, other, sets[name], sets[own])
    except NoEqualLossError:
        means = {"nll_memorized": one["loss"], "nll_control": other["loss"]}
        columns = {
            column: Variable(loss.values.mean(keepdims=True), ("row",), "mean loss, nats per token", {"row": [own]})
            for column, loss in means.items()
        }
        return labelled({"memorized": name, "pooling": pooling, "seed": seed, "matched": 1}, **columns)
    results, matched = {name: first, own: second}, {name: rows.one, own: rows.other}
    table = profile_contrasts(results, sets=matched, memorized=name, pooling=pooling, seed=seed)
    return table.assign_attrs(matched=1)


def _by(pooling: str) -> str:
    return "" if pooling == POOLINGS[0] else f", {pooling}"


def partly_recited(planted: Paragraphs, recited: Bool[np.ndarray, " paragraph"]) -> Paragraphs | None:
    """Those planted `PARTLY` often that are not recited in full; none where nobody knows how often."""
    if planted.counts is None:
        return None
    (low, high), counts = PARTLY, np.array(planted.counts)
    chosen = (counts >= low) & (counts <= high) & ~recited
    return planted.select(chosen) if chosen.any() else None


def attention_stage(keep: Kept, conditions: Conditions, counts: Int[Tensor, " d_vocab"], *, seed: int) -> None:
    """Attention to rare tokens in every condition, the published statistic with its null, and the verdict on heads."""
    probed = {
        name: keep("attention", name, rare_token_attention, model, rows, counts, seed=seed, clusters=clusters(rows))
        for name, (model, rows) in conditions.items()
    }
    sets = {name: rows for name, (_, rows) in conditions.items()}
    worth = keep.results["specificity"]["heads"]
    keep("attention_heads", "memorized", _head_verdict, probed, worth=worth, sets=sets, seed=seed)
    for name, one in probed.items():
        keep("attention_published", name, published_statistic, one)


def _head_verdict(
    probed: Mapping[str, xr.Dataset], *, worth: xr.Dataset, sets: Mapping[str, Paragraphs], seed: int
) -> xr.Dataset:
    head = memorization_head(probed, worth=worth, sets=sets, seed=seed)
    return head.table.assign_attrs(verdict=head.verdict)
