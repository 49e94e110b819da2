"""Gradient steps on the masked weights alone, away from the text to forget and close to the untouched model elsewhere.

1. While the model is as it was, every term of the loss is built, frozen references included.
2. Each step reads its record (what is recited, how far retained text drifts) from the logits of its own pass.
3. The optimizer holds the mask's entries only and writes them back: nothing else can move.
4. With a budget, the run ends where enough is forgotten or too much is lost, and the best step is put back.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart
from memhooks.progress import tracked
from memhooks.unlearn.checkpoint import load_checkpoint, save_checkpoint
from memhooks.unlearn.delta import Delta, delta_of
from memhooks.unlearn.optimizer import MaskedOptimizer
from memhooks.unlearn.recipe import Budget, Recipe, settings_text
from memhooks.unlearn.record import UnlearningStep
from memhooks.unlearn.run import Run, own_modes
from memhooks.unlearn.steps import Steps

CHECKPOINT_EVERY = 5
"""Updates between two checkpoints: the most that a killed run repeats."""


class Unlearned(NamedTuple):
    """What `unlearning_delta` found: the change of the weights, and every step on the way."""

    delta: Delta
    records: list[UnlearningStep]


def unlearning_delta(  # noqa: PLR0913 - who, what and where, and one word each on how, until when and on resuming
    model: HookedModel,
    forget: Paragraphs,
    retain: Paragraphs,
    mask: WeightMask,
    *,
    recipe: Recipe | None = None,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
    allow_shared: bool = False,
) -> Unlearned:
    """Unlearn, and return the change of the weights; the model itself is bit for bit as before.

    Every weight outside the mask is compared before and after, bit by bit. The arguments are those of
    `unlearning_steps`. With a budget the change is that of the best step.

    Raises:
        InputError: as `unlearning_steps`.
        RuntimeError: the same, or a weight outside the mask moved.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> forget = memhooks.load_planted("A", at_least=128).select(slice(0, 1))
        >>> retain = memhooks.load_controls().select(slice(0, 2))
        >>> scores = memhooks.LOCALIZERS[0](model, forget, retain, seed=0)
        >>> mask = memhooks.top_weights(scores, fraction=0.001)
        >>> recipe = memhooks.Recipe(n_steps=4, n_retain=2, lr=0.02)
        >>> delta, steps = memhooks.unlearning_delta(model, forget, retain, mask, recipe=recipe)
        >>> with delta.applied(model):
        ...     forgotten = memhooks.recitation(model, forget)
        >>> int(forgotten["exact_match"][0]) < int(memhooks.recitation(model, forget)["exact_match"][0])
        True
    """
    recipe = recipe or Recipe()
    _check(model, forget, retain, mask, checkpoint, allow_shared=allow_shared)
    config = settings_text(_config(model, forget, retain, mask, recipe, budget))
    with restored(model):
        before = model_hash(model)
        old = {name: weight.detach().clone() for name, weight in model.named_parameters() if name in mask.indices}
        steps = unlearning_steps(
            model, forget, retain, mask, recipe=recipe, budget=budget, checkpoint=checkpoint, allow_shared=allow_shared
        )
        with frozen_outside(model, mask):
            records = list(tracked(steps, "unlearning", total=recipe.n_steps + 1))
        kept = asdict(best[-1]) if (best := [one for one in records if one.best]) else _saved_best(checkpoint, config)
        about = {"recipe": recipe.plain(), "budget": None if budget is None else budget.plain()}
        about |= {"forget": list(forget.ids), "forget_hash": tensor_hash(forget.tokens)}
        about |= {"retain_hash": tensor_hash(retain.tokens), "record": kept}
        return Unlearned(delta_of(model, mask, old, before=before, about=about), records)


def unlearning_steps(  # noqa: PLR0913 - as `unlearning_delta`
    model: HookedModel,
    forget: Paragraphs,
    retain: Paragraphs,
    mask: WeightMask,
    *,
    recipe: Recipe | None = None,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
    allow_shared: bool = False,
) -> Generator[UnlearningStep, None, None]:
    """Unlearn in place, one record before each update and one after the last; nothing runs before iteration.

    Args:
        model: whose masked weights move; every other weight stays bit-identical.
        forget: the text to unlearn.
        retain: other text of the same prefix and length, on which the model should stay as it is.
        mask: the weights that may move.
        recipe: objective, retain term, optimizer, steps; by default gradient ascent held by KL.
        budget: end early, and put the best step's weights into the model once the last record was taken, or the
            iterator is closed. Without one the last step stands.
        checkpoint: a file to go on from if it is there, and to write to meanwhile; the model must be as it was at
            the first start. The resumed run equals an uninterrupted one bit for bit.
        allow_shared: accept text to forget of which near-duplicates are in the retained text.

    Raises:
        InputError: an empty mask or one of another model, sets that share near-duplicates, differ in shape or cannot
            be read, hooks on the model, or a checkpoint of another run.
        NotFiniteError: a loss or gradient is no longer a number; the weights of the step before are put back.
    """
    recipe = recipe or Recipe()
    _check(model, forget, retain, mask, checkpoint, allow_shared=allow_shared)
    config = settings_text(_config(model, forget, retain, mask, recipe, budget))
    found = None if checkpoint is None else load_checkpoint(checkpoint, config)
    # torch's modes are set step by step: a generator that holds them while it waits would leave them to its caller.
    with own_modes():
        steps = Steps(model, forget, retain, mask, recipe, watch=budget is not None)
        entries = MaskedOptimizer(component_parameters(model), mask, recipe)
        run = Run(entries, budget, forget.n_continuation, lr=recipe.lr)
        start = 0 if found is None else run.resume_(found, recipe.n_steps)
    try:
        for step in range(start, recipe.n_steps + 1):
            with own_modes():
                if checkpoint is not None and step % CHECKPOINT_EVERY == 0:
                    save_checkpoint(checkpoint, run.checkpoint(step), config)
                record, gradient = run.finite(*steps.at(step))
                record = run.judged(record)
            yield record
            if step == recipe.n_steps or run.over(record):
                return
            with own_modes():
                run.update_(gradient)
    finally:
        with own_modes():
            run.finish_()


def _saved_best(checkpoint: Path | None, config: str) -> dict[str, float] | None:
    """The record of the best step, where it lies before the checkpoint that a run was resumed from."""
    found = None if checkpoint is None else load_checkpoint(checkpoint, config)
    return None if found is None else found.best_record


@contextmanager
def restored(model: HookedModel) -> Iterator[None]:
    """After the block every weight is bit for bit what it was before."""
    with ExitStack() as before:  # undoes the rest even where Ctrl-C stops one
        for weight in model.parameters():
            before.callback(_put_back_, weight, weight.detach().clone())
        yield


@torch.no_grad()
def _put_back_(weight: Tensor, value: Tensor) -> None:
    weight.copy_(value)


def _check(
    model: HookedModel,
    forget: Paragraphs,
    retain: Paragraphs,
    mask: WeightMask,
    checkpoint: Path | None,
    *,
    allow_shared: bool,
) -> None:
    if checkpoint is not None and Path(checkpoint).suffix != ".safetensors":
        raise InputError(f"a checkpoint is saved as .safetensors, got {Path(checkpoint).name}")
    refuse_hooks(model)
    forget.check(model)
    retain.check(model)
    mask.check(model)
    grid = component_parameters(model)
    foreign = [name for name, own in mask.indices.items() if len(own) and name not in grid]
    if foreign:
        raise InputError(f"only attention and MLP matrices can be unlearned in, and the mask chooses {foreign[0]}")
    if not all(weight.is_contiguous() for weight in grid.values()):
        raise InputError("the model's weights must be contiguous tensors; load the model anew")
    shapes = [(one.n_prefix, one.tokens.shape[1]) for one in (forget, retain)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"forget and retain must have the same prefix and length, as they share passes, got {shapes[0]} and "
            f"{shapes[1]}; cut the longer set's rows"
        )
    check_apart({"forget": forget, "retain": retain}, allow_shared=allow_shared)


def _config(
    model: HookedModel,
    forget: Paragraphs,
    retain: Paragraphs,
    mask: WeightMask,
    recipe: Recipe,
    budget: Budget | None,
) -> dict[str, object]:
    """What a run is determined by: a resumed one must have the same."""
    return {
        "model": model_hash(model),
        "forget": tensor_hash(forget.tokens),
        "retain": tensor_hash(retain.tokens),
        "n_prefix": forget.n_prefix,
        "mask": {name: tensor_hash(own) for name, own in mask.indices.items() if len(own)},
        "recipe": recipe.plain(),
        "budget": None if budget is None else budget.plain(),
    }
