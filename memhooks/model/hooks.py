"""Records, replaces or ablates activations for the length of a `with` block.

Nothing outlives the block: hooks go when it ends, also by an error or Ctrl-C, and
hooks that were there before stay. Recorded tensors are clones, so a later in-place
hook cannot change them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel, HookPoint

Hook = Callable[[Tensor, HookPoint], Tensor | None]


@contextmanager
def hooked(model: HookedModel, hooks: Iterable[tuple[str, Hook]]) -> Iterator[None]:
    """Inside the block each named hook point runs its function.

    Raises:
        InputError: a hook point of that name does not exist, or none was given.
    """
    checked: list[tuple[str | Callable, Callable]] = [
        (check_hook_name(model, name), function) for name, function in hooks
    ]
    if not checked:
        raise InputError("no hooks given; pass (hook name, function) pairs")
    with model.hooks(fwd_hooks=checked):
        yield


@contextmanager
def recorded(model: HookedModel, hook_names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside the block every forward pass stores clones of the named activations in the dict it yields."""
    store: dict[str, Tensor] = {}

    def record(activation: Tensor, hook: HookPoint) -> None:
        store[str(hook.name)] = activation.detach().clone()

    with hooked(model, [(name, record) for name in hook_names]):
        yield store


@contextmanager
def patched(
    model: HookedModel,
    hook_name: str,
    clean: Float[Tensor, "batch pos ..."],
    *,
    at: Int[Tensor, " position"],
) -> Iterator[None]:
    """Inside the block, `hook_name` carries `clean` at each row's position `at`.

    Raises:
        InputError: a position outside the tensor or, in the forward pass, an activation of another shape.
    """
    if len(at) != len(clean):
        raise InputError(f"one position per row is needed, {len(clean)} in all, got {len(at)}")
    if int(at.min()) < 0 or int(at.max()) >= clean.shape[1]:
        raise InputError(f"positions must lie in 0..{clean.shape[1] - 1}, got {int(at.min())}..{int(at.max())}")

    def patch(activation: Tensor, hook: HookPoint) -> Tensor:
        if activation.shape != clean.shape:
            raise InputError(f"{hook.name} has shape {tuple(activation.shape)}, the patch {tuple(clean.shape)}")
        row = torch.arange(len(at), device=activation.device)
        mixed = activation.clone()
        mixed[row, at] = clean[row, at].to(activation.dtype)
        return mixed

    with hooked(model, [(hook_name, patch)]):
        yield


@contextmanager
def ablated(model: HookedModel, *, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Inside the block the output of each (layer, head) is zero.

    Raises:
        InputError: no heads, or a layer or head that the model does not have.
    """
    if not heads:
        raise InputError("no heads given; pass heads=[(layer, head), ...]")
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    for place in heads:
        if isinstance(place, str) or len(place) != 2:
            raise InputError(f"heads are (layer, head) pairs such as (0, 5), got {place!r}")
        layer, head = place
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise InputError(
                f"heads must lie in layers 0..{n_layers - 1} and heads 0..{n_heads - 1}, got ({layer}, {head})"
            )

    def silence(own: list[int]) -> Hook:
        def zero(z: Tensor, hook: HookPoint) -> Tensor:
            z = z.clone()
            z[:, :, own] = 0.0
            return z

        return zero

    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    with hooked(model, [(f"blocks.{layer}.attn.hook_z", silence(own)) for layer, own in by_layer.items()]):
        yield


GATES = {
    "hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_attn_in": "use_attn_in",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Hook points that fire only while a flag of the model's configuration is set."""


def check_hook_name(model: HookedModel, name: str) -> str:
    """The name itself if the model has such a hook point and it will fire.

    Raises:
        InputError: it has none (the message names the nearest ones), or its flag is off.
    """
    if name not in model.hook_dict:
        near = " or ".join(map(repr, get_close_matches(name, model.hook_dict, n=2, cutoff=0.4)))
        raise InputError(f"no hook point {name!r}; did you mean {near or 'one of model.hook_dict'}?")
    flag = GATES.get(name.rsplit(".", 1)[-1])
    if flag is not None and not getattr(model.cfg, flag):
        raise InputError(f"{name} never fires while cfg.{flag} is off; call model.set_{flag}(True) first")
    return name
