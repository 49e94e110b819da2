"""Runs functions at hook points and records activations for the length of a `with` block; nothing fails silently.

Nothing outlives a block: exactly the hooks it added go when it ends, also by an error or
Ctrl-C, and hooks that were there before stay. A hook that never fired, or that returned
something of another shape or dtype (which would broadcast on), is an error. Recorded
tensors are copies, so a later in-place hook cannot change them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.hook_names import Place, Places, find_hooks, full_name
from memhooks.model.loading import HookedModel, HookPoint
from memhooks.model.watched import (
    Hook,
    Watched,
    WatchedGradient,
    check_eval,
    check_gradients_enabled,
    check_has_gradient,
    is_there,
    kind,
    remove_,
)


@contextmanager
def hooked(
    model: HookedModel, hooks: Iterable[tuple[Places, Hook]] = (), *, backward: Iterable[tuple[Places, Hook]] = ()
) -> Iterator[None]:
    """Inside the block each hook point runs its function.

    Args:
        model: in eval mode.
        hooks: pairs of hook points (a name, `("z", 3)`, several, or a filter) and a function, called as
            `function(activation, hook=hook_point)`; it returns a replacement, or None.
        backward: the same for the gradient of what the hook point carries when this hook's turn comes (an edit
            by a hook added later comes after it); the backward pass must run in the block.

    Raises:
        InputError: no such hook point, a hook that did not fire or was removed, a returned tensor that
            does not fit, train mode, or backward hooks without gradients.
    """
    watched: list[tuple[str, Watched]] = [
        *((name, Watched(name, fn)) for places, fn in _pairs(hooks) for name in find_hooks(model, places)),
        *((name, WatchedGradient(name, fn)) for places, fn in _pairs(backward) for name in find_hooks(model, places)),
    ]
    if not watched:
        raise InputError("no hooks given; pass (hook name, function) pairs")
    check_eval(model)
    if any(isinstance(hook, WatchedGradient) for _, hook in watched):
        check_gradients_enabled()
    with ExitStack() as added:  # takes away the rest even where Ctrl-C stops one
        for name, hook in watched:
            added.callback(remove_, model.hook_dict[name], hook)
            model.hook_dict[name].add_hook(hook)
        added.callback(_switch_off, watched)
        yield
        gone = [name for name, hook in watched if not is_there(model.hook_dict[name], hook)]
    check_eval(model)
    if gone:
        raise InputError(
            f"{gone[0]} lost its hook inside the block (model.reset_hooks()?), so what ran after that ran without it"
        )
    silent = [f"{name} ({hook.what})" for name, hook in watched if not hook.fired]
    if silent:
        raise InputError(
            f"{len(silent)} of {len(watched)} hooks never fired: {', '.join(silent[:3])}; run the model inside the "
            "block, and not past them (start_at_layer, stop_at_layer)"
        )


class Activations(dict[str, Tensor]):
    """Tensors by full hook name; short names work too: `recording["z", 3]`, `("z", 3) in recording`."""

    def __missing__(self, place: Place) -> Tensor:
        name = full_name(place)
        if not super().__contains__(name):
            raise InputError(f"{place!r} was not recorded; recorded: {', '.join(self) or 'nothing yet'}")
        return self[name]

    def __contains__(self, place: object) -> bool:
        return super().__contains__(full_name(place) if isinstance(place, str | tuple) else place)

    def __repr__(self) -> str:
        return "\n".join(f"{name} {kind(tensor)}" for name, tensor in self.items()) or "nothing recorded"


class Recording(Activations):
    """What a block recorded."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[str, Tensor] = {}

    def gradients(self, loss: Float[Tensor, ""]) -> Activations:
        """Gradient of the loss with respect to every recorded activation; no parameter's `.grad` is touched.

        Raises:
            InputError: it was recorded without `gradients=True`, or the loss does not depend on an activation.
        """
        if not self._live:
            raise InputError("nothing was recorded with gradients; use recorded(model, names, gradients=True)")
        if not loss.requires_grad:
            raise InputError("the loss has no gradient; compute it inside the block, without torch.no_grad()")
        found = torch.autograd.grad(loss, list(self._live.values()), allow_unused=True, retain_graph=True)
        grads = dict(zip(self._live, found, strict=True))
        unused = [name for name, grad in grads.items() if grad is None]
        if unused:
            raise InputError(f"the loss does not depend on {', '.join(unused[:3])}")
        return Activations({name: grad for name, grad in grads.items() if grad is not None})


@contextmanager
def recorded(model: HookedModel, places: Places, *, gradients: bool = False) -> Iterator[Recording]:
    """Inside the block every forward pass stores copies of the activations; the last pass stays.

    Args:
        model: in eval mode.
        places: hook names, `("z", 3)`, several of these, or a filter on names.
        gradients: keep the graph of one forward pass, so that `recording.gradients(loss)` works.

    Raises:
        InputError: as `hooked`; gradients are wanted but switched off; or the recording mixes different passes.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> with memhooks.recorded(model, [("pattern", 1), ("resid_post", 7)]) as store:
        ...     logits = model(rows.tokens)
        >>> store["pattern", 1].shape
        torch.Size([2, 8, 100, 100])
        >>> store["resid_post", 7].shape
        torch.Size([2, 100, 256])
    """
    names = find_hooks(model, places)
    recording, n_fired = Recording(), Counter[str]()
    if gradients:
        check_gradients_enabled()
        repeated = [name for name in names if ".ln1." in name]
        if repeated:
            raise InputError(f"{repeated[0]} fires once each for q, k and v; take the gradient at q, k, v or resid_pre")

    def record(activation: Tensor, hook: HookPoint) -> Tensor | None:
        name = str(hook.name)
        n_fired[name] += 1
        if not gradients:
            recording[name] = activation.detach().clone()
            return None
        check_has_gradient(activation, name)
        if name in recording:
            raise InputError("one recording holds the gradients of one forward pass; use a block for each pass")
        recording[name], recording._live[name] = activation.detach(), activation
        return activation.clone()  # what follows may be edited in place; what was recorded may not

    with hooked(model, [(names, record)]):
        yield recording
    _check_same_passes(n_fired)


def _pairs(hooks: Iterable[Any]) -> list[tuple[Places, Hook]]:
    """The pairs, each of them one.

    Raises:
        InputError: something else is among them, or a function that cannot be called as hooks are.
    """
    pairs = list(hooks)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not callable(pair[1]):
            raise InputError(f'hooks are a list of pairs, [(("z", 3), function)], got {pair!r:.80}')
        try:
            signature(pair[1]).bind(None, hook=None)
        except ValueError:  # some functions written in C do not tell
            continue
        except TypeError as error:
            raise InputError(f"hooks are called as function(activation, hook=hook_point), but {error}") from error
    return pairs


def _switch_off(watched: list[tuple[str, Watched]]) -> None:
    for _, hook in watched:
        hook.active = False


def _check_same_passes(n_fired: Counter[str]) -> None:
    once = {name: n for name, n in n_fired.items() if ".ln1." not in name}  # which fires for q, k and v
    if len(set(once.values())) > 1:
        most, fewest = max(once, key=once.__getitem__), min(once, key=once.__getitem__)
        raise InputError(
            f"the recording mixes passes: {most} ran {once[most]} times, {fewest} {once[fewest]}; "
            "use a block for each pass, or run all passes through the same layers"
        )
