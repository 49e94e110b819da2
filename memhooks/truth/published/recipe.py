"""The published fine-tuning with its leak and without, for unlearning and for editing.

Gradients are set to zero outside the mask; then Adam steps with a coupled weight decay of 1, which is a gradient of its
own: with the leak (as published) the decay pulls at every weight, without it at those of the mask alone. That is all
in which the two differ. Editing has the published misalignment: labels are the perturbed paragraph's continuation,
their context the original text.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import continuation_logits, contrastive
from memhooks.model.components import trainable
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.published_recipe import LR, N_STEPS, WEIGHT_DECAY


def published_steps_(
    model: HookedModel,
    change: Paragraphs,
    keep: Paragraphs,
    mask: WeightMask,
    *,
    labels: Paragraphs | None = None,
    leak: bool = True,
    n_steps: int = N_STEPS,
) -> list[float]:
    """Fine-tune in place; returns the loss before each step, in nats.

    Args:
        model: changed in place: every weight of the grid with the leak, those of the mask without.
        change: the paragraphs to change.
        keep: paragraphs that hold the model, with its own continuations.
        mask: outside which gradients are set to zero.
        labels: perturbed twins, to edit towards their continuations; None unlearns.
        leak: let the decay pull at every weight, as published.
        n_steps: updates; the code takes 5, the paper says 10.

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
        inside = {name: _inside(mask, name, weight) for name, weight in parameters.items()}
        before = {name: weight.grad for name, weight in parameters.items()}
        optimizer = torch.optim.Adam(parameters.values(), lr=LR)
        try:
            for _ in range(n_steps):
                with torch.enable_grad():
                    logits, kept = continuation_logits(model, change), continuation_logits(model, keep)
                    loss = contrastive(logits, labels or change, kept, frozen, edit=labels is not None)
                    found = torch.autograd.grad(loss, list(parameters.values()))
                for (name, weight), gradient in zip(parameters.items(), found, strict=True):
                    decay = WEIGHT_DECAY * weight.detach()
                    weight.grad = gradient * inside[name] + (decay if leak else decay * inside[name])
                optimizer.step()
                losses.append(float(loss.detach()))
        finally:  # also when it is interrupted
            for name, weight in parameters.items():
                weight.grad = before[name]
    return losses


def _inside(mask: WeightMask, name: str, weight: Tensor) -> Bool[Tensor, "*shape"]:
    chosen = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    chosen[mask.of(name).long().to(weight.device)] = True
    return chosen.reshape(weight.shape)
