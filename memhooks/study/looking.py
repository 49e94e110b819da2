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
from memhooks.model.loading import HookedModel
from memhooks.organism.paragraphs import load_controls
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.study.interventions import Conditions, Found

PARTLY = (8, 16)
"""How often paragraphs were planted of which the organism recites some, at a loss like that of its own text."""


POOLINGS = ("max_gradient", "l2_gradient")
"""The published pooling and the norm: they may disagree, so every contrast is shown by both."""

_MATCHED = {  # which sets are compared in pairs of equal loss: text of one kind, which the model says by itself
    "memorized": ("control_own", "licence_own"),
    "natural": ("licence_own",),
    "partly": ("control_own", "licence_own"),
}


def gradients_stage(
    conditions: Conditions, partly: Paragraphs | None, natural: Paragraphs, *, n: int, seed: int
) -> Found:
    """Gradients of every condition and of further controls; which differences in depth survive at equal loss.

    Args:
        conditions: those of the study.
        partly: planted paragraphs that the organism recites in part, if there are any.
        natural: duplicates of the training text that it recites.
        n: paragraphs of each further control.
        seed: of the draws and the statistics.
    """
    model = conditions["memorized"][0]
    further = _further(model, partly, natural, n=n, seed=seed)
    everyone = {**conditions, **{name: (model, rows) for name, rows in further.items()}}
    scores = {name: weight_scores(*pair) for name, pair in everyone.items()}
    sets = {name: rows for name, (_, rows) in everyone.items()}
    licences = {name: scores[name] for name in ("natural", "licence_never", "licence_own")}
    found = {}
    for pooling in POOLINGS:
        how, by = {"sets": sets, "pooling": pooling, "seed": seed}, _by(pooling)
        found[f"A{by}"] = profile_contrasts(scores, **how)
        found[f"natural{by}"] = profile_contrasts(licences, memorized="natural", **how)
        for name, owns in _MATCHED.items():
            for own in owns if name in scores else ():
                found[f"{name}, matched with {own}{by}"] = at_equal_loss(
                    {one: scores[one] for one in (name, own)}, **how
                )
    return {"gradients": scores, "gradient_contrasts": found}


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
    """Those planted `PARTLY` often that are not recited in full."""
    (low, high), counts = PARTLY, np.array(planted.counts)
    chosen = (counts >= low) & (counts <= high) & ~recited
    return planted.select(chosen) if chosen.any() else None


def _further(
    model: HookedModel, partly: Paragraphs | None, natural: Paragraphs, *, n: int, seed: int
) -> dict[str, Paragraphs]:
    """Text that is memorized otherwise, in part or not at all, at losses between those of A and C."""
    licences = load_controls("licence_never").sample(n, seed=seed)
    found = {
        "natural": natural.sample(n, seed=seed),
        "licence_never": licences,
        "licence_own": with_own_continuation(model, licences),
    }
    return found if partly is None else found | {"partly": partly.sample(n, seed=seed)}


def attention_stage(
    conditions: Conditions, counts: Int[Tensor, " d_vocab"], worth: Mapping[str, xr.Dataset], *, seed: int
) -> Found:
    """Attention to rare tokens in every condition, the published statistic with its null, and the verdict on heads."""
    probed = {
        name: rare_token_attention(model, rows, counts, seed=seed, clusters=clusters(rows))
        for name, (model, rows) in conditions.items()
    }
    sets = {name: rows for name, (_, rows) in conditions.items()}
    head = memorization_head(probed, worth=worth["heads"], sets=sets, seed=seed)
    return {
        "attention": probed,
        "attention_heads": {"memorized": head.table.assign_attrs(verdict=head.verdict)},
        "attention_published": {name: published_statistic(one) for name, one in probed.items()},
    }
