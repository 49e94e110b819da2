"""An optimizer that holds the masked entries alone: what it never sees, it cannot move.

1. The chosen entries of all parameters are gathered into one vector.
2. torch's own optimizer steps on that vector: its state and its decay are of the chosen entries.
3. The vector is scattered back into the parameters.
Zeroing the gradients outside a mask, as published, does not do it: with decay Adam still moves every weight.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.decoding import at_least_float32
from memhooks.unlearn.recipe import Recipe

_LANES = 64
"""The vector is padded to a multiple of these, as dense parameters are: torch rounds otherwise at a ragged end."""


class MaskedOptimizer:
    """Adam, AdamW or SGD with momentum on the entries of a mask.

    Attributes:
        values: the chosen entries, parameter by parameter in the mask's order; float32 where the model has less.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], mask: WeightMask, recipe: Recipe) -> None:
        chosen = [name for name, own in mask.indices.items() if len(own)]
        self._parameters = [parameters[name] for name in chosen]
        self._indices = [mask.indices[name].long().to(parameters[name].device) for name in chosen]
        gathered = self.gathered({name: parameters[name] for name in chosen})
        self._n = len(gathered)
        padding = gathered.new_zeros(-self._n % _LANES)
        self._padded = torch.cat([gathered, padding])
        self._inner = _optimizer(self._padded, recipe)

    @property
    def values(self) -> Float[Tensor, " chosen"]:
        """The chosen entries as they are; shares the optimizer's memory."""
        return self._padded[: self._n]

    @property
    def n_bytes(self) -> int:
        """What is held beside the model: entries, indices and the optimizer's state."""
        state = [one for own in self._inner.state.values() for one in own.values()]
        held = [self._padded, *self._indices, *(one for one in state if isinstance(one, Tensor))]
        return sum(one.numel() * one.element_size() for one in held)

    def gathered(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, " chosen"]:
        """The chosen entries of tensors of the parameters' shapes, such as gradients."""
        found = [one.detach().flatten()[own] for one, own in zip(tensors.values(), self._indices, strict=True)]
        return at_least_float32(torch.cat(found))

    def step_(self, gradient: Float[Tensor, " chosen"]) -> None:
        """One step with the chosen entries' gradient, written into the model."""
        padded = torch.zeros_like(self._padded)
        padded[: self._n] = gradient
        self._padded.grad = padded
        with torch.inference_mode(mode=False):
            self._inner.step()
        self._padded.grad = None
        self.write_(self.values)

    @torch.no_grad()
    def write_(self, values: Float[Tensor, " chosen"]) -> None:
        """Put these values into the model, and go on from them."""
        self.values.copy_(values)
        start = 0
        for parameter, own in zip(self._parameters, self._indices, strict=True):
            parameter.view(-1)[own] = values[start : start + len(own)].to(parameter)
            start += len(own)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside `values`, as tensors."""
        own = self._inner.state.get(self._padded, {})
        return {name: one.clone() for name, one in own.items() if isinstance(one, Tensor)}

    def resume_(self, values: Float[Tensor, " chosen"], state: Mapping[str, Tensor]) -> None:
        """Go on as the optimizer that `state` was taken from.

        Raises:
            InputError: the values or the state are of another run.
        """
        first = (
            {"step", "exp_avg", "exp_avg_sq"} if not isinstance(self._inner, torch.optim.SGD) else {"momentum_buffer"}
        )
        if values.shape != self.values.shape or set(state) - first or (state and first - set(state)):
            raise InputError("the checkpoint does not fit this run; delete it to start anew")
        if any(one.shape != self._padded.shape for name, one in state.items() if name != "step"):
            raise InputError("the checkpoint does not fit this run; delete it to start anew")
        device = self._padded.device
        self.write_(values.to(device))
        if state:  # the step count stays where torch keeps it, on the CPU
            self._inner.state[self._padded] = {
                name: one.clone() if name == "step" else one.to(device, copy=True) for name, one in state.items()
            }


def _optimizer(values: Tensor, recipe: Recipe) -> torch.optim.Optimizer:
    match recipe.optimizer:
        case "adam":
            return torch.optim.Adam([values], lr=recipe.lr, weight_decay=recipe.weight_decay)
        case "adamw":
            return torch.optim.AdamW([values], lr=recipe.lr, weight_decay=recipe.weight_decay)
        case _:
            return torch.optim.SGD([values], lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
