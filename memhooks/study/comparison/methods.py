"""The ways to unlearn that are compared: which weights, which objective, and eight settings of each.

A method is any function `(bench, forget, setting, seed, budget) -> Edited`. The masked ones stop by the budget, whose
goal is half of the twin's NLL; BalancedSubnet drops a fixed share of weights, and the published recipe, which is not
tuned, takes its five steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from memhooks.localize.balanced_subnet import BalancedSubnet
from memhooks.localize.localizers import Localizer, fisher_ratio, gradient
from memhooks.localize.masks.blocks import block
from memhooks.localize.masks.matched_random import matched_random_weights
from memhooks.localize.masks.top import top_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import Component, component_parameters
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.study.comparison.sets import Bench
from memhooks.unlearn.delta import Delta, delta_of
from memhooks.unlearn.objectives.bounded_ascent import BoundedAscent
from memhooks.unlearn.objectives.npo import NPO
from memhooks.unlearn.published_recipe import published_recipe_
from memhooks.unlearn.recipe import Budget, Recipe
from memhooks.unlearn.run import NotFiniteError
from memhooks.unlearn.unlearning import restored, unlearning_delta

Setting = Mapping[str, float]
MaskMaker = Callable[[HookedModel, Paragraphs, Paragraphs, int], WeightMask]

N_RETAIN = 3
"""Retained paragraphs in each step."""

N_EPOCHS = 8
"""Of BalancedSubnet; with four rows of each set in a step, 24 steps for one paragraph."""


@dataclass(frozen=True)
class Edited:
    """What a method did.

    Attributes:
        delta: the change.
        n_steps: updates (epochs of BalancedSubnet).
        share: of the grid's weights that moved.
        failed: the loss was no number any more, and nothing was changed.
    """

    delta: Delta
    n_steps: int
    share: float
    failed: bool = False


@dataclass(frozen=True)
class Method:
    """A way to unlearn, with the settings it may be tuned over."""

    name: str
    run: Callable[[Bench, Paragraphs, Setting, int, Budget], Edited]
    settings: tuple[Setting, ...]


def fine_tuned(
    bench: Bench,
    forget: Paragraphs,
    setting: Setting,
    seed: int,
    budget: Budget,
    *,
    mask_of: MaskMaker,
    objective: str | BoundedAscent | NPO = "gradient_ascent",
) -> Edited:
    """Masked steps until the budget's goals are met, or the steps run out."""
    retain = bench.retain(seed)
    mask = mask_of(bench.model, forget, retain, seed)
    recipe = Recipe(
        objective=objective,
        retain_weight=setting["retain_weight"],
        lr=setting["lr"],
        n_steps=bench.sizes.n_steps if len(forget) == 1 else bench.sizes.n_steps_together,
        n_retain=N_RETAIN,
        seed=seed,
    )
    try:
        delta, records = unlearning_delta(bench.model, forget, retain, mask, recipe=recipe, budget=budget)
    except NotFiniteError:  # a setting that explodes is a bad one, not the end of the comparison
        return Edited(_unchanged(bench.model, mask), 0, 0.0, failed=True)
    return Edited(delta, records[-1].step, _share(bench.model, delta))


def dropped(bench: Bench, forget: Paragraphs, setting: Setting, seed: int, budget: Budget) -> Edited:
    """BalancedSubnet: learn which MLP weights the text needs and others do not, and set them to zero.

    Beside memorized text alone: next to the loss of never-seen text, that of recited text would not count.
    """
    learner = BalancedSubnet(n_epochs=N_EPOCHS, batch_size=4, lr=setting["lr"])
    scores = learner(bench.model, forget, bench.retain_memorized(seed), seed=seed)
    mask = top_weights(scores, fraction=setting["fraction"])
    with restored(bench.model), torch.no_grad():
        before, old = model_hash(bench.model), _copies(bench.model)
        for name, weight in component_parameters(bench.model).items():
            weight.view(-1)[mask.of(name).long()] = 0.0
        delta = delta_of(bench.model, mask, old, before=before)
    return Edited(delta, N_EPOCHS, _share(bench.model, delta))


def as_published(bench: Bench, forget: Paragraphs, setting: Setting, seed: int, budget: Budget) -> Edited:
    """Five steps whose gradients alone are masked; the decay moves the rest. The delta is of all weights."""
    mask = top_gradient(bench.model, forget, forget, seed, fraction=0.001)
    everything = top_gradient(bench.model, forget, forget, seed, fraction=1.0)
    with restored(bench.model):
        before, old = model_hash(bench.model), _copies(bench.model)
        n_steps = len(published_recipe_(bench.model, forget, bench.published_keep(seed), mask))
        delta = delta_of(bench.model, everything, old, before=before)
    return Edited(delta, n_steps, _share(bench.model, delta))


