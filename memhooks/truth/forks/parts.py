"""The parts of a model that can be exchanged between forks: layers, attentions, MLPs, heads, matrices, the rest.

A part is a list of pieces: a whole parameter, or one head's slice of it. Embedding and unembedding
are equal (tied) in GPT-Neo, so they are one part. Biases of a layer's attention and MLP belong to it; a head's do, too,
but for the output bias, which heads share.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import get_args

from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.components import MATRICES, AttentionMatrix
from memhooks.model.loading import HookedModel

KINDS = ("layer", "attention", "mlp", "head", "matrix", "kind", "rest", "bottom", "top", "all")
"""What `kind` a part is of; `bottom` and `top` are runs of layers from either end, `rest` what is in no matrix."""

Piece = tuple[str, int | None]
"""A parameter's name, and one head of it or None for the whole."""


@dataclass(frozen=True)
class Part:
    """Some weights of a model, by name.

    Attributes:
        name: such as `L3`, `attention 3`, `MLP 3`, `L3H5`, `W_Q 3`, `all W_Q`, `embeddings`, `layers 0-3`.
        kind: one of `KINDS`.
        pieces: its weights.
        layer: where it lies; -1 = in several or none.
        head: of a head; -1 = none.
    """

    name: str
    kind: str
    pieces: tuple[Piece, ...]
    layer: int = -1
    head: int = -1


def view(weight: Tensor, piece: Piece) -> Tensor:
    """The piece of a parameter; shares its memory."""
    return weight if piece[1] is None else weight[piece[1]]


def every_part(model: HookedModel, kinds: Iterable[str] = KINDS) -> list[Part]:
    """All parts of these kinds, in the order of `KINDS`.

    Raises:
        InputError: an unknown kind, or none.
    """
    asked = list(kinds)
    unknown = [one for one in asked if one not in KINDS]
    if unknown or not asked:
        raise InputError(f"kinds of parts are {', '.join(KINDS)}, got {unknown[0] if unknown else 'none'}")
    return [part for part in _all_parts(model) if part.kind in asked]


def _all_parts(model: HookedModel) -> Iterator[Part]:
    names, layers = [name for name, _ in model.named_parameters()], range(model.cfg.n_layers)
    for kind, label, places in (
        ("layer", "L{}", ("",)),
        ("attention", "attention {}", ("attn.", "ln1.")),
        ("mlp", "MLP {}", ("mlp.", "ln2.")),
    ):
        for layer in layers:
            own = _whole(names, *(f"blocks.{layer}.{place}" for place in places))
            yield Part(label.format(layer), kind, own, layer)
    for layer, head in product(layers, range(model.cfg.n_heads)):
        yield Part(f"L{layer}H{head}", "head", _head(layer, head), layer, head)
    for matrix, layer in product(MATRICES, layers):
        yield Part(f"{matrix} {layer}", "matrix", ((_parameter(matrix, layer), None),), layer)
    yield from _across(model, names)
    yield from _runs(model, names)
    yield Part("everything", "all", _whole(names, ""))


def _across(model: HookedModel, names: list[str]) -> Iterator[Part]:
    """One kind of weight in all layers: each matrix, all of them, and what is in no matrix."""
    layers = range(model.cfg.n_layers)
    for matrix in MATRICES:
        yield Part(f"all {matrix}", "kind", tuple((_parameter(matrix, layer), None) for layer in layers))
    matrices = {_parameter(*each) for each in product(MATRICES, layers)}
    yield Part("all matrices", "kind", tuple((name, None) for name in sorted(matrices)))
    embeddings = [name for name in names if "embed." in name]
    norms = [name for name in names if ".ln" in name or name.startswith("ln_final")]
    biases = [name for name in names if name not in {*matrices, *embeddings, *norms}]
    for label, own in (("embeddings", embeddings), ("layer norms", norms), ("biases", biases)):
        yield Part(label, "rest", tuple((name, None) for name in own))


def _runs(model: HookedModel, names: list[str]) -> Iterator[Part]:
    """Layers 0 to l, and l to the last, embeddings left as they are."""
    last = model.cfg.n_layers - 1
    for layer in range(last + 1):
        pieces = _whole(names, *(f"blocks.{one}." for one in range(layer + 1)))
        yield Part(f"layers 0-{layer}", "bottom", pieces)
    for layer in range(last, 0, -1):  # all layers at once are the last of the others
        pieces = _whole(names, *(f"blocks.{one}." for one in range(layer, last + 1)))
        yield Part(f"layers {layer}-{last}", "top", pieces)


def _whole(names: list[str], *starts: str) -> tuple[Piece, ...]:
    return tuple((name, None) for name in names if name.startswith(starts))


def _head(layer: int, head: int) -> tuple[Piece, ...]:
    matrices = [f"blocks.{layer}.attn.{one}" for one in get_args(AttentionMatrix)]
    return tuple((name, head) for name in (*matrices, *(f"blocks.{layer}.attn.b_{one}" for one in "QKV")))


def _parameter(matrix: str, layer: int) -> str:
    return f"blocks.{layer}.{'mlp' if matrix in ('W_in', 'W_out') else 'attn'}.{matrix}"
