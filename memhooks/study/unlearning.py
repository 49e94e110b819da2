"""The study's unlearning: a few paragraphs, one at a time, with the top weights, as many random ones, and all."""

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.measure.recitation import recitation
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.study.settings import Settings
from memhooks.unlearn.recipe import Budget, Recipe
from memhooks.unlearn.unlearning import unlearning_delta

_MEASURES = ("exact_match", "matches", "longest_run")


def unlearning_stage(
    model: HookedModel,
    twin: HookedModel,
    targets: Paragraphs,
    *,
    retain: Paragraphs,
    kept: Mapping[str, Paragraphs],
    settings: Settings,
) -> Iterator[dict[str, object]]:
    """Rows of every trial and paragraph set; the model is bit for bit restored in between.

    A trial ends where the text is forgotten by all measures: EM, longest run, and half of the twin's NLL.
    """
    goals = recitation(twin, targets)["nll"].mean("pos").values / 2
    for row, goal in enumerate(goals):
        target = targets.select([row])
        sets = {"target": target, **kept}
        untouched = {"mask": "untouched", "target": target.ids[0], "lr": 0.0, "steps": 0, "reached": False}
        yield from _rows(model, sets, untouched)
        for name, (mask, lr) in _masks(model, target, settings, seed=settings.seed + row).items():
            recipe = Recipe(
                lr=lr, n_steps=settings.n_steps, retain_weight=settings.retain_weight, n_retain=3, seed=settings.seed
            )
            budget = Budget(forget_nll=float(goal))
            delta, records = unlearning_delta(model, target, retain, mask, recipe=recipe, budget=budget)
            kept_step = [record for record in records if record.best][-1]
            reached = budget.met_by(kept_step)
            trial = {"mask": name, "target": target.ids[0], "lr": lr, "steps": kept_step.step, "reached": reached}
            with delta.applied(model):
                yield from list(_rows(model, sets, trial))


def unlearning_table(rows: list[dict[str, object]]) -> xr.Dataset:
    """The rows of the unlearning stage as one Dataset."""
    units = {
        "nll": "nats per continuation token, 0 = certain",
        "steps": "gradient steps",
        "lr": "Adam's step size",
        "reached": "whether the target is forgotten by EM, longest run and NLL",
        "mask": "",
        "target": "",
        "set": "",
    }
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return labelled({}, **{name: Variable(own, ("row",), units.get(name, "tokens")) for name, own in columns.items()})


def _masks(
    model: HookedModel, target: Paragraphs, settings: Settings, *, seed: int
) -> dict[str, tuple[WeightMask, float]]:
    """The weights that may move in each trial, and how fast: random ones need larger steps to forget at all."""
    gradients = weight_gradients(model, target)
    top, percent = top_weights(gradients, fraction=settings.fraction), f"{100 * settings.fraction:g} %"
    return {
        f"top {percent}": (top, settings.lr_sparse),
        f"random {percent}": (matched_random_weights(top, seed=seed), settings.lr_random),
        "all weights": (top_weights(gradients, fraction=1.0), settings.lr_all),
    }


def _rows(
    model: HookedModel, sets: Mapping[str, Paragraphs], trial: Mapping[str, object]
) -> Iterator[dict[str, object]]:
    for name, rows in sets.items():
        found = recitation(model, rows)
        means = {measure: float(found[measure].mean()) for measure in _MEASURES}
        yield {**trial, "set": name, **means, "nll": float(found["nll"].mean())}
