"""The published fine-tuning as its code has it, to be measured beside what it was meant to be.

Gradients are set to zero outside the mask, and then torch's Adam steps with a coupled weight decay of 1: the decay is
a gradient of its own, so every "masked" weight takes a full step towards zero as well (Stoehr et al., 2024; official
code, commit 79a4088: five steps at 1e-5, though the paper says ten).
"""

import torch

from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import continuation_logits, contrastive
from memhooks.model.components import trainable
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

N_STEPS, LR, WEIGHT_DECAY = 5, 1e-5, 1.0


def published_recipe_(
    model: HookedModel,
    change: Paragraphs,
    keep: Paragraphs,
    mask: WeightMask,
    *,
    n_steps: int = N_STEPS,
    lr: float = LR,
    weight_decay: float = WEIGHT_DECAY,
) -> list[float]:
    """Fine-tune in place as published; returns the loss before each step, in nats.

    What it moves is *not* what the mask says: every weight of the grid, by about `n_steps * lr`.

    Args:
        model: changed in place.
        change: the paragraphs to unlearn.
        keep: other paragraphs, with the model's own continuations (so published); they are also what it is judged on.
        mask: outside which gradients are set to zero.
        n_steps: steps.
        lr: Adam's step size.
        weight_decay: coupled, of all weights; 0 mends the recipe.

    Raises:
        InputError: paragraphs that the model cannot read, or a mask of another model.
    """
    for rows in (change, keep):
        rows.check(model)
    mask.check(model)
    with torch.no_grad():
        frozen = continuation_logits(model, keep).log_softmax(-1)
    losses = []
    with torch.inference_mode(mode=False), trainable(model) as parameters:
        kept = {name: _inside(mask, name, weight) for name, weight in parameters.items()}
        before = {name: weight.grad for name, weight in parameters.items()}
        optimizer = torch.optim.Adam(parameters.values(), lr=lr, weight_decay=weight_decay)
        for _ in range(n_steps):
            with torch.enable_grad():
                logits = continuation_logits(model, change)
                loss = contrastive(logits, change, continuation_logits(model, keep), frozen)
                found = torch.autograd.grad(loss, list(parameters.values()))
            for (name, weight), gradient in zip(parameters.items(), found, strict=True):
                weight.grad = gradient * kept[name]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        for name, weight in parameters.items():
            weight.grad = before[name]
    return losses


def _inside(mask: WeightMask, name: str, weight: torch.Tensor) -> torch.Tensor:
    inside = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    inside[mask.of(name).long().to(weight.device)] = True
    return inside.reshape(weight.shape)
