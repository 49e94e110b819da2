"""Gradient steps on the masked weights alone, away from the forget set and close to the frozen model elsewhere.

1. The frozen model's next-token distributions on the retain set are computed once.
2. Each step minimises `-NLL(forget) + retain_weight * KL(frozen || model)(retain)`, both per token.
3. Adam sees the chosen entries only, gathered into one small tensor per parameter, and
   writes them back: nothing else can move, whatever the optimizer does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import continuation_logits, forget_nll, retain_kl
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
        RuntimeError: the loss is no longer a number; the last weights are put back.
    """
    _check(model, forget, retain, mask, n_steps=n_steps, lr=lr)
    with torch.no_grad():
        frozen = continuation_logits(model, retain.tokens, first=retain.n_prefix).log_softmax(-1)
    with trainable(model) as parameters:
        chosen = {name: own.long().to(model.cfg.device) for name, own in mask.indices.items() if len(own)}
        values = {name: parameters[name].detach().flatten()[own].clone() for name, own in chosen.items()}
        optimizer = torch.optim.Adam(list(values.values()), lr=lr)
        for step in range(n_steps):
            with torch.enable_grad():
                forgotten = forget_nll(model, forget)
                drift = retain_kl(model, retain, frozen)
                loss = forgotten + retain_weight * drift
                gradients = torch.autograd.grad(loss, [parameters[name] for name in chosen])
            if not torch.isfinite(loss):
                raise RuntimeError(f"the loss is {loss.item()} at step {step}; use a smaller lr than {lr}")
            yield UnlearningStep(step, -forgotten.item(), drift.item())
            for (name, own), gradient in zip(chosen.items(), gradients, strict=True):
                values[name].grad = gradient.flatten()[own]
            optimizer.step()
            _write_(parameters, chosen, values)


@contextmanager
def restored(model: HookedModel) -> Iterator[None]:
    """After the block every weight is bit for bit what it was before."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(before[name])


@torch.no_grad()
def _write_(parameters: dict, chosen: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, own in chosen.items():
        parameters[name].view(-1)[own] = values[name]


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
