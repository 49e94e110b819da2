"""Gradient steps on the masked weights alone, away from the forget set and close to the frozen model elsewhere.

1. The frozen model's next-token distributions on the retain set are computed once.
2. Each step minimises `-NLL(forget) + retain_weight * KL(frozen || model)(retain)`, both per token.
3. Adam sees the chosen entries only, gathered into one small tensor per parameter, and
   writes them back: nothing else can move, whatever the optimizer does.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import continuation_logits, continuation_nll, kl_divergence
from memhooks.model.components import trainable
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs


@dataclass(frozen=True)
class UnlearningStep:
    """What one step saw, before its update; both losses in nats per token."""

    step: int
    forget_nll: float
    retain_kl: float


def unlearning_steps(
    model: HookedModel,
    forget: Paragraphs,
    retain: Paragraphs,
    mask: WeightMask,
    *,
    n_steps: int,
    lr: float,
    retain_weight: float = 1.0,
) -> Iterator[UnlearningStep]:
    """Unlearn in place, one record per step; nothing runs before iteration.

    Raises:
        InputError: an empty mask, no steps, a mask of another model, or paragraphs it cannot read.
        RuntimeError: a loss or gradient is no longer a number; the weights of the step before are put back.
    """
    _check(model, forget, retain, mask, n_steps=n_steps, lr=lr)
    with torch.no_grad():
        frozen = continuation_logits(model, retain).log_softmax(-1)
    with trainable(model) as parameters:
        weights = _MaskedWeights(parameters, mask, lr=lr)
        for step in range(n_steps):
            with torch.enable_grad():
                surprise, drift = _losses(model, forget, retain, frozen)
                loss = retain_weight * drift - surprise
                gradients = torch.autograd.grad(loss, weights.parameters)
            weights.check_finite_([loss, *gradients], step)
            yield UnlearningStep(step, surprise.item(), drift.item())
            weights.step_(gradients)
        with torch.no_grad():
            weights.check_finite_(_losses(model, forget, retain, frozen), n_steps)


def _losses(
    model: HookedModel, forget: Paragraphs, retain: Paragraphs, frozen: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """NLL of the text to forget and KL to the frozen model on the text to keep, both means over tokens."""
    surprise = continuation_nll(continuation_logits(model, forget), forget).mean()
    return surprise, kl_divergence(continuation_logits(model, retain), frozen).mean()


class _MaskedWeights:
    """The mask's entries as one small tensor per parameter, which is all that the optimizer sees."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], mask: WeightMask, *, lr: float) -> None:
        chosen = [name for name, own in mask.indices.items() if len(own)]
        self.parameters = [parameters[name] for name in chosen]
        self.indices = [mask.indices[name].long().to(parameters[name].device) for name in chosen]
        self.values = self._gather(self.parameters)
        self.before = [value.clone() for value in self.values]
        self.optimizer = torch.optim.Adam(self.values, lr=lr)
        self.lr = lr

    def step_(self, gradients: Sequence[Tensor]) -> None:
        """One optimizer step, written back into the model."""
        self.before = [value.clone() for value in self.values]
        for value, gradient in zip(self.values, self._gather(gradients), strict=True):
            value.grad = gradient
        self.optimizer.step()
        self._write_(self.values)

    def check_finite_(self, tensors: Sequence[Tensor], step: int) -> None:
        """Put the weights of before the last step back, and stop, where a number is no longer one.

        Raises:
            RuntimeError: a loss or gradient is infinite or not a number.
        """
        if not all(torch.isfinite(tensor).all() for tensor in tensors):
            self._write_(self.before)
            raise RuntimeError(
                f"loss or gradients are not finite at step {step}; the weights before it are back, "
                f"use a smaller lr than {self.lr}"
            )

    def _gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.detach().flatten()[own] for tensor, own in zip(tensors, self.indices, strict=True)]

    @torch.no_grad()
    def _write_(self, values: Sequence[Tensor]) -> None:
        for parameter, own, value in zip(self.parameters, self.indices, values, strict=True):
            parameter.view(-1)[own] = value


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
    model: HookedModel, forget: Paragraphs, retain: Paragraphs, mask: WeightMask, *, n_steps: int, lr: float
) -> None:
    forget.check(model)
    retain.check(model)
    if not len(mask):
        raise InputError("the mask is empty, so no weight may move")
    if n_steps < 1 or not lr > 0:
        raise InputError(f"n_steps must be at least 1 and lr positive, got {n_steps} and {lr}")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    wrong = [name for name, size in mask.sizes.items() if sizes.get(name) != size]
    if wrong:
        raise InputError(
            f"the mask belongs to another model: {wrong[0]} has {mask.sizes[wrong[0]]} entries there, "
            f"{sizes.get(wrong[0])} here"
        )
