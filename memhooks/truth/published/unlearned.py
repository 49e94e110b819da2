"""Rows 9 to 14: unlearning and editing one memorized paragraph at a time, 20 of them, each from the untouched model.

1. A memorized paragraph, 10 others that the KL holds, and 10 that nothing holds.
2. The mask: all weights, the 0.1 % with the largest gradient before the first step, or a random 0.1 %.
3. Five steps with the published leak; again with the decay inside the mask alone (for all weights that is the same).
4. EM of the paragraph, of the 10 held ones (so published) and of the 10 that were not held.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.random_anywhere import random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import Logits, surprise
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.recitation import recitation
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.truth.published.parts import Found, Measured, Part, Quantity
from memhooks.truth.published.recipe import published_steps_
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.targets import MP, NMP
from memhooks.unlearn.unlearning import restored

FRACTION = 0.001
_GIGABYTES = 6.4  # measured with GPT-Neo 125M: weights, gradients, Adam's two moments, copies, logits
N_KEEP = 10
ROWS = {
    9: ("unlearn", "all"),
    10: ("unlearn", "top"),
    11: ("unlearn", "random"),
    12: ("edit", "all"),
    13: ("edit", "top"),
    14: ("edit", "random"),
}
"""Objective and mask of each row."""


def trial_paragraphs(setting: Setting) -> tuple[Paragraphs, Paragraphs | None]:
    """The paragraphs to change, one for each trial, and their perturbed twins where pairs are given."""
    pairs = setting.held.pairs
    if pairs is None:
        return setting.drawn(MP, setting.trials), None
    rows = np.sort(np.random.default_rng(setting.seed).permutation(len(pairs))[: setting.trials])
    return pairs.clean.select(rows), pairs.perturbed.select(rows)


def kept(setting: Setting, trial: int) -> tuple[Paragraphs, Paragraphs]:
    """Ten paragraphs that hold the model, and ten that do not; of few rows each gets half."""
    rows = setting.held.sets[NMP]
    order = np.random.default_rng([setting.seed, trial]).permutation(len(rows))
    n = max(1, min(N_KEEP, len(rows) // 2))
    return rows.select(order[:n]), rows.select(order[n : 2 * n] if len(rows) > 1 else order[:n])


def run_trial(setting: Setting, objective: str, which: str, trial: int) -> Mapping:
    """EM and NLL after the steps, with the leak (`published`) and without (`exact`)."""
    model, (change, twins) = setting.loaded, trial_paragraphs(setting)
    own, keep = change.select([trial]), kept(setting, trial)
    labels = twins.select([trial]) if objective == "edit" and twins is not None else None
    mask = _mask(model, own, labels, which, seed=setting.seed + trial)
    found = {}
    for variant in ("published", "exact"):
        if which == "all" and variant == "exact":
            found[variant] = found["published"]  # the same by construction
            continue
        with restored(model):
            before = {name: weight.detach().clone() for name, weight in component_parameters(model).items()}
            published_steps_(model, own, keep[0], mask, labels=labels, leak=variant == "published")
            found[variant] = _after(model, own, keep) | {"moved_outside": moved_outside(model, mask, before)}
    return found


def moved_outside(model: HookedModel, mask: WeightMask, before: Mapping[str, Tensor]) -> int:
    """How many weights of the grid outside the mask differ from what they were."""
    total = 0
    for name, weight in component_parameters(model).items():
        moved = (weight.detach() != before[name]).flatten()
        moved[mask.of(name).long()] = False
        total += int(moved.sum())
    return total


def _mask(model: HookedModel, own: Paragraphs, labels: Paragraphs | None, which: str, *, seed: int) -> WeightMask:
    if which == "random":
        return random_weights(model, fraction=FRACTION, seed=seed).unbound()
    if which == "all":
        weights = component_parameters(model)
        everything = {name: torch.arange(one.numel(), dtype=torch.int32) for name, one in weights.items()}
        return WeightMask(everything, {name: one.numel() for name, one in weights.items()})

    def nll(logits: Logits, rows: Paragraphs) -> Tensor:
        return surprise(logits, labels or rows).mean(1)

    return top_weights(weight_gradients(model, own, objective=nll), fraction=FRACTION)


def _after(model: HookedModel, own: Paragraphs, keep: tuple[Paragraphs, Paragraphs]) -> dict:
    changed = recitation(model, own)
    held, free = (recitation(model, rows)["exact_match"].values.tolist() for rows in keep)
    return {"MP": float(changed["exact_match"][0]), "nll": float(changed["nll"].mean()), "NMP": held, "held out": free}


def part_name(number: int, trial: int) -> str:
    """The part of that row and trial."""
    return f"{'-'.join(ROWS[number])}-{trial:02d}"


def _parts(setting: Setting, keys: frozenset[str]) -> list[Part]:
    n = len(trial_paragraphs(setting)[0]) if keys else 0
    return [
        Part(
            part_name(number, trial),
            partial(run_trial, setting, *how, trial),
            75.0 if how[1] == "all" else 150.0,
            _GIGABYTES,
        )
        for trial in range(n)
        for number, how in ROWS.items()
        if {f"{number}.MP", f"{number}.NMP"} & keys
    ]


def _rows(setting: Setting, found: Found) -> dict[str, Measured]:
    rows = {}
    for number in ROWS:
        trials = [one for name in (part_name(number, k) for k in range(setting.trials)) if (one := found.get(name))]
        if not trials:
            continue
        near = clusters(trial_paragraphs(setting)[0]).numpy()[: len(trials)]
        for key, of in (("MP", "MP"), ("NMP", "NMP")):
            values = {
                variant: np.array([np.mean(one[variant][of]) for one in trials]) for variant in ("published", "exact")
            }
            mean, low, high = bootstrap_mean(values["published"], clusters=near, seed=setting.seed)
            beside = {"exact mask": float(values["exact"].mean())}
            if of == "NMP":
                beside |= {
                    f"held out{', exact mask' * (variant == 'exact')}": float(
                        np.mean([one[variant]["held out"] for one in trials])
                    )
                    for variant in ("published", "exact")
                }
            else:
                beside["weights moved outside"] = float(np.mean([one["published"]["moved_outside"] for one in trials]))
            note = f"{len(trials)} paragraphs, {len(set(near.tolist()))} clusters, 5 steps"
            rows[f"{number}.{key}"] = Measured((float(mean),), *_ends(low, high), beside, note, len(trials))
    return rows


def _ends(low: np.ndarray, high: np.ndarray) -> tuple[float | None, float | None]:
    return (None, None) if np.isnan(low) else (float(low), float(high))


UNLEARNED = Quantity(tuple(f"{number}.{name}" for number in ROWS for name in ("MP", "NMP")), _parts, _rows)
