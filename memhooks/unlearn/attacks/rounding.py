"""Rounded weights: does what was forgotten come back when the model is stored in fewer bits?

`int8` and `int4` are round to nearest, symmetric, with one scale per row: the largest |weight| of the row is 127 or 7
codes. A row holds the weights that write one output number: a unit of d_mlp for W_in, of the residual stream for W_out
and W_O (over all heads), of one head's query, key or value for W_Q, W_K and W_V. `bf16` casts. All three are of the six
matrices; embeddings, norms and biases stay, and the passes themselves run in the model's own dtype.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.unlearn.delta import Delta
from memhooks.unlearn.unlearning import restored

Format = Literal["int8", "int4", "bf16"]
LARGEST = {"int8": 127, "int4": 7}
"""Largest code of each integer format; the smallest is minus that."""


@contextmanager
def rounded(model: HookedModel, to: Format) -> Iterator[HookedModel]:
    """Inside the block the matrices hold rounded values; after it every weight is bit for bit what it was.

    Raises:
        InputError: an unknown format, or a weight that is not a number.
    """
    check_format(to)
    with restored(model):
        with torch.no_grad():
            for name, weight in component_parameters(model).items():
                weight.copy_(rounded_values(name, weight.detach(), to))
        yield model


def rounded_values(name: str, weight: Float[Tensor, "..."], to: Format) -> Float[Tensor, "..."]:
    """A parameter's values as the format holds them.

    Raises:
        InputError: a weight that is not a number.
    """
    if to == "bf16":
        return weight.to(torch.bfloat16).to(weight)
    step = code_step(name, weight, to)
    return codes(name, weight, to) * step


def codes(name: str, weight: Float[Tensor, "..."], to: Format) -> Float[Tensor, "..."]:
    """A parameter's integer codes, or for `bf16` its values there; a row of zeros has codes 0.

    Raises:
        InputError: a weight that is not a number.
    """
    if to == "bf16":
        return weight.to(torch.bfloat16).to(weight)
    step = code_step(name, weight, to)
    return torch.where(step > 0, weight / step, torch.zeros_like(weight)).round()


def code_step(name: str, weight: Float[Tensor, "..."], to: Format) -> Float[Tensor, "..."]:
    """The distance of neighbouring codes of each row, broadcast against the parameter: |largest| / 127 or / 7.

    Raises:
        InputError: `bf16`, which has no fixed step, or a weight that is not a number.
    """
    if to not in LARGEST:
        raise InputError(f"only {' and '.join(LARGEST)} have a fixed step, got {to!r}")
    if not torch.isfinite(weight).all():
        raise InputError(f"{name} holds NaN or infinity, which cannot be rounded")
    return weight.abs().amax(_inputs(name), keepdim=True) / LARGEST[to]


def surviving_share(delta: Delta, model: HookedModel, to: Format) -> float:
    """Share of the weights moved by a delta whose code differs before and after, 0 = rounding undoes all of it.

    Args:
        delta: the change, not applied.
        model: that it was made from.
        to: the format.

    Returns:
        A number from 0 to 1; NaN if nothing moved.

    Raises:
        InputError: an unknown format, or a delta of another model.
    """
    check_format(to)
    weights = component_parameters(model)
    before = {name: codes(name, weights[name].detach(), to) for name in delta.indices if name in weights}
    changed = moved = 0
    with delta.applied(model):
        for name, old in before.items():
            own = delta.indices[name].long().to(old.device)
            differs = (codes(name, weights[name].detach(), to) != old).flatten()[own].cpu()
            touched = delta.old[name] != delta.new[name]
            changed += int((differs & touched).sum())
            moved += int(touched.sum())
    return changed / moved if moved else np.nan


def check_format(to: str) -> None:
    """Refuse a format that is none.

    Raises:
        InputError: it is unknown.
    """
    if to not in get_args(Format):
        raise InputError(f"weights are rounded to {', '.join(get_args(Format))}, got {to!r}")


def _inputs(name: str) -> tuple[int, ...]:
    """The dimensions of a parameter along which one output number reads."""
    matrix = name.rpartition(".")[2]
    return {"W_in": (0,), "W_out": (0,), "W_O": (0, 1)}.get(matrix, (1,))
