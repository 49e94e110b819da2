"""Where did a perturbation do most, and is it one of these paragraphs?

The effects that `perturb` returns are read by several measurements; what they share is here.
"""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int, Num
from torch import Tensor

from memhooks.errors import InputError
from memhooks.paragraphs.paragraphs import Paragraphs

EFFECT_AXES = ("paragraph", "draw", "pos")


def check_effect(effect: xr.Dataset, paragraphs: Paragraphs) -> None:
    """Refuse effects of other paragraphs, by their ids and prefix positions, and of several tokens at once.

    Raises:
        InputError: it is no result of `perturb`, a cumulative one, or of other paragraphs or another prefix length.
    """
    if not set(EFFECT_AXES) <= set(effect.dims):
        raise InputError(
            "expected a result of perturb, over paragraph, draw and pos; "
            f"got one over {', '.join(map(str, effect.dims)) or 'nothing'}"
        )
    if effect.attrs.get("cumulative"):
        raise InputError("expected the effect of one replaced token at a time, got a cumulative one")
    ids = tuple(map(str, effect["paragraph"].values))
    if ids != paragraphs.ids:
        raise InputError(
            f"the effect is of {len(ids)} paragraphs, {ids[0]}..{ids[-1]}, but {len(paragraphs)} others came, "
            f"{paragraphs.ids[0]}..{paragraphs.ids[-1]}; give those that were perturbed, in their order"
        )
    positions = effect["pos"].values.tolist()
    if positions != list(range(paragraphs.n_prefix)):
        raise InputError(
            f"the effect must cover every prefix position, 0..{paragraphs.n_prefix - 1}, "
            f"got {len(positions)}: {positions[0]}..{positions[-1]}"
        )


def drops(effect: xr.Dataset, name: str) -> Num[np.ndarray, "paragraph draw pos"]:
    """One of the measures of damage that the effect holds, such as `nll_rise` or `em_drop`.

    Raises:
        InputError: it does not hold this one.
    """
    known = [str(each) for each, values in effect.items() if set(values.dims) == set(EFFECT_AXES)]
    known = [each for each in known if each != "replacement"]
    if name not in known:
        raise InputError(f"the effect has no drops called {name!r}; it has {', '.join(known) or 'none'}")
    return effect[name].transpose(*EFFECT_AXES).values


def worst_place(effect: xr.Dataset) -> tuple[Int[Tensor, " paragraph"], Int[Tensor, " paragraph"]]:
    """The draw and the position of each paragraph's largest rise in NLL; of equals the first draw, then position."""
    rise = drops(effect, "nll_rise")
    place = torch.from_numpy(rise.reshape(len(rise), -1).argmax(1))
    return place // rise.shape[2], place % rise.shape[2]


def replaced(
    paragraphs: Paragraphs,
    effect: xr.Dataset,
    row: Int[Tensor, " variant"],
    draw: Int[Tensor, " variant"],
    pos: Int[Tensor, " variant"],
) -> Int[Tensor, "variant pos"]:
    """The tokens of paragraph `row` with the one at `pos` replaced as in `draw`, for each variant."""
    other = torch.from_numpy(effect["replacement"].transpose(*EFFECT_AXES).values.astype(np.int64))
    tokens = paragraphs.tokens[row]  # a copy: indices, not a slice
    tokens[torch.arange(len(row)), pos] = other[row, draw, pos]
    return tokens
