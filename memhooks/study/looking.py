"""The study's observations: where the gradients lie, at equal loss too, and which heads look at rare tokens."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attribution import weight_scores
from memhooks.localize.memorization_head import memorization_head
from memhooks.localize.profile_contrasts import nll_matched, profile_contrasts
from memhooks.localize.published_statistic import published_statistic
from memhooks.measure.recitation import with_own_continuation
from memhooks.model.loading import HookedModel
from memhooks.organism.paragraphs import load_controls
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.study.interventions import Conditions, Found

PARTLY = (8, 16)
"""How often paragraphs were planted of which the organism recites some, at a loss like that of its own text."""


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
    found = {
        "A": profile_contrasts(scores, sets=sets, seed=seed),
        "A, l2_gradient": profile_contrasts(scores, sets=sets, pooling="l2_gradient", seed=seed),
        "natural": profile_contrasts(licences, sets=sets, memorized="natural", seed=seed),
    }
    for own in ("control_own", "licence_own") if partly is not None else ():
        for pooling in ("max_gradient", "l2_gradient"):
            matched = _matched({"partly": scores["partly"], own: scores[own]}, sets, pooling=pooling, seed=seed)
            if matched is not None:
                found[f"partly, matched with {own}, {pooling}"] = matched
    return {"gradients": scores, "gradient_contrasts": found}


def _matched(
    pair: Mapping[str, xr.Dataset], sets: Mapping[str, Paragraphs], *, pooling: str, seed: int
) -> xr.Dataset | None:
    (name, one), (own, other) = pair.items()
    try:
        first, second, rows = nll_matched(one, other, sets[name], sets[own])
    except InputError:  # no two paragraphs of equal loss: nothing to compare
        return None
    matched = {name: rows.one, own: rows.other}
    return profile_contrasts({name: first, own: second}, sets=matched, memorized=name, pooling=pooling, seed=seed)


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
    probed = {name: rare_token_attention(*pair, counts, seed=seed) for name, pair in conditions.items()}
    sets = {name: rows for name, (_, rows) in conditions.items()}
    head = memorization_head(probed, worth=worth["heads"], sets=sets, seed=seed)
    return {
        "attention": probed,
        "attention_heads": {"memorized": head.table.assign_attrs(verdict=head.verdict)},
        "attention_published": {name: published_statistic(one) for name, one in probed.items()},
    }
