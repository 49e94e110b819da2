"""A run's state while it goes: the chosen entries, the best of them so far, and those of before the last update."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.unlearn.checkpoint import Checkpoint
from memhooks.unlearn.optimizer import MaskedOptimizer
from memhooks.unlearn.recipe import Budget
from memhooks.unlearn.record import UnlearningStep


class NotFiniteError(RuntimeError):
    """A loss or gradient is infinite or no number; the weights of the step before are back."""


class Run:
    """The entries, and whether the run is over."""

    def __init__(self, entries: MaskedOptimizer, budget: Budget | None, n_continuation: int, *, lr: float) -> None:
        self._entries, self._budget, self._n, self._lr = entries, budget, n_continuation, lr
        self._before = entries.values.clone()
        self._best = entries.values.clone()
        self._least = float("inf")
        self._best_record: dict[str, float] | None = None

    def finite(
        self, record: UnlearningStep, gradient: Float[Tensor, " chosen"]
    ) -> tuple[UnlearningStep, Float[Tensor, " chosen"]]:
        """The same, if loss and gradient are numbers; else the weights of before the last step are put back.

        Raises:
            NotFiniteError: they are not.
        """
        if not (torch.isfinite(torch.tensor(record.loss)) and torch.isfinite(gradient).all()):
            self._entries.write_(self._before)
            raise NotFiniteError(
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
            self._best_record = asdict(record)
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
        entries = self._entries
        own = (entries.values, self._best, self._before, entries.state())
        return Checkpoint(step, self._least, self._best_record, *own)

    def resume_(self, found: Checkpoint, n_steps: int) -> int:
        """Take up a checkpoint's state; returns the step to go on with.

        Raises:
            InputError: it is not one of this run.
        """
        if found.step > n_steps or not found.values.shape == found.best.shape == found.before.shape:
            raise InputError("the checkpoint does not fit this run; delete it to start anew")
        self._entries.resume_(found.values, found.state)
        device = self._entries.values.device
        self._best, self._before = found.best.to(device), found.before.to(device)
        self._least, self._best_record = found.least, found.best_record
        return found.step


@contextmanager
def own_modes() -> Iterator[None]:
    """Neither inference mode, whose tensors no gradient goes through, nor gradients of what is written."""
    with torch.inference_mode(mode=False), torch.no_grad():
        yield
