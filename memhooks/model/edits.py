"""Puts other activations in place for the length of a `with` block: patches at positions and heads, ablated parts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Unpack, assert_never, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.checks import check_tokens
from memhooks.model.hook_names import Place, find_hook
from memhooks.model.hooks import Hook, hooked, recorded
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.model.means import ActivationMeans
from memhooks.model.parts import Parts, Slot, slots

How = Literal["zero", "mean", "resample", "noise"]

_BY_QUERY = ("hook_pattern", "hook_attn_scores")  # [batch head query key]; all others [batch pos ...]
_BY_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_result", "hook_q_input", "hook_k_input", "hook_v_input")


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
    """
    name = find_hook(model, place)
    chosen = _chosen(model, name, clean, at, heads)

    def patch(activation: Tensor, hook: HookPoint) -> Tensor:
        if activation.shape != clean.shape:
            raise InputError(
                f"{name} has shape {tuple(activation.shape)}, the patch {tuple(clean.shape)}; "
                "take it from as many rows of the same length"
            )
        return torch.where(chosen.to(activation.device), clean.to(activation), activation)

    with hooked(model, [(name, patch)]):
        yield


@contextmanager
def ablated(
    model: HookedModel,
    *,
    how: How = "zero",
    means: ActivationMeans | None = None,
    source: Int[Tensor, "source pos"] | None = None,
    seed: int = 0,
    scale: float = 1.0,
    **parts: Unpack[Parts],
) -> Iterator[None]:
    """Inside the block the given parts do not do their work.

    Args:
        model: in eval mode.
        how: `"zero"` silences; `"mean"` puts the mean over a set of texts there (`means`);
            `"resample"` what the part does on another text (`source`); `"noise"` adds Gaussian noise.
        means: of `activation_means`, for `how="mean"`.
        source: rows of the same length as the texts measured, for `how="resample"`. The n-th row
            measured in the block meets one source row, the same one for all parts.
        seed: order of the source rows, and the noise.
        scale: noise in standard deviations of the whole activation, row by row.
        **parts: `heads`, `neurons`, `edges`, `mlp_layers`, `attention_layers` (see `Parts`).

    Raises:
        InputError: as `hooked`; no parts or parts the model lacks; or what `how` needs is missing or does not fit.
    """
    where = slots(model, parts)
    _check_ingredients(how, means, source, scale)
    names = list(dict.fromkeys(slot.hook_name for slot in where))
    match how:
        case "zero":
            fill: Hook = _zero
        case "mean":
            fill = _mean_fill(model, names, means)
        case "resample":
            fill = _resample_fill(model, names, source, seed)
        case "noise":
            fill = _noise_fill(scale, seed)
        case _:
            assert_never(how)
    with hooked(model, [(slot.hook_name, _replace(slot, fill)) for slot in where]):
        yield


def _replace(slot: Slot, fill: Hook) -> Hook:
    def replace(activation: Tensor, hook: HookPoint) -> Tensor:
        mixed, other = activation.clone(), fill(activation, hook)
        try:
            mixed[slot.index] = other[slot.index]  # pyright: ignore[reportOptionalSubscript]
        except IndexError as error:  # only edges can lie outside: their text is shorter than their query
            raise InputError(f"{hook.name} has shape {tuple(activation.shape)}, too short for the edges") from error
        return mixed

    return replace


def _zero(activation: Tensor, hook: HookPoint) -> Tensor:
    return torch.zeros_like(activation)


def _mean_fill(model: HookedModel, names: list[str], means: ActivationMeans | None) -> Hook:
    if means is None:
        raise InputError('how="mean" needs means=activation_means(model, rows)')
    means.check_model(model)
    for name in names:
        means.check_covers(name)
    return lambda activation, hook: means.at(str(hook.name), activation)


def _resample_fill(model: HookedModel, names: list[str], source: Tensor | None, seed: int) -> Hook:
    if source is None:
        raise InputError('how="resample" needs source=, rows of other texts such as controls.tokens')
    check_tokens(model, source)
    with torch.no_grad(), recorded(model, names) as others:
        model(source.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    n_seen = dict.fromkeys(names, 0)  # every part sees the same rows, so all count alike

    def resample(activation: Tensor, hook: HookPoint) -> Tensor:
        name, other = str(hook.name), others[str(hook.name)]
        if other.shape[1:] != activation.shape[1:]:
            raise InputError(
                f"{name} has shape {tuple(activation.shape[1:])}, the source's {tuple(other.shape[1:])}; "
                "give source rows of the same length"
            )
        rows = order[(n_seen[name] + torch.arange(len(activation))) % len(order)]
        n_seen[name] += len(activation)
        return other[rows.to(other.device)]

    return resample


def _noise_fill(scale: float, seed: int) -> Hook:
    generator = torch.Generator().manual_seed(seed)

    def add_noise(activation: Tensor, hook: HookPoint) -> Tensor:
        deviation = activation.flatten(1).std(1).reshape(-1, *[1] * (activation.ndim - 1))
        noise = torch.randn(activation.shape, generator=generator, dtype=torch.float32)
        return activation + scale * deviation * noise.to(activation)

    return add_noise


def _check_ingredients(how: str, means: ActivationMeans | None, source: Tensor | None, scale: float) -> None:
    if how not in get_args(How):
        raise InputError(f"how must be one of {', '.join(get_args(How))}, got {how!r}")
    for needed, name, given in (("mean", "means", means), ("resample", "source", source)):
        if given is not None and how != needed:
            raise InputError(f'{name}= is only for how="{needed}", got how="{how}"')
    if not scale > 0:
        raise InputError(f"scale must be above 0, got {scale}")


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
    rows = torch.full((n_rows,), at) if isinstance(at, int) else at.cpu().long()
    if rows.shape != (n_rows,):
        raise InputError(f"one position per row is needed, {n_rows} in all, got shape {tuple(rows.shape)}")
    if int(rows.min()) < 0 or int(rows.max()) >= n_pos:
        raise InputError(f"positions must lie in 0..{n_pos - 1}, got {int(rows.min())}..{int(rows.max())}")
    hit = rows[:, None] == torch.arange(n_pos)
    return hit.reshape([n_rows if i == 0 else n_pos if i == axis else 1 for i in range(clean.ndim)])


def _at_heads(model: HookedModel, clean: Tensor, heads: Sequence[int], axis: int) -> Tensor:
    n_heads = model.cfg.n_heads
    if not len(heads) or min(heads) < 0 or max(heads) >= n_heads:
        raise InputError(f"heads must lie in 0..{n_heads - 1}, got {list(heads)}")
    hit = torch.isin(torch.arange(n_heads), torch.tensor(list(heads)))
    return hit.reshape([n_heads if i == axis else 1 for i in range(clean.ndim)])
