"""Requests one after another: does what was forgotten first come back, and how far does the model drift?

1. For each request the weights that matter to it are found in the model as it is by then, and it is unlearned.
2. After each, every request is measured again, and the other texts, and the distance from the untouched model.
3. Each step is a delta; reverted in turn, last first, they lead back to the untouched model bit for bit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.localizers import Localizer, gradient
from memhooks.localize.masks.overlap import mask_overlap
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import continuation_logits
from memhooks.measure.intervals import bootstrap_mean
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance, tensor_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart, clusters
from memhooks.progress import tracked
from memhooks.unlearn.attacks.measured import UNITS, measured
from memhooks.unlearn.delta import Delta
from memhooks.unlearn.objectives.term import BATCH
from memhooks.unlearn.recipe import Budget, Recipe
from memhooks.unlearn.retain_terms import retained_kl
from memhooks.unlearn.unlearning import restored, unlearning_delta


class Sequential(NamedTuple):
    """What came of requests one after another: the measures, and each request's change of the weights."""

    result: xr.Dataset
    deltas: list[Delta]


def unlearn_in_sequence(  # noqa: PLR0913 - the requests, what to keep, and how each is unlearned
    model: HookedModel,
    requests: Sequence[Paragraphs],
    retain: Paragraphs,
    *,
    others: Paragraphs,
    localizer: Localizer = gradient,
    fraction: float = 0.001,
    recipe: Recipe | None = None,
    budget: Budget | None = None,
) -> Sequential:
    """Unlearn requests one after another, each from the model that the ones before left; the model is put back.

    Args:
        model: as it was before the first.
        requests: the texts to forget, in this order; none shares near-duplicates with another.
        retain: text on which the model should stay as it is; it holds each request, and the drift is measured on it.
        others: memorized paragraphs that nobody asked to forget and that are not retained.
        localizer: finds the weights of each request, such as those of `LOCALIZERS`.
        fraction: of all weights that each request may move.
        recipe: of each request.
        budget: of each request.

    Returns:
        `result`, over `row` (`untouched`, `after request 1`, ...) and `paragraph` (of all requests): `exact_match`,
        `longest_run`, `nll`; over `paragraph`: `request` (its number, from 1). Over `row`: `others_exact_match` and
        `others_nll`, means with `_low` and `_high`; `retain_kl` (to the untouched model, nats per token); `steps`
        (updates), `moved` (weights), `norm` (of this request's change), `norm_total` (of all so far); `shared` (weights
        of its mask that earlier masks hold), `shared_expected` (by blind choice within each parameter) and
        `shared_p`; NaN for the first. `deltas`, one for each request, each to be applied after the one before.

    Raises:
        InputError: no requests, requests that share near-duplicates with each other or with `others`, paragraphs that
            the model cannot read, or what `top_weights` and `unlearning_steps` refuse.
    """
    _check(model, requests, others)
    recipe = recipe or Recipe()
    about = provenance(model, torch.cat([one.tokens for one in requests])) | {
        "retain_hash": tensor_hash(retain.tokens),
        "others_hash": tensor_hash(others.tokens),
        "localizer": getattr(localizer, "__name__", type(localizer).__name__),
        "fraction": fraction,
        "recipe": recipe.plain(),
        "budget": None if budget is None else budget.plain(),
    }
    watch = _Watch(model, requests, retain, others)
    rows, deltas, earlier = [watch.row(model)], [], None
    with restored(model):
        for request in tracked(requests, "requests"):
            scores = localizer(model, request, retain, seed=recipe.seed)
            mask = top_weights(scores, fraction=fraction)
            delta, records = unlearning_delta(model, request, retain, mask, recipe=recipe, budget=budget)
            delta.apply_(model)
            deltas.append(delta)
            kept = [record for record in records if record.best][-1]
            changed = {"steps": kept.step, "moved": delta.moved, "norm": delta.norm}
            rows.append(watch.row(model) | changed | _shared(mask, earlier))
            earlier = mask if earlier is None else earlier | mask
    return Sequential(_labelled(about, requests, rows), deltas)


