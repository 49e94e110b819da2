"""A hook that is watched: what it returns is checked, that it ran is remembered, and it can be switched off."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel, HookPoint

Hook = Callable[..., Tensor | None]
"""`function(activation, hook)`: returns a replacement, or None after reading or editing in place."""


class Watched:
    """A forward hook around a user's function; does nothing while it is not `active`."""

    what = "forward"

    def __init__(self, name: str, function: Hook) -> None:
        self.name, self.function = name, function
        self.fired, self.active = False, True

    def __call__(self, tensor: Tensor, *, hook: HookPoint) -> Tensor | None:
        """Run the function and check what it returns."""
        if not self.active:
            return None
        self.fired = True
        return self._fitting(self.function(tensor, hook=hook), tensor)

    def switch_on(self) -> None:
        """Let it run again after `paused`."""
        self.active = True

    def _fitting(self, result: object, came: Tensor) -> Tensor | None:
        if result is None:
            return None
        if not isinstance(result, Tensor):
            raise InputError(f"the hook at {self.name} must return a tensor or None, got {type(result).__name__}")
        if result.shape != came.shape or result.dtype != came.dtype or result.device != came.device:
            raise InputError(
                f"the hook at {self.name} got {kind(came)} and returned {kind(result)}; return the same kind "
                "(TransformerLens would broadcast or cast it without a word)"
            )
        return result


class WatchedGradient(Watched):
    """Runs a user's function on the gradient that arrives at the hook point."""

    what = "backward"

    def __call__(self, tensor: Tensor, *, hook: HookPoint) -> None:
        """Wait for the gradient of what the hook point carries now."""
        if not self.active:
            return
        check_has_gradient(tensor, self.name)

        def arrived(gradient: Tensor) -> Tensor | None:
            if not self.active:  # a graph may outlive the block; the hook does not
                return None
            self.fired = True
            own = gradient.clone()  # autograd gives both branches of a sum the same tensor
            result = self._fitting(self.function(own, hook=hook), gradient)
            return own if result is None else result

        tensor.register_hook(arrived)


@contextmanager
def paused(model: HookedModel) -> Iterator[None]:
    """Inside the block the helpers' hooks that are already there do nothing: for passes of the library's own."""
    handles = [handle for point in model.hook_dict.values() for handle in point.fwd_hooks]
    others = [hook for handle in handles if isinstance(hook := handle.user_hook, Watched) and hook.active]
    with ExitStack() as before:
        for hook in others:
            before.callback(hook.switch_on)
            hook.active = False
        yield


def has_hooks(model: HookedModel) -> bool:
    """Whether anybody's forward hook is on the model, so that only full passes tell what it does."""
    return any(point.fwd_hooks for point in model.hook_dict.values())


def refuse_hooks(model: HookedModel) -> None:
    """Refuse a model with hooks, for sweeps that do not run through them.

    Raises:
        InputError: a hook is on the model.
    """
    if has_hooks(model):
        name = next(name for name, point in model.hook_dict.items() if point.fwd_hooks)
        raise InputError(
            f"this sweep does not run through hooks, and {name} has one; leave its block or remove it first"
        )


def is_there(point: HookPoint, hook: Watched) -> bool:
    """Whether the hook is still on its point."""
    return any(handle.user_hook is hook for handle in point.fwd_hooks)


def remove_(point: HookPoint, hook: Watched) -> None:
    """Take exactly this hook away, wherever others were added or removed meanwhile."""
    hook.active = False
    for handle in list(point.fwd_hooks):
        if handle.user_hook is hook:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)


def check_eval(model: HookedModel) -> None:
    """Refuse a model of which any part is in train mode.

    Raises:
        InputError: it is.
    """
    training = next((name or "the model" for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise InputError(f"{training} is in train mode, where dropout would pass for an effect; call model.eval()")


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


def check_has_gradient(activation: Tensor, name: str) -> None:
    """Refuse an activation that no gradient can reach.

    Raises:
        InputError: nothing before it requires a gradient.
    """
    if not activation.requires_grad:
        raise InputError(
            f"gradients are wanted at {name}, but nothing before it requires one; "
            "run the model outside torch.no_grad(), with parameters that require gradients"
        )


def kind(tensor: Tensor) -> str:
    """Dtype, shape and device in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"
