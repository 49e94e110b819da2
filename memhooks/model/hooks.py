"""Runs functions at hook points and records activations for the length of a `with` block; nothing fails silently.

Nothing outlives a block: exactly the hooks it added go when it ends, also by an error or
Ctrl-C, and hooks that were there before stay. A hook that never fired, or that returned
something of another shape or dtype (which would broadcast on), is an error. Recorded
tensors are copies, so a later in-place hook cannot change them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.hook_names import Place, Places, find_hooks, full_name
from memhooks.model.loading import HookedModel, HookPoint

Hook = Callable[..., Tensor | None]
"""`function(activation, hook)`: returns a replacement, or None after reading or editing in place."""


@contextmanager
def hooked(
    model: HookedModel, hooks: Iterable[tuple[Places, Hook]] = (), *, backward: Iterable[tuple[Places, Hook]] = ()
) -> Iterator[None]:
    """Inside the block each hook point runs its function.

    Args:
        model: in eval mode.
        hooks: pairs of hook points (a name, `("z", 3)`, several, or a filter) and a function of the activation.
        backward: the same for the gradient that arrives at the hook point; the backward pass must run in the block.

    Raises:
        InputError: no such hook point, a hook that did not fire, a returned tensor that does not
            fit, train mode, or backward hooks without gradients.
    """
    watched: list[tuple[str, _Watched]] = [
        *((name, _Watched(name, function)) for places, function in hooks for name in find_hooks(model, places)),
        *((name, _WatchedGradient(name, fn)) for places, fn in backward for name in find_hooks(model, places)),
    ]
    if not watched:
        raise InputError("no hooks given; pass (hook name, function) pairs")
    _check_eval(model)
    if any(isinstance(hook, _WatchedGradient) for _, hook in watched):
        check_gradients_enabled()
    with ExitStack() as added:  # takes away the rest even where Ctrl-C stops one
        for name, hook in watched:
            added.callback(_remove_, model.hook_dict[name], hook)
            model.hook_dict[name].add_hook(hook)
        yield
    silent = [f"{name} ({hook.what})" for name, hook in watched if not hook.fired]
    if silent:
        raise InputError(
            f"{len(silent)} of {len(watched)} hooks never fired: {', '.join(silent[:3])}; run the model inside the "
            "block, and not past them (start_at_layer, stop_at_layer)"
        )


class Recording(dict[str, Tensor]):
    """Activations by full hook name; short names work too: `recording["z", 3]`."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[str, Tensor] = {}

    def __missing__(self, place: Place) -> Tensor:
        name = full_name(place)
        if name not in self:
            raise InputError(f"{place!r} was not recorded; recorded: {', '.join(self) or 'nothing yet'}")
        return self[name]

    def gradients(self, loss: Float[Tensor, ""]) -> dict[str, Tensor]:
        """Gradient of the loss with respect to every recorded activation; no parameter's `.grad` is touched.

        Raises:
            InputError: it was recorded without `gradients=True`, or the loss does not depend on an activation.
        """
        if not self._live:
            raise InputError("nothing was recorded with gradients; use recorded(model, names, gradients=True)")
        if not loss.requires_grad:
            raise InputError("the loss has no gradient; compute it inside the block, without torch.no_grad()")
        found = torch.autograd.grad(loss, list(self._live.values()), allow_unused=True)
        grads = dict(zip(self._live, found, strict=True))
        unused = [name for name, grad in grads.items() if grad is None]
        if unused:
            raise InputError(f"the loss does not depend on {', '.join(unused[:3])}")
        return {name: grad for name, grad in grads.items() if grad is not None}


@contextmanager
def recorded(model: HookedModel, places: Places, *, gradients: bool = False) -> Iterator[Recording]:
    """Inside the block every forward pass stores copies of the activations; the last pass stays.

    Args:
        model: in eval mode.
        places: hook names, `("z", 3)`, several of these, or a filter on names.
        gradients: keep the graph, so that `recording.gradients(loss)` works after a forward pass.

    Raises:
        InputError: as `hooked`; or gradients are wanted but switched off.
    """
    names = find_hooks(model, places)
    recording = Recording()
    if gradients:
        check_gradients_enabled()
        repeated = [name for name in names if ".ln1." in name]
        if repeated:
            raise InputError(f"{repeated[0]} fires once each for q, k and v; take the gradient at q, k, v or resid_pre")

    def record(activation: Tensor, hook: HookPoint) -> Tensor | None:
        name = str(hook.name)
        if not gradients:
            recording[name] = activation.detach().clone()
            return None
        _check_has_gradient(activation, name)
        recording[name], recording._live[name] = activation.detach(), activation
        return activation.clone()  # what follows may be edited in place; what was recorded may not

    with hooked(model, [(names, record)]):
        yield recording


def check_gradients_enabled() -> None:
    """Refuse where torch records no gradients.

    Raises:
        InputError: inside `torch.no_grad()` or inference mode, or after `torch.set_grad_enabled(False)`.
    """
    if not torch.is_grad_enabled():
        raise InputError(
            "gradients are wanted but switched off; enter torch.enable_grad() first, "
            "or remove torch.no_grad(), torch.inference_mode() or torch.set_grad_enabled(False)"
        )


class _Watched:
    """A hook that checks what its function returns and remembers that it ran."""

    what = "forward"

    def __init__(self, name: str, function: Hook) -> None:
        self.name, self.function = name, function
        self.fired, self.active = False, True

    def __call__(self, tensor: Tensor, *, hook: HookPoint) -> Tensor | None:
        self.fired = True
        return self._fitting(self.function(tensor, hook=hook), tensor)

    def _fitting(self, result: object, came: Tensor) -> Tensor | None:
        if result is None:
            return None
        if not isinstance(result, Tensor):
            raise InputError(f"the hook at {self.name} must return a tensor or None, got {type(result).__name__}")
        if result.shape != came.shape or result.dtype != came.dtype or result.device != came.device:
            raise InputError(
                f"the hook at {self.name} got {_kind(came)} and returned {_kind(result)}; return the same kind "
                "(TransformerLens would broadcast or cast it without a word)"
            )
        return result


class _WatchedGradient(_Watched):
    what = "backward"

    def __call__(self, tensor: Tensor, *, hook: HookPoint) -> None:
        _check_has_gradient(tensor, self.name)

        def arrived(gradient: Tensor) -> Tensor | None:
            if not self.active:  # a graph may outlive the block; the hook does not
                return None
            self.fired = True
            return self._fitting(self.function(gradient, hook=hook), gradient)

        tensor.register_hook(arrived)


def _remove_(point: HookPoint, hook: _Watched) -> None:
    """Take exactly this hook away, wherever others were added or removed meanwhile."""
    hook.active = False
    for handle in [one for one in point.fwd_hooks if one.user_hook is hook]:
        handle.hook.remove()
        point.fwd_hooks.remove(handle)


def _check_eval(model: HookedModel) -> None:
    training = next((name or "the model" for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise InputError(f"{training} is in train mode, where dropout would pass for an effect; call model.eval()")


def _check_has_gradient(activation: Tensor, name: str) -> None:
    if not activation.requires_grad:
        raise InputError(
            f"gradients are wanted at {name}, but nothing before it requires one; "
            "run the model outside torch.no_grad(), with parameters that require gradients"
        )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"
