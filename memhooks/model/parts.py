"""The parts of a model that can be silenced: heads, neurons, attention edges, MLP and attention layers.

Each part is a slice of one hook point's activation; this is the only place that knows which.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal, SupportsIndex, TypedDict, TypeGuard, cast, get_args

import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel, layer_type, window_of

Kind = Literal["heads", "neurons", "edges", "mlp_layers", "attention_layers"]


class Parts(TypedDict, total=False):
    """Which parts are meant, as keyword arguments."""

    heads: Sequence[tuple[int, int]]
    """(layer, head): what a head writes, at z."""
    neurons: Sequence[tuple[int, int]]
    """(layer, neuron): hidden units of an MLP, at mlp post."""
    edges: Sequence[tuple[int, int, int, int]]
    """(layer, head, query position, key position): one attention weight, at pattern; the others keep theirs."""
    mlp_layers: Sequence[int]
    """Layers whose MLP writes are replaced, bias included, at mlp_out."""
    attention_layers: Sequence[int]
    """Layers whose attention writes are replaced, bias included, at attn_out."""


SITES: dict[Kind, str] = {
    "heads": "attn.hook_z",
    "neurons": "mlp.hook_post",
    "edges": "attn.hook_pattern",
    "mlp_layers": "hook_mlp_out",
    "attention_layers": "hook_attn_out",
}
_FIELDS: dict[Kind, tuple[str, ...]] = {
    "heads": ("layer", "head"),
    "neurons": ("layer", "neuron"),
    "edges": ("layer", "head", "query", "key"),
    "mlp_layers": ("layer",),
    "attention_layers": ("layer",),
}
_ALL = slice(None)


@dataclass(frozen=True)
class Slot:
    """Where parts of one kind and layer lie: `activation[index]`, for all rows."""

    hook_name: str
    index: tuple


def slots(model: HookedModel, parts: Parts) -> list[Slot]:
    """The slices of activations that these parts are, one per kind and layer.

    Raises:
        InputError: no parts, an unknown kind, or a layer, head, neuron or position that the model does not have.
    """
    found = []
    for kind, places in checked(model, parts).items():
        by_layer: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for layer, *rest in places:
            by_layer[layer].append(tuple(rest))
        found += [
            Slot(f"blocks.{layer}.{SITES[kind]}", _index(kind, inside)) for layer, inside in sorted(by_layer.items())
        ]
    return found


def checked(model: HookedModel, parts: Parts) -> dict[Kind, list[tuple[int, ...]]]:
    """Every part as a tuple of numbers, each within the model's range.

    Raises:
        InputError: no parts, an unknown kind, or a number out of range.
    """
    unknown = [kind for kind in parts if kind not in get_args(Kind)]
    if unknown:
        raise InputError(f"no parts called {unknown[0]!r}; there are {', '.join(get_args(Kind))}")
    asked = cast(dict[Kind, Sequence], parts)
    for kind, places in asked.items():
        if not isinstance(places, Iterable):
            raise InputError(f"{kind} must be a list such as [{_EXAMPLES[kind]}], got {places!r}")
    found: dict[Kind, list[tuple[int, ...]]] = {
        kind: [_place(model, kind, place) for place in places] for kind, places in asked.items()
    }
    if not any(found.values()):
        raise InputError("nothing to ablate; pass heads=[(layer, head), ...], mlp_layers=[layer, ...] or other parts")
    return {kind: places for kind, places in found.items() if places}


def check_fits(slot: Slot, activation: Tensor) -> None:
    """Refuse an activation in which the slot does not lie; only edges depend on the text's length.

    Raises:
        InputError: the text is shorter than an edge's query, or is decoded with cached keys.
    """
    if len(slot.index) < 4:
        return
    n_queries, n_keys = activation.shape[-2:]
    if n_queries != n_keys:
        raise InputError(
            f"{slot.hook_name} has {n_queries} queries and {n_keys} keys: edges need whole texts, uncached"
        )
    if max(slot.index[2]) >= n_queries:
        raise InputError(f"the text has {n_queries} tokens, too short for an edge from query {max(slot.index[2])}")


def random_parts(model: HookedModel, parts: Parts, *, generator: torch.Generator) -> Parts:
    """As many other parts of each kind, drawn anywhere in the model; of an edge, another key of the same query.

    Raises:
        InputError: the model has too few others.
    """
    drawn: dict[Kind, list[tuple[int, ...] | int]] = {}
    for kind, places in checked(model, parts).items():
        if kind == "edges":
            drawn[kind] = _other_edges(model, places, generator)
            continue
        others = sorted(set(_every(model, kind)) - set(places))
        if len(others) < len(set(places)):
            raise InputError(
                f"there are only {len(others)} other {kind} to draw {len(places)} from as a control; pass n_random=0"
            )
        chosen = torch.randperm(len(others), generator=generator)[: len(set(places))].tolist()
        drawn[kind] = [others[i] if len(others[i]) > 1 else others[i][0] for i in chosen]
    return cast(Parts, drawn)


def _place(model: HookedModel, kind: Kind, place: object) -> tuple[int, ...]:
    fields = _FIELDS[kind]
    given = tuple(place) if isinstance(place, tuple | list) else (place,)
    numbers = tuple(index(number) for number in given if _is_number(number))
    if len(given) != len(fields) or len(numbers) != len(given):
        raise InputError(f"{kind} are ({', '.join(fields)}) numbers such as {_EXAMPLES[kind]}, got {place!r}")
    for field, number in zip(fields, numbers, strict=True):
        most = _RANGES[field](model)
        if not 0 <= number < most:
            raise InputError(f"{field} must lie in 0..{most - 1}, got {number} in {kind}={place!r}")
    if kind == "edges":
        _check_edge(model, *numbers)
    return numbers


def _is_number(value: object) -> TypeGuard[SupportsIndex]:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def _check_edge(model: HookedModel, layer: int, head: int, query: int, key: int) -> None:
    first = _first_key(model, layer, query)
    if not first <= key <= query:
        raise InputError(
            f"query {query} of layer {layer} ({layer_type(model, layer)}) sees keys {first}..{query}, "
            f"got the edge {(layer, head, query, key)}"
        )


def _first_key(model: HookedModel, layer: int, query: int) -> int:
    window = window_of(model, layer)
    return 0 if window is None else max(0, query - window + 1)


def _other_edges(
    model: HookedModel, edges: Sequence[tuple[int, ...]], generator: torch.Generator
) -> list[tuple[int, ...] | int]:
    """For each edge another one of the same query, different from all asked for and all drawn.

    Raises:
        InputError: a query sees too few keys.
    """
    drawn: list[tuple[int, ...] | int] = []
    for layer, head, query, _ in dict.fromkeys(edges):
        every = [(layer, head, query, key) for key in range(_first_key(model, layer, query), query + 1)]
        others = sorted(set(every) - set(edges) - set(drawn))
        if not others:
            raise InputError(
                f"query {query} of layer {layer} sees too few other keys to draw controls; pass n_random=0"
            )
        drawn.append(others[int(torch.randint(len(others), (), generator=generator))])
    return drawn


def _every(model: HookedModel, kind: Kind) -> list[tuple[int, ...]]:
    layers = range(model.cfg.n_layers)
    if len(_FIELDS[kind]) == 1:
        return [(layer,) for layer in layers]
    return [(layer, inside) for layer in layers for inside in range(_RANGES[_FIELDS[kind][1]](model))]


def _index(kind: Kind, inside: Sequence[tuple[int, ...]]) -> tuple:
    match kind:
        case "heads" | "neurons":
            return (_ALL, _ALL, [one for (one,) in inside])
        case "edges":
            return (_ALL, *map(list, zip(*inside, strict=True)))
        case "mlp_layers" | "attention_layers":
            return (_ALL,)


_RANGES: dict[str, Callable[[HookedModel], int]] = {
    "layer": lambda model: model.cfg.n_layers,
    "head": lambda model: model.cfg.n_heads,
    "neuron": lambda model: model.cfg.d_mlp or 0,
    "query": lambda model: model.cfg.n_ctx,
    "key": lambda model: model.cfg.n_ctx,
}
_EXAMPLES: dict[Kind, str] = {
    "heads": "(0, 5)",
    "neurons": "(0, 5)",
    "edges": "(0, 5, 49, 17)",
    "mlp_layers": "3",
    "attention_layers": "3",
}
