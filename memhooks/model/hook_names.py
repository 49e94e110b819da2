"""Which hook points are meant: full names, short names with a layer, filters; and what is wrong with the others.

TransformerLens takes a misspelt name in a filter, a filter that matches nothing and a hook
point that is switched off without a word. Here each is an error that says what to write.
"""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from operator import index
from typing import TypeGuard, cast

from transformer_lens.utilities.components_utils import get_act_name

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel

Short = tuple[str, int] | tuple[str, int, str]
Place = str | Short
"""A full hook name, or a short name with its layer: `("z", 3)`, `("scale", 3, "ln1")`."""

Places = Place | Sequence[Place] | Callable[[str], bool]
"""One place, several, or a filter on full names."""

GATES = {
    "hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_attn_in": "use_attn_in",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Hook points that fire only while a flag of the model's configuration is set."""

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def find_hooks(model: HookedModel, places: Places) -> list[str]:
    """The full names of these places, in the order given; a filter leaves out points that are switched off.

    Raises:
        InputError: no such point, one that never fires, or nothing at all.
    """
    if callable(places):
        return _filtered(model, places)
    several = [places] if isinstance(places, str) or _is_short(places) else cast(Sequence[Place], places)
    found = [find_hook(model, place) for place in several]
    if not found:
        raise InputError('no hook points given; pass names such as "blocks.1.attn.hook_z" or ("z", 1)')
    return list(dict.fromkeys(found))


def find_hook(model: HookedModel, place: Place) -> str:
    """The full name of one place.

    Raises:
        InputError: the model has no such point (the message names the nearest), or its flag is off.
    """
    name = full_name(place)
    if name not in model.hook_dict:
        raise InputError(_unknown(model, place, name))
    flag = gate(name)
    if flag is not None and not getattr(model.cfg, flag):
        raise InputError(f"{name} never fires while cfg.{flag} is off; call model.set_{flag}(True) first")
    return name


def full_name(place: Place) -> str:
    """The place as TransformerLens spells it, whether or not a model has it.

    Raises:
        InputError: the place is neither a name nor a short name with a layer.
    """
    if isinstance(place, str):
        return get_act_name(place)
    if not _is_short(place):
        raise InputError(f'a hook point is a name or a pair such as ("z", 3), got {place!r}')
    if any(letter.isdigit() for letter in place[0]):  # TransformerLens would let it override the layer
        raise InputError(f'the layer comes second, as in ("z", 3), got {place!r}')
    return get_act_name(place[0], index(place[1]), place[2] if len(place) == 3 else None)


def gate(name: str) -> str | None:
    """The configuration flag this hook point needs, if any."""
    return GATES.get(name.rsplit(".", 1)[-1])


def layer_of(name: str) -> int | None:
    """The block a hook point belongs to; None for embeddings and the final norm."""
    match = _BLOCK.match(name)
    return None if match is None else int(match[1])


def _filtered(model: HookedModel, wanted: Callable[[str], bool]) -> list[str]:
    matching = [name for name in model.hook_dict if wanted(name)]
    if not matching:
        raise InputError(
            f"the filter matches none of the model's {len(model.hook_dict)} hook points; "
            "memhooks.hook_table(model) lists their names"
        )
    firing = [name for name in matching if (flag := gate(name)) is None or getattr(model.cfg, flag)]
    if not firing:
        flags = ", ".join(sorted({f"cfg.{gate(name)}" for name in matching}))
        raise InputError(
            f"the filter matches only hook points that are switched off ({matching[0]}); "
            f"{flags} is off; call model.set_{gate(matching[0])}(True) first"
        )
    return firing


def _unknown(model: HookedModel, place: Place, name: str) -> str:
    layer = layer_of(name) if isinstance(place, str) else index(place[1])
    if layer is not None and not 0 <= layer < model.cfg.n_layers:
        return f"layer must lie in 0..{model.cfg.n_layers - 1}, got {place!r}"
    if isinstance(place, str) and any(known.endswith(f"hook_{place}") for known in model.hook_dict):
        return f'every layer has a {place!r}; say which, as in ("{place}", 0)'
    same_layer = [known for known in model.hook_dict if layer is None or layer_of(known) == layer]
    near = " or ".join(map(repr, get_close_matches(name, same_layer, n=2, cutoff=0.4)))
    return f"no hook point {place!r}; did you mean {near or 'one of those that memhooks.hook_table(model) lists'}?"


def _is_short(place: object) -> TypeGuard[Short]:
    return (
        isinstance(place, tuple)
        and len(place) in (2, 3)
        and isinstance(place[0], str)
        and hasattr(place[1], "__index__")
        and (len(place) == 2 or isinstance(place[2], str))
    )
