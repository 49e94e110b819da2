"""Is memorized text harder to unlearn? Steps and movement until a paragraph breaks, beside controls recited in full.

1. Each paragraph alone is pushed away by plain gradient ascent, nothing holding the model elsewhere.
2. Its exact match falls to half; its NLL rises by one nat. Both are asked for: a rise from almost nothing is not the
   same as one from a high NLL. How far the weights have moved by then is measured in two ways.
3. The other way: how many steps until the model recites another continuation of the same prefix instead?

Controls are prefixes followed by what the model itself says next, so that their exact match is full, too. The model is
less sure of them: pick those nearest in NLL (`own_controls.own_controls`), and read what difference is left.
"""

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.progress import tracked
from memhooks.unlearn.attacks.damage import every_weight
from memhooks.unlearn.attacks.measured import measured
from memhooks.unlearn.objectives.pairing import pairs_of
from memhooks.unlearn.objectives.term import Term, token_nll
from memhooks.unlearn.own_controls import own_controls
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.unlearning import restored, unlearning_steps

__all__ = ["CRITERIA", "Way", "own_controls", "steps_to_break"]

Way = Literal["ascent", "edit", "paper_edit"]
"""How a paragraph is changed; see `steps_to_break`."""

CRITERIA = {
    "half": "the exact match is at most half of its first value",
    "nat": "the NLL of the text is one nat per token above its first value",
    "recited": "the whole new continuation is recited after the original prefix",
}
"""When a paragraph counts as changed."""

_MEASURES = {
    "steps": "updates until {}; NaN = not within the steps",
    "norm": "Euclidean length of the weights' change by then ({})",
    "path": "sum of the weights' absolute changes by then ({})",
}


@dataclass(frozen=True, eq=False)
class _Other:
    """Learn another continuation of the same prefix: its NLL, mean over tokens, in nats per token."""

    other: Paragraphs

    def __repr__(self) -> str:
        return f"Other({tensor_hash(self.other.tokens)})"

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        return Term(self.other.check(model), partial(_mean_nll, labels=self.other.continuation))


def steps_to_break(
    model: HookedModel,
    sets: Mapping[str, Paragraphs],
    *,
    way: Way = "ascent",
    weights: Literal["all"] | float = 0.001,
    lr: float = 2e-4,
    n_steps: int = 40,
    seed: int = 0,
) -> xr.Dataset:
    """Change each paragraph alone and count the steps until it breaks; the model is put back after each.

    Nothing holds the model elsewhere: what is compared is how far a text lies from being broken, not what that costs.
    A twin that never read a set is asked by a call of its own; text that it does not recite has no EM to halve.

    Args:
        model: that recites the paragraphs.
        sets: by name, such as memorized and control, of any shape.
        way: `ascent`: gradient ascent on the NLL. `edit`: learn the perturbed continuation (what the model says after
            the most damaging replaced token, `measure.pairs`) after the original prefix. `paper_edit`: the published
            edit, which trains on the perturbed prefix and hopes that it carries over.
        weights: `all`, or the share of weights with the largest gradient of this paragraph.
        lr: step size of Adam; the same for all sets.
        n_steps: updates, at most.
        seed: of the perturbed continuations.

    Returns:
        Dataset over `paragraph` (`set: id`, all sets one after the other): `set`, `cluster` (of near-duplicates within
        the set), `em_before`, `nll_before`; and for each criterion, `half`, `nat` and (where there is a new
        continuation) `recited`: `steps_half` (NaN = not within `n_steps`, or nothing was recited), `norm_half`,
        `path_half` and so on.

    Raises:
        InputError: no sets, an unknown way, settings out of range, hooks, paragraphs that the model cannot read, or
            that it continues as before whatever token is replaced.
        RuntimeError: a loss is no longer a number; the weights are put back.
    """
    _check(model, sets, way, n_steps)
    if weights != "all" and not 0 < weights <= 1:
        raise InputError(f"weights must be 'all' or a share in (0, 1], got {weights!r}")
    others = {name: _others(model, rows, way, seed) for name, rows in sets.items()}
    recipe = Recipe(objective="gradient_ascent", retain="none", lr=lr, n_steps=n_steps, seed=seed)
    jobs = [(name, row) for name, rows in sets.items() for row in range(len(rows))]
    found = []
    for name, row in tracked(jobs, f"breaking ({way})"):
        one, other = sets[name].select([row]), others[name]
        mask = every_weight(model) if weights == "all" else _top(model, one, weights)
        new = None if other is None else other.select([row])
        found.append(_broken(model, one, mask, _recipe(recipe, way, new), new))
    about = {
        "model_hash": model_hash(model),
        "tokens_hash": {name: tensor_hash(rows.tokens) for name, rows in sets.items()},
        "way": way,
        "weights": str(weights),
        "lr": lr,
        "n_steps": n_steps,
        "seed": seed,
    }
    return _labelled(about, sets, found)


