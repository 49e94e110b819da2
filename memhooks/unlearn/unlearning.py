"""Gradient steps on the masked weights alone, away from the text to forget and close to the untouched model elsewhere.

1. While the model is as it was, every term of the loss is built, frozen references included.
2. Each step reads its record (what is recited, how far retained text drifts) from the logits of its own pass.
3. The optimizer holds the mask's entries only and writes them back: nothing else can move.
4. With a budget, the run ends where enough is forgotten or too much is lost, and the best step is put back.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
from memhooks.model.components import trainable
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, tensor_hash
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart
from memhooks.progress import tracked
from memhooks.unlearn.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from memhooks.unlearn.delta import Delta, delta_of
from memhooks.unlearn.optimizer import MaskedOptimizer
from memhooks.unlearn.recipe import Budget, Recipe, settings_text
from memhooks.unlearn.steps import Steps, UnlearningStep

CHECKPOINT_EVERY = 5
"""Updates between two checkpoints: the most that a killed run repeats."""


class Unlearned(NamedTuple):
    """What `unlearn` found: the change of the weights, and every step on the way."""

    delta: Delta
    records: list[UnlearningStep]


def unlearn(  # noqa: PLR0913 - who, what and where, and one word each on how, until when and on resuming
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
    """
    recipe = recipe or Recipe()
    with restored(model):
        before = model_hash(model)
        old = {name: weight.detach().clone() for name, weight in model.named_parameters() if name in mask.indices}
        steps = unlearning_steps(
            model, forget, retain, mask, recipe=recipe, budget=budget, checkpoint=checkpoint, allow_shared=allow_shared
        )
        with frozen_outside(model, mask):
            records = list(tracked(steps, "unlearning", total=recipe.n_steps + 1))
        kept = [record for record in records if record.best][-1]
        about = {"recipe": recipe.plain(), "budget": None if budget is None else budget.plain()}
        about |= {"forget": list(forget.ids), "forget_hash": tensor_hash(forget.tokens)}
        about |= {"retain_hash": tensor_hash(retain.tokens), "record": asdict(kept)}
        return Unlearned(delta_of(model, mask, old, before=before, about=about), records)


def unlearning_steps(  # noqa: PLR0913 - as `unlearn`
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
        budget: end early, and put the best step's weights back at the end. Without one the last step stands.
        checkpoint: a file to go on from if it is there, and to write to meanwhile; the model must be as it was at
            the first start. The resumed run equals an uninterrupted one bit for bit.
        allow_shared: accept text to forget of which near-duplicates are in the retained text.

    Raises:
        InputError: an empty mask or one of another model, sets that share near-duplicates, differ in shape or cannot
            be read, hooks on the model, or a checkpoint of another run.
        RuntimeError: a loss or gradient is no longer a number; the weights of the step before are put back.
    """
    recipe = recipe or Recipe()
    _check(model, forget, retain, mask, allow_shared=allow_shared)
    config = settings_text(_config(model, forget, retain, mask, recipe, budget))
    found = None if checkpoint is None else load_checkpoint(checkpoint, config)
    with torch.inference_mode(mode=False), torch.no_grad(), trainable(model) as parameters:
        steps = Steps(model, forget, retain, mask, recipe, watch=budget is not None)
        run = _Run(MaskedOptimizer(parameters, mask, recipe), budget, forget.n_continuation, lr=recipe.lr)
        start = 0 if found is None else run.resume_(found)
        for step in range(start, recipe.n_steps + 1):
            if checkpoint is not None and step % CHECKPOINT_EVERY == 0:
                save_checkpoint(checkpoint, run.checkpoint(step), config)
            record, gradient = run.finite(*steps.at(step))
            record = run.judged(record)
            ended = step == recipe.n_steps or run.over(record)
            if ended:
                run.finish_()
            yield record
            if ended:
                return
            run.update_(gradient)


class _Run:
    """A run's state: the chosen entries, the best of them so far, and those of before the last update."""

    def __init__(self, entries: MaskedOptimizer, budget: Budget | None, n_continuation: int, *, lr: float) -> None:
        self._entries, self._budget, self._n, self._lr = entries, budget, n_continuation, lr
        self._before = entries.values.clone()
        self._best = entries.values.clone()
        self._least = float("inf")

    def finite(
        self, record: UnlearningStep, gradient: Float[Tensor, " chosen"]
    ) -> tuple[UnlearningStep, Float[Tensor, " chosen"]]:
        """The same, if loss and gradient are numbers; else the weights of before the last step are put back.

        Raises:
            RuntimeError: they are not.
        """
        if not (torch.isfinite(torch.tensor(record.loss)) and torch.isfinite(gradient).all()):
            self._entries.write_(self._before)
            raise RuntimeError(
                f"loss or gradients are not finite at step {record.step}; the weights before it are back, "
                f"use a smaller lr than {self._lr}"
            )
        return record, gradient

    def judged(self, record: UnlearningStep) -> UnlearningStep:
        """The record, saying whether it is the best within the budget so far; its weights are kept then."""
        if self._budget is None:
            return record
        missed = self._budget.shortfall(
            forget_em=record.forget_em,
            longest_run=record.longest_run,
            forget_nll=record.forget_nll,
            n_continuation=self._n,
        )
        best = missed < self._least and (record.step == 0 or not record.retain_kl > self._budget.retain_kl)
        if best:
            self._least, self._best = missed, self._entries.values.clone()
        return replace(record, best=best)

    def over(self, record: UnlearningStep) -> bool:
        """Whether all goals are met, or too much is lost."""
        return self._budget is not None and (self._least == 0 or record.retain_kl > self._budget.retain_kl)

    def update_(self, gradient: Float[Tensor, " chosen"]) -> None:
        """One step of the optimizer."""
        self._before = self._entries.values.clone()
        self._entries.step_(gradient)

    def finish_(self) -> None:
        """With a budget, put the best step's weights into the model."""
        if self._budget is not None:
            self._entries.write_(self._best)

    def checkpoint(self, step: int) -> Checkpoint:
        """All that a resumed run needs to go on with this step."""
        return Checkpoint(step, self._least, self._entries.values, self._best, self._before, self._entries.state())

    def resume_(self, found: Checkpoint) -> int:
        """Take up a checkpoint's state; returns the step to go on with."""
        self._entries.resume_(found.values, found.state)
        self._least, self._best, self._before = found.least, found.best, found.before
        return found.step


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


def _check(model: HookedModel, forget: Paragraphs, retain: Paragraphs, mask: WeightMask, *, allow_shared: bool) -> None:
    refuse_hooks(model)
    forget.check(model)
    retain.check(model)
    mask.check(model)
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
        "mask": {name: tensor_hash(own) for name, own in mask.indices.items() if len(own)},
        "recipe": recipe.plain(),
        "budget": None if budget is None else budget.plain(),
    }