class _Watch:
    """What is measured after each request, against the model as it was at first."""

    def __init__(
        self, model: HookedModel, requests: Sequence[Paragraphs], retain: Paragraphs, others: Paragraphs
    ) -> None:
        self._requests, self._others = requests, others
        self._terms = [retained_kl(model, retain.select(slice(at, at + BATCH))) for at in range(0, len(retain), BATCH)]
        self._clusters = clusters(others).numpy()
        self._start = {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}

    def row(self, model: HookedModel) -> dict[str, object]:
        each = [measured(model, request) for request in self._requests]
        found: dict[str, object] = {name: np.concatenate([one[name] for one in each]) for name in UNITS}
        rest = measured(model, self._others)
        for name in ("exact_match", "nll"):
            ends = bootstrap_mean(rest[name], seed=0, clusters=self._clusters)
            found |= {f"others_{name}{end}": float(one) for end, one in zip(("", "_low", "_high"), ends, strict=True)}
        with torch.no_grad():
            drift = torch.cat([term.loss(continuation_logits(model, term.rows)) for term in self._terms])
        squares = [
            (weight.detach().cpu().double() - self._start[name].double()).square().sum()
            for name, weight in model.named_parameters()
        ]
        return found | {"retain_kl": float(drift.mean()), "norm_total": float(torch.stack(squares).sum().sqrt())}


_UNITS = {
    "others_exact_match": UNITS["exact_match"] + "; mean of the other memorized paragraphs",
    "others_nll": UNITS["nll"] + "; mean of the other memorized paragraphs",
    "retain_kl": "nats per token to the untouched model on retained text, 0 = unchanged",
    "steps": "updates that were kept, 0 = none",
    "moved": "weights changed by this request, 0 = none",
    "norm": "Euclidean length of this request's change, 0 = none",
    "norm_total": "Euclidean distance of all weights from the untouched model, 0 = none",
    "shared": "weights of this mask that earlier masks hold, 0 = none",
    "shared_expected": "the same by blind choice within each parameter",
    "shared_p": "probability that blind choice shares as many",
}


def _shared(mask: WeightMask, earlier: WeightMask | None) -> dict[str, float]:
    if earlier is None:
        return {}
    found = mask_overlap(mask, earlier)
    return {"shared": float(found.shared), "shared_expected": found.expected, "shared_p": found.p_value}


def _labelled(
    about: dict[str, object], requests: Sequence[Paragraphs], rows: Sequence[dict[str, object]]
) -> xr.Dataset:
    names = ["untouched", *(f"after request {number}" for number in range(1, len(rows)))]
    labels = {"row": names, "paragraph": [name for one in requests for name in one.ids]}
    variables = {
        name: Variable(np.stack([np.asarray(row[name]) for row in rows]), ("row", "paragraph"), unit, labels)
        for name, unit in UNITS.items()
    }
    for name, unit in _UNITS.items():
        for end, said in (("", ""), ("_low", "; lower end of the 95 % interval"), ("_high", "; upper end")):
            if any(name + end in row for row in rows):
                values = np.array([row.get(name + end, np.nan) for row in rows], dtype=float)
                variables[name + end] = Variable(values, ("row",), unit + said)
    number = np.concatenate([[place] * len(one) for place, one in enumerate(requests, start=1)])
    variables["request"] = Variable(number, ("paragraph",), "number of the request it belongs to, from 1")
    return labelled(about, **variables)


def _check(model: HookedModel, requests: Sequence[Paragraphs], others: Paragraphs) -> None:
    if not requests:
        raise InputError("no requests; pass a list of paragraphs to forget, one entry for each request")
    for one in (*requests, others):
        one.check(model)
    for number, one in enumerate(requests, start=1):
        later = {f"request {place}": rest for place, rest in enumerate(requests[number:], start=number + 1)}
        check_apart({f"request {number}": one, **later, "others": others})
