"""Exchanges some weights of a model for those of its fork, for the length of a `with` block.

Weights that are equal in both forks stay what they are, so that what a swap does is due to what differs.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.loading import HookedModel, is_processed
from memhooks.truth.forks.parts import Part, view


@contextmanager
def swapped(model: HookedModel, other: HookedModel, which: Part | WeightMask) -> Iterator[HookedModel]:
    """Inside the block the chosen weights of `model` are those of `other`; after it all are bit for bit as before.

    Also after an error or one Ctrl-C, even in the middle of writing or undoing; a second Ctrl-C during the undoing may
    leave some weights exchanged. `other` never changes.

    Args:
        model: that is edited.
        other: its fork, with parameters of the same names and shapes.
        which: a part (see `every_part`), or a mask of single weights.

    Raises:
        InputError: the two are no forks of one shape, one is processed, or the model lacks what is chosen.
    """
    check_forks(model, other)
    theirs = dict(other.named_parameters())
    kept: list[tuple[Tensor, Tensor | int | None, Tensor]] = []
    # Undone twice: where Ctrl-C stops the first undo, the second does the rest; else nothing is left for it.
    with ExitStack() as before:
        before.callback(_undo_, kept)
        before.callback(_undo_, kept)
        for weight, name, index in _places(model, which):
            own, new = (_read(one, index) for one in (weight, theirs[name]))
            kept.append((weight, index, own))
            _write_(weight, index, new)
        yield model


def check_forks(model: HookedModel, other: HookedModel) -> None:
    """Refuse two models of which weights cannot change places.

    Raises:
        InputError: one model twice, other names or shapes, another dtype, window or layer types, or processed ones.
    """
    if model is other:
        raise InputError("model and other are the same object; load the fork as a model of its own")
    if is_processed(model) or is_processed(other):
        raise InputError("forks must be loaded with processed=False: folded norms are no weights of their own")
    shapes = [{name: tuple(one.shape) for name, one in each.named_parameters()} for each in (model, other)]
    differ = [name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)]
    if differ:
        first = differ[0]
        raise InputError(
            f"forks have weights of the same names and shapes; {first} is {shapes[0].get(first, 'missing')} in the "
            f"model and {shapes[1].get(first, 'missing')} in the other"
        )
    for setting in ("dtype", "window_size", "attn_types", "act_fn", "eps"):
        own, their = (getattr(each.cfg, setting) for each in (model, other))
        if own != their:
            raise InputError(f"forks have the same {setting}; it is {own} in the model and {their} in the other")


def first_touched(model: HookedModel, which: Part | WeightMask) -> int:
    """The first layer that computes anything new after the swap: -1 = the embedding, `n_layers` = what follows all."""
    if isinstance(which, Part):
        names = [name for name, _ in which.pieces]
    else:
        names = [name for name, own in which.indices.items() if len(own)]
    return min((_depth(name, model.cfg.n_layers) for name in names), default=model.cfg.n_layers)


def _depth(name: str, n_layers: int) -> int:
    if name.startswith("blocks."):
        return int(name.split(".")[1])
    return -1 if name.startswith(("embed.", "pos_embed.")) else n_layers


def _places(model: HookedModel, which: Part | WeightMask) -> list[tuple[Tensor, str, Tensor | int | None]]:
    """Each weight with its name, and which of its entries: one head, flat indices, or None for all.

    Raises:
        InputError: the model lacks what is chosen, or a mask of another model's sizes.
    """
    own = dict(model.named_parameters())
    if isinstance(which, WeightMask):
        wrong = [name for name, size in which.sizes.items() if name not in own or own[name].numel() != size]
        if wrong:
            raise InputError(f"the mask belongs to another model: {wrong[0]} has {which.sizes[wrong[0]]} entries there")
        return [(own[name], name, index.long()) for name, index in which.indices.items() if len(index)]
    for name, head in which.pieces:
        if name not in own or (head is not None and head not in range(len(own[name]))):
            raise InputError(
                f"the model lacks {name}{'' if head is None else f', head {head}'} of the part {which.name}"
            )
    return [(own[name], name, head) for name, head in which.pieces]


def _undo_(kept: list[tuple[Tensor, Tensor | int | None, Tensor]]) -> None:
    """Write back what was there; a piece leaves the list once it is written."""
    while kept:
        _write_(*kept[-1])
        kept.pop()


@torch.no_grad()
def _read(weight: Tensor, index: Tensor | int | None) -> Tensor:
    if isinstance(index, Tensor):
        return weight.detach().flatten()[index.to(weight.device)]
    return view(weight.detach(), ("", index)).clone()


@torch.no_grad()
def _write_(weight: Tensor, index: Tensor | int | None, value: Tensor) -> None:
    if isinstance(index, Tensor):
        weight.view(-1)[index.to(weight.device)] = value.to(weight.device)
    else:
        view(weight, ("", index)).copy_(value)
