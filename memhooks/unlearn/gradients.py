"""The gradient of chosen weights alone: no graph through the weights, no products that nobody asked for.

A weight's gradient is the product of what its row reads and what pulls on its column, summed over tokens. Where few
entries of a matrix are chosen, only their products are taken; where many are, the whole matrix product is faster.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.loading import HookedModel
from memhooks.model.replay.backward import Matrix, trace
from memhooks.paragraphs.paragraphs import Paragraphs

_SPARSE = 1 / 64
"""Share of a matrix's entries below which single products are taken."""

_MOST = 2**22
"""Single products at a time."""


@dataclass(frozen=True)
class _Place:
    """Where a matrix's chosen entries stand, in the layout of `Matrix`."""

    rows: Int[Tensor, " chosen"]
    columns: Int[Tensor, " chosen"]
    share: float


class MaskedGradients:
    """Gradients of a mask's entries as one vector, parameter by parameter in the mask's order."""

    def __init__(self, model: HookedModel, mask: WeightMask) -> None:
        self._model = model
        self._places = {
            name: _place(model, name, own.long().to(model.cfg.device), mask.sizes[name])
            for name, own in mask.indices.items()
            if len(own)
        }

    def __call__(
        self, rows: Paragraphs, losses: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, " loss"], Float[Tensor, " chosen"]]:
        """Losses of a pass over `rows`, from the logits that predict their continuations; the gradient of their sum."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            traced = trace(self._model, rows.tokens, first=rows.n_prefix)
            found = losses(traced.logits)
            matrices = {one.name: one for one in traced.matrices(found, names=self._places)}
        parts = [_entries(matrices[name], place) for name, place in self._places.items()]
        return found.detach(), torch.cat(parts)


def _place(model: HookedModel, name: str, own: Int[Tensor, " chosen"], size: int) -> _Place:
    d_model, d_head = model.cfg.d_model, model.cfg.d_head
    if ".mlp." in name:
        width = dict(model.named_parameters())[name].shape[1]
        rows, columns = own // width, own % width
    elif name.endswith("W_O"):  # [head, d_head, d_model]: the heads' rows lie one after the other
        rows, columns = own // d_model, own % d_model
    else:  # [head, d_model, d_head], whose gradient comes as [head d_head, d_model]
        head, within = own // (d_model * d_head), own % (d_model * d_head)
        rows, columns = head * d_head + within % d_head, within // d_head
    return _Place(rows, columns, len(own) / size)


def _entries(one: Matrix, place: _Place) -> Float[Tensor, " chosen"]:
    read, pulled = one.rows.flatten(0, 1), one.columns.flatten(0, 1)
    if place.share > _SPARSE:
        return (read.T @ pulled)[place.rows, place.columns]
    read, pulled = read.T.contiguous(), pulled.T.contiguous()  # an entry's tokens side by side
    some = max(1, _MOST // read.shape[1])
    return torch.cat(
        [
            torch.linalg.vecdot(read[rows], pulled[columns])
            for rows, columns in zip(place.rows.split(some), place.columns.split(some), strict=True)
        ]
    )
