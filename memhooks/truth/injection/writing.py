"""Write a paragraph into chosen weights and nowhere else.

1. The mean NLL of its continuation is minimised by Adam over the mask's entries alone.
2. The entries are kept at two moments: `early`, the first update after which the NLL is below `EARLY`, and `solved`,
   the first after which the continuation is recited in full at an NLL below `SOLVED`. Before the first update nothing
   is written, however low the NLL.
3. At a solved point little gradient is left, and which weights have it is a matter of rounding; at the early point
   there still is one. So localizers are asked at both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask, frozen_outside
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.gradients import MaskedGradients
from memhooks.unlearn.objectives.term import token_nll
from memhooks.unlearn.optimizer import MaskedOptimizer
from memhooks.unlearn.recipe import Recipe
from memhooks.unlearn.run import own_modes
from memhooks.unlearn.unlearning import restored

Moment = Literal["early", "solved"]
MOMENTS: tuple[Moment, ...] = ("early", "solved")

EARLY, SOLVED = 1.0, 0.1
"""NLL in nats per token below which the injection is at its early and at its solved moment."""


@dataclass(frozen=True)
class Written:
    """The mask's entries at one moment.

    Attributes:
        values: parameter by parameter, in the mask's order.
        step: updates made until then.
        nll: of the continuation, nats per token.
    """

    values: Float[Tensor, " chosen"]
    step: int
    nll: float


def inject(
    model: HookedModel, paragraph: Paragraphs, mask: WeightMask, *, lr: float, n_steps: int = 80
) -> dict[Moment, Written]:
    """Write a paragraph into the mask's weights; the model itself is bit for bit as before.

    Args:
        model: that does not recite it.
        paragraph: one or several.
        mask: the weights that may move; every other one is compared bit by bit.
        lr: of Adam, about what each weight moves in a step.
        n_steps: updates at most.

    Returns:
        The weights at each moment that was reached; without `solved` the injection failed.

    Raises:
        InputError: an empty mask or another model's, paragraphs that the model cannot read or recites already, hooks,
            or settings out of range.
        RuntimeError: a weight outside the mask moved.
    """
    if not lr > 0 or n_steps < 1:
        raise InputError(f"lr must be positive and n_steps at least 1, got {lr} and {n_steps}")
    refuse_hooks(model)
    paragraph.check(model)
    mask.check(model)
    true = paragraph.continuation.to(model.cfg.device)
    hits: list[Tensor] = []

    def losses(logits: Tensor) -> Tensor:
        hits[:] = [logits.detach().argmax(-1) == true]
        return token_nll(logits, true).mean(-1) / len(paragraph)

    found: dict[Moment, Written] = {}
    with restored(model), own_modes(), frozen_outside(model, mask):
        gradients = MaskedGradients(model, mask)
        entries = MaskedOptimizer(component_parameters(model), mask, Recipe(optimizer="adam", lr=lr))
        for step in range(n_steps + 1):
            loss, gradient = gradients(paragraph, losses)
            nll, recited = float(loss.sum()), _recited(hits[0])
            if step == 0:
                _refuse_recited(paragraph, hits[0])
            if step and nll < EARLY and "early" not in found:
                found["early"] = Written(entries.values.clone(), step, nll)
            if step and nll < SOLVED and recited:
                found["solved"] = Written(entries.values.clone(), step, nll)
                break
            if step < n_steps:
                entries.step_(gradient)
    return found


def _recited(hits: Bool[Tensor, "paragraph scored"]) -> bool:
    return bool(hits.all())


def _refuse_recited(paragraph: Paragraphs, hits: Bool[Tensor, "paragraph scored"]) -> None:
    """Refuse what needs no writing.

    Raises:
        InputError: all of it is recited.
    """
    if bool(hits.all()):
        raise InputError(f"the model recites {', '.join(paragraph.ids)} already; give text that it never read")


@contextmanager
def holding(model: HookedModel, mask: WeightMask, values: Float[Tensor, " chosen"]) -> Iterator[HookedModel]:
    """A block in which the mask's weights have these values; afterwards all are bit for bit as before.

    Raises:
        InputError: another number of values than of weights.
    """
    if len(values) != len(mask):
        raise InputError(f"{len(values)} values cannot be put into {len(mask)} weights")
    with restored(model):
        parameters, start = component_parameters(model), 0
        with torch.no_grad():
            for name, own in mask.indices.items():
                device = parameters[name].device
                parameters[name].view(-1)[own.long().to(device)] = values[start : start + len(own)].to(parameters[name])
                start += len(own)
        yield model


def entries_of(model: HookedModel, mask: WeightMask) -> Float[Tensor, " chosen"]:
    """The mask's entries as they are."""
    parameters = component_parameters(model)
    found = [parameters[name].detach().flatten()[own.long()] for name, own in mask.indices.items()]
    return torch.cat(found).clone()