def _top(model: HookedModel, one: Paragraphs, fraction: float) -> WeightMask:
    return top_weights(weight_gradients(model, one), fraction=fraction)


def _others(model: HookedModel, rows: Paragraphs, way: Way, seed: int) -> Paragraphs | None:
    """The original prefixes with their perturbed continuations, if the way leads to them."""
    if way == "ascent":
        return None
    return rows.with_continuation(pairs_of(model, rows, None, seed=seed).perturbed.continuation)


def _recipe(recipe: Recipe, way: Way, new: Paragraphs | None) -> Recipe:
    if way == "paper_edit":
        return replace(recipe, objective="paper_edit")
    return recipe if new is None else replace(recipe, objective=_Other(new))


def _broken(
    model: HookedModel, one: Paragraphs, mask: WeightMask, recipe: Recipe, new: Paragraphs | None
) -> dict[str, float]:
    """Where each criterion is first met."""
    found: dict[str, float] = {}
    before, waiting = _entries(model, mask), {"half", "nat"} | (set() if new is None else {"recited"})
    with restored(model), closing(_states(model, one, mask, recipe)) as states:
        for step, em, nll in states:
            if step == 0:
                found = {"em_before": em, "nll_before": nll}
            met = {
                "half": em <= found["em_before"] / 2 and found["em_before"] > 0,
                "nat": nll >= found["nll_before"] + 1,
                "recited": new is not None and _recited(model, new),
            }
            for name in sorted(one for one in waiting if met[one]):
                change = (_entries(model, mask) - before).double()
                found |= {
                    f"steps_{name}": step,
                    f"norm_{name}": float(change.norm()),
                    f"path_{name}": float(change.abs().sum()),
                }
                waiting.discard(name)
            if not waiting:
                break
    return found


def _states(
    model: HookedModel, one: Paragraphs, mask: WeightMask, recipe: Recipe
) -> Generator[tuple[int, float, float]]:
    """Step, EM and NLL of the text before each update."""
    # Nothing is retained: the set is asked for and never read.
    with closing(unlearning_steps(model, one, one, mask, recipe=recipe, allow_shared=True)) as records:
        for record in records:
            yield record.step, record.forget_em, record.forget_nll


def _recited(model: HookedModel, new: Paragraphs) -> bool:
    return bool(measured(model, new)["exact_match"][0] == new.n_continuation)


@torch.no_grad()
def _entries(model: HookedModel, mask: WeightMask) -> Float[Tensor, " chosen"]:
    named = dict(model.named_parameters())
    return torch.cat([named[name].flatten()[own.long().to(named[name].device)] for name, own in mask.indices.items()])


def _mean_nll(logits: Float[Tensor, "row scored d_vocab"], labels: Tensor) -> Float[Tensor, " row"]:
    return token_nll(logits, labels).mean(1)


def _labelled(about: Mapping[str, object], sets: Mapping[str, Paragraphs], found: list[dict[str, float]]) -> xr.Dataset:
    labels = {"paragraph": [f"{name}: {one}" for name, rows in sets.items() for one in rows.ids]}
    column = ("paragraph",)

    def values(name: str) -> np.ndarray:
        return np.array([one.get(name, np.nan) for one in found], dtype=float)

    variables = {
        "em_before": Variable(values("em_before"), column, "tokens before the first miss, 0 = none", labels),
        "nll_before": Variable(values("nll_before"), column, "nats per continuation token, 0 = certain"),
        "set": Variable(np.concatenate([[name] * len(rows) for name, rows in sets.items()]), column, "paragraph set"),
        "cluster": Variable(
            np.concatenate([clusters(rows).numpy() for rows in sets.values()]), column, "near-duplicates within the set"
        ),
    }
    criteria = [name for name in CRITERIA if name != "recited" or about["way"] != "ascent"]
    for name in criteria:
        for measure, unit in _MEASURES.items():
            variables[f"{measure}_{name}"] = Variable(values(f"{measure}_{name}"), column, unit.format(CRITERIA[name]))
    return labelled(about, **variables)


def _check(model: HookedModel, sets: Mapping[str, Paragraphs], way: str, n_steps: int) -> None:
    refuse_hooks(model)
    if way not in get_args(Way):
        raise InputError(f"a paragraph is changed by {', '.join(get_args(Way))}, got {way!r}")
    if not sets:
        raise InputError("no sets; pass a mapping such as {'memorized': ..., 'control': ...}")
    for rows in sets.values():
        rows.check(model)
    if n_steps < 1:
        raise InputError(f"n_steps must be at least 1, got {n_steps}")