def top_of(
    model: HookedModel, forget: Paragraphs, retain: Paragraphs, seed: int, *, localizer: Localizer, fraction: float
) -> WeightMask:
    """The top of a localizer's scores."""
    return top_weights(localizer(model, forget, retain, seed=seed), fraction=fraction)


top_gradient = partial(top_of, localizer=gradient)


def random_like_top(
    model: HookedModel, forget: Paragraphs, retain: Paragraphs, seed: int, *, fraction: float
) -> WeightMask:
    """As many weights of each matrix as the top of the gradient has there, drawn blindly."""
    return matched_random_weights(top_gradient(model, forget, retain, seed, fraction=fraction), seed=seed)


def one_head(
    model: HookedModel, forget: Paragraphs, retain: Paragraphs, seed: int, *, layer: int, head: int
) -> WeightMask:
    """One head's value matrix, whatever the text."""
    return block(model, [Component(layer, "W_V", head)])


def _grid(lrs: tuple[float, ...], weights: tuple[float, ...]) -> tuple[Setting, ...]:
    return tuple({"lr": lr, "retain_weight": weight} for lr, weight in product(lrs, weights))


def _masked(mask_of: MaskMaker, objective: str | BoundedAscent | NPO = "gradient_ascent") -> Callable[..., Edited]:
    return partial(fine_tuned, mask_of=mask_of, objective=objective)


_SPARSE, _WEIGHTS = (2e-3, 4e-3, 6e-3, 1e-2), (50.0, 200.0)
_HEAD = (2e-3, 5e-3, 1e-2, 2e-2)
_PER_MILLE, _PERCENT = partial(top_gradient, fraction=0.001), partial(top_gradient, fraction=0.01)

METHODS: tuple[Method, ...] = (
    Method("all weights", _masked(partial(top_gradient, fraction=1.0)), _grid((3e-5, 6e-5, 1e-4, 2e-4), _WEIGHTS)),
    Method("top 1 %", _masked(_PERCENT), _grid((6e-4, 1.2e-3, 2e-3, 4e-3), _WEIGHTS)),
    Method("top 0.1 %", _masked(_PER_MILLE), _grid(_SPARSE, _WEIGHTS)),
    Method(
        "Fisher ratio 0.1 %",
        _masked(partial(top_of, localizer=fisher_ratio, fraction=0.001)),
        _grid(_SPARSE, _WEIGHTS),
    ),
    Method("NPO, top 0.1 %", _masked(_PER_MILLE, NPO()), _grid(_SPARSE, (100.0, 1000.0))),
    Method(
        "random 0.1 %",
        _masked(partial(random_like_top, fraction=0.001)),
        _grid((6e-3, 1e-2, 2e-2, 4e-2), _WEIGHTS),
    ),
    # The head that looks at rare tokens most, as published; and the one that recitation needs most (docs/findings.md).
    Method("W_V of L0H6 (rare tokens)", _masked(partial(one_head, layer=0, head=6)), _grid(_HEAD, _WEIGHTS)),
    Method("W_V of L0H5 (ablation)", _masked(partial(one_head, layer=0, head=5)), _grid(_HEAD, _WEIGHTS)),
    Method(
        "BalancedSubnet, dropped",
        dropped,
        tuple({"lr": lr, "fraction": share} for lr, share in product((0.1, 1.0), (0.001, 0.005, 0.01, 0.02))),
    ),
    Method("published recipe as is", as_published, ({},)),
    # Each token is pushed to 3 nats and no further, so that the first to go do not drown the rest.
    Method(
        "bounded, Fisher ratio 0.1 %",
        _masked(partial(top_of, localizer=fisher_ratio, fraction=0.001), BoundedAscent(goal=3.0)),
        _grid((6e-3, 1e-2, 1.5e-2, 2e-2), (5.0, 20.0)),
    ),
)


def _copies(model: HookedModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in component_parameters(model).items()}


def _unchanged(model: HookedModel, mask: WeightMask) -> Delta:
    return delta_of(model, mask, _copies(model), before=model_hash(model))


def _share(model: HookedModel, delta: Delta) -> float:
    return delta.moved / sum(weight.numel() for weight in component_parameters(model).values())
