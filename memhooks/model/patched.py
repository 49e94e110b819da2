"""Puts other activations in place for the length of a `with` block, at chosen positions and heads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import index

import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.hook_names import Place, find_hook
from memhooks.model.hooks import hooked
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.model.watched import kind

_BY_QUERY = ("hook_pattern", "hook_attn_scores")  # [batch head query key]; all others [batch pos ...]
_BY_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_result")
_BY_HEAD += ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")


@contextmanager
def patched(
    model: HookedModel,
    place: Place,
    clean: Tensor,
    *,
    at: int | Int[Tensor, " position"] | None = None,
    heads: Sequence[int] | None = None,
) -> Iterator[None]:
    """Inside the block the hook point carries `clean`, at the chosen positions and heads.

    Args:
        model: in eval mode.
        place: hook name, or short name and layer.
        clean: an activation of the same hook point and shape, such as one of `recorded`.
        at: one position for all rows, or each row's own; all positions by default. For
            attention patterns and scores it is the query's.
        heads: only these, at hook points with heads; all by default.

    Raises:
        InputError: as `hooked`; a position or head out of range; or an activation of another shape.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> recited = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> unseen = memhooks.load_controls().select(slice(0, 2))
        >>> with memhooks.recorded(model, ("z", 0)) as store:
        ...     logits = model(unseen.tokens)
        >>> with memhooks.patched(model, ("z", 0), store["z", 0], heads=[5]):
        ...     found = memhooks.recitation(model, recited)
        >>> found["exact_match"].values < 50
        array([ True,  True])
    """
    name = find_hook(model, place)
    chosen = _chosen(model, name, clean, at, heads)

    def patch(activation: Tensor, hook: HookPoint) -> Tensor:
        if activation.shape != clean.shape:
            raise InputError(
                f"{name} has shape {tuple(activation.shape)}, the patch {tuple(clean.shape)}; "
                "take it from as many rows of the same length"
            )
        if activation.dtype != clean.dtype:
            raise InputError(
                f"{name} is {activation.dtype}, the patch {clean.dtype}; convert it with .to() if you mean it"
            )
        return torch.where(chosen.to(activation.device), clean.to(activation.device), activation)

    with hooked(model, [(name, patch)]):
        yield


def _chosen(
    model: HookedModel,
    name: str,
    clean: Tensor,
    at: int | Tensor | None,
    heads: Sequence[int] | None,
) -> Tensor:
    """Where the patch goes: booleans that broadcast over the activation.

    Raises:
        InputError: the hook point has no such axis, position or head.
    """
    point = name.rsplit(".", 1)[-1]
    pos_axis, head_axis = (2, 1) if point in _BY_QUERY else (1, 2 if point in _BY_HEAD else None)
    if clean.ndim <= max(pos_axis, head_axis or 0):
        raise InputError(f"the patch for {name} must have all axes of its activation, got shape {tuple(clean.shape)}")
    chosen = torch.ones((1,) * clean.ndim, dtype=torch.bool)
    if at is not None:
        chosen = chosen & _at_positions(clean, at, pos_axis)
    if heads is not None:
        if head_axis is None:
            raise InputError(f"{name} has no heads; patch heads at z, q, k, v, pattern or attn_scores")
        chosen = chosen & _at_heads(model, clean, heads, head_axis)
    return chosen


def _at_positions(clean: Tensor, at: int | Tensor, axis: int) -> Tensor:
    n_rows, n_pos = clean.shape[0], clean.shape[axis]
    rows = at.cpu() if isinstance(at, Tensor) else torch.full((n_rows,), index(at))
    if rows.shape != (n_rows,) or rows.is_floating_point() or rows.dtype == torch.bool:
        raise InputError(f"at must be one position or one integer per row, {n_rows} in all, got {kind(rows)}")
    if int(rows.min()) < 0 or int(rows.max()) >= n_pos:
        raise InputError(f"positions must lie in 0..{n_pos - 1}, got {int(rows.min())}..{int(rows.max())}")
    hit = rows[:, None] == torch.arange(n_pos)
    return hit.reshape([n_rows if i == 0 else n_pos if i == axis else 1 for i in range(clean.ndim)])


def _at_heads(model: HookedModel, clean: Tensor, heads: Sequence[int], axis: int) -> Tensor:
    n_heads = model.cfg.n_heads
    if not len(heads) or any(isinstance(head, bool) or not 0 <= index(head) < n_heads for head in heads):
        raise InputError(f"heads must be numbers in 0..{n_heads - 1}, got {list(heads)}")
    hit = torch.isin(torch.arange(n_heads), torch.tensor(list(map(index, heads))))
    return hit.reshape([n_heads if i == axis else 1 for i in range(clean.ndim)])
