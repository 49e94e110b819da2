"""The study's unlearning: a few paragraphs, one at a time, with the top weights, as many random ones, and all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from torch import Tensor

from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.measure.recitation import recitation
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.study.kept import Kept
from memhooks.study.settings import Settings
from memhooks.unlearn.recipe import Budget, Recipe
from memhooks.unlearn.unlearning import unlearning_delta

_MEASURES = ("exact_match", "matches", "longest_run")
_UNITS = {
    "nll": "nats per continuation token, 0 = certain",
    "steps": "gradient steps",
    "lr": "Adam's step size",
    "reached": "whether the target is forgotten by EM, longest run and NLL",
    "mask": "",
    "target": "",
    "set": "",
}
_TOKENS = {"nll": "nats of each continuation token, 0 = certain", "said": "token ids"}
UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Parts:
    """Who plays which part in unlearning: the text to forget, what holds the model, what should stay, and the goal.

    Attributes:
        targets: unlearned one at a time.
        retain: holds the model meanwhile.
        kept: sets never trained on, by name.
        goals: the NLL from which on each target counts as forgotten, nats per token.
    """

    targets: Paragraphs
    retain: Paragraphs
    kept: Mapping[str, Paragraphs]
    goals: Sequence[float]


def unlearning_stage(keep: Kept, model: HookedModel, parts: Parts, settings: Settings) -> None:
    """Every target with three masks, one at a time; the model is bit for bit restored in between.

    A trial ends where the text is forgotten by all measures: EM, longest run, and the goal's NLL.
    """
    keep("unlearned_tokens", "before", recitation, model, parts.targets)
    tables, top = [], []
    for row in range(len(parts.targets)):
        for name in (UNTOUCHED, *_masks(settings)):
            trial = keep("unlearning_trials", f"{row}, {name}", _trial, model, parts, row, name, settings)
            tables.append(trial.drop_vars([f"target_{one}" for one in _TOKENS]).drop_dims("pos", errors="ignore"))
            top += [trial] if name.startswith("top") else []
    keep("unlearning", "all", _joined, tables)
    keep("unlearned_tokens", "after", _after, top, parts.targets)


def _joined(tables: Sequence[xr.Dataset]) -> xr.Dataset:
    """All trials as one table; numpy widens texts where xarray's concat, told their old width, would cut them."""
    columns = {str(name): np.concatenate([one[name].values for one in tables]) for name in tables[0]}
    return labelled({}, **{name: Variable(own, ("row",), _UNITS.get(name, "tokens")) for name, own in columns.items()})


def _after(trials: Sequence[xr.Dataset], targets: Paragraphs) -> xr.Dataset:
    """What the model says of each target after it was unlearned in its top weights."""
    labels = {"paragraph": targets.ids, "pos": range(targets.n_prefix, targets.tokens.shape[1])}
    return labelled(
        {},
        **{
            name: Variable(
                np.stack([one[f"target_{name}"].values for one in trials]), ("paragraph", "pos"), unit, labels
            )
            for name, unit in _TOKENS.items()
        },
    )


def _trial(model: HookedModel, parts: Parts, row: int, name: str, settings: Settings) -> xr.Dataset:
    """One target unlearned in the weights of one mask: a row for each set, and the target token by token."""
    target = parts.targets.select([row])
    sets = {"target": target, **parts.kept}
    if name == UNTOUCHED:
        return _table(model, sets, {"mask": name, "target": target.ids[0], "lr": 0.0, "steps": 0, "reached": False})
    lr, draw = _masks(settings)[name]
    mask = draw(weight_gradients(model, target), settings.seed + row)
    recipe = Recipe(
        lr=lr, n_steps=settings.n_steps, retain_weight=settings.retain_weight, n_retain=3, seed=settings.seed
    )
    budget = Budget(forget_nll=parts.goals[row])
    delta, records = unlearning_delta(model, target, parts.retain, mask, recipe=recipe, budget=budget)
    best = [record for record in records if record.best][-1]
    about = {"mask": name, "target": target.ids[0], "lr": lr, "steps": best.step, "reached": budget.met_by(best)}
    with delta.applied(model):
        return _table(model, sets, about)


def _masks(settings: Settings) -> dict[str, tuple[float, Callable[[dict[str, Tensor], int], WeightMask]]]:
    """The weights that may move in each trial, and how fast: random ones need larger steps to forget at all."""
    percent = f"{100 * settings.fraction:g} %"

    def top(gradients: dict[str, Tensor], seed: int) -> WeightMask:
        return top_weights(gradients, fraction=settings.fraction)

    return {
        f"top {percent}": (settings.lr_sparse, top),
        f"random {percent}": (
            settings.lr_random,
            lambda gradients, seed: matched_random_weights(top(gradients, seed), seed=seed),
        ),
        "all weights": (settings.lr_all, lambda gradients, seed: top_weights(gradients, fraction=1.0)),
    }


def _table(model: HookedModel, sets: Mapping[str, Paragraphs], trial: Mapping[str, object]) -> xr.Dataset:
    found = {name: recitation(model, rows) for name, rows in sets.items()}
    rows = [
        {**trial, "set": name, **{one: float(result[one].mean()) for one in (*_MEASURES, "nll")}}
        for name, result in found.items()
    ]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return labelled(
        {},
        **{name: Variable(own, ("row",), _UNITS.get(name, "tokens")) for name, own in columns.items()},
        **{
            f"target_{name}": Variable(found["target"][name].values[0], ("pos",), unit)
            for name, unit in _TOKENS.items()
        },
    )
