"""A set of single weights, as exact indices into named parameters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int32
from torch import Tensor, nn

from memhooks.errors import InputError
from memhooks.localize.masks.set_operations import common, joined, missing, remaining
from memhooks.model.components import MATRICES, components
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash

Indices = Int32[Tensor, " chosen"]
"""Sorted, each at most once, into a parameter's flattened values."""


@dataclass(frozen=True, eq=False)
class WeightMask:
    """The chosen entries of each parameter; `len` counts them, and `|`, `&` and `-` combine masks of one model.

    Attributes:
        indices: int32, into each parameter's flattened values, sorted, without repetition.
        sizes: the number of entries of every parameter that could be chosen from, chosen or not.
        model_hash: of the weights that the mask was made for; "" = any model with these parameters.

    Raises:
        InputError: indices of another dtype, out of order, repeated, or outside their parameter.
    """

    indices: Mapping[str, Tensor]  # checked below, in typed tests and without
    sizes: Mapping[str, int]
    model_hash: str = ""

    def __post_init__(self) -> None:
        for name, own in self.indices.items():
            _check_indices(name, own, self.sizes)

    def __len__(self) -> int:
        return sum(map(len, self.indices.values()))

    def __repr__(self) -> str:
        held = sum(len(own) > 0 for own in self.indices.values())
        bound = f", model {self.model_hash}" if self.model_hash else ""
        return f"WeightMask({len(self)} of {sum(self.sizes.values())} weights, in {held} parameters{bound})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightMask):
            return NotImplemented
        if dict(self.sizes) != dict(other.sizes) or self.model_hash != other.model_hash:
            return False
        return all(torch.equal(self.of(name), other.of(name)) for name in self.sizes)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def fraction(self) -> float:
        """Chosen weights over all weights of the parameters it may choose from, from 0 to 1."""
        return len(self) / max(1, sum(self.sizes.values()))

    def of(self, name: str) -> Indices:
        """The chosen entries of one parameter, which may be none."""
        return self.indices.get(name, torch.zeros(0, dtype=torch.int32))

    def check(self, model: HookedModel, *, name: str = "") -> "WeightMask":
        """The mask itself, if it chooses something and was made for this model as it is now.

        Args:
            model: that is to be edited.
            name: of the mask, for the message.

        Raises:
            InputError: it is empty, or belongs to a model of other sizes or other weights.
        """
        what = f"the mask {name!r}" if name else "the mask"
        if not len(self):
            raise InputError(f"{what} is empty, so no weight may move")
        self._check_sizes(model, what)
        if self.model_hash and (here := model_hash(model)) != self.model_hash:
            raise InputError(
                f"{what} belongs to another model: it was made for the weights {self.model_hash}, these are {here}; "
                "make it anew, or allow it for any model of this shape with mask.unbound()"
            )
        return self

    def bound(self, model: HookedModel) -> "WeightMask":
        """The same mask for the model as it is now alone.

        Raises:
            InputError: the model's parameters have other sizes.
        """
        self._check_sizes(model, "the mask")
        return replace(self, model_hash=model_hash(model))

    def unbound(self) -> "WeightMask":
        """The same mask for any model with these parameters."""
        return replace(self, model_hash="")

    def __or__(self, other: "WeightMask") -> "WeightMask":
        return self._combined(other, joined)

    def __and__(self, other: "WeightMask") -> "WeightMask":
        return self._combined(other, common)

    def __sub__(self, other: "WeightMask") -> "WeightMask":
        return self._combined(other, remaining)

    def complement(self) -> "WeightMask":
        """Every weight that is not chosen."""
        return replace(self, indices={name: missing(self.of(name), size) for name, size in self.sizes.items()})

    def restricted(
        self,
        model: HookedModel,
        *,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        matrices: Sequence[str] | None = None,
    ) -> "WeightMask":
        """Only those chosen weights that lie in some layers, heads and matrices; None does not restrict.

        With `heads`, MLP matrices drop out: they have none. `sizes` stay, so that `fraction` still is of all weights.

        Raises:
            InputError: the model's parameters have other sizes, or it lacks such a layer, head or matrix.
        """
        self._check_sizes(model, "the mask")
        cfg = model.cfg
        _check_known("layers", layers, range(cfg.n_layers))
        _check_known("heads", heads, range(cfg.n_heads))
        _check_known("matrices", matrices, MATRICES)
        kept: dict[str, list[int]] = {name: [] for name in self.sizes}
        for cell in components(model):
            allowed = ((layers, cell.layer), (heads, cell.head), (matrices, cell.matrix))
            if cell.parameter_name in kept and all(few is None or one in few for few, one in allowed):
                kept[cell.parameter_name].append(cell.head or 0)
        indices = {}
        for name, blocks in kept.items():
            size = self.sizes[name] // (cfg.n_heads if ".attn." in name else 1)
            block = torch.div(self.of(name), size, rounding_mode="floor")
            indices[name] = self.of(name)[torch.isin(block, torch.tensor(blocks, dtype=torch.int32))]
        return replace(self, indices=indices)

    def check_same_model(self, other: "WeightMask") -> None:
        """Refuse a mask that cannot be compared or combined with this one.

        Raises:
            InputError: the masks belong to different models, or choose from different parameters.
        """
        if dict(self.sizes) != dict(other.sizes):
            differ = sorted(
                name for name in {*self.sizes, *other.sizes} if self.sizes.get(name) != other.sizes.get(name)
            )
            raise InputError(
                f"the masks choose from different parameters: {differ[0]} has {self.sizes.get(differ[0], 'no')} "
                f"entries in one and {other.sizes.get(differ[0], 'no')} entries in the other"
            )
        if self.model_hash and other.model_hash and self.model_hash != other.model_hash:
            raise InputError(
                f"the masks belong to different models ({self.model_hash} and {other.model_hash}); "
                "combine them as of any model with mask.unbound()"
            )

    def _combined(self, other: "WeightMask", combine: Callable[[Tensor, Tensor], Tensor]) -> "WeightMask":
        self.check_same_model(other)
        indices = {name: combine(self.of(name), other.of(name)) for name in self.sizes}
        return WeightMask(indices, self.sizes, self.model_hash or other.model_hash)

    def _check_sizes(self, model: nn.Module, what: str) -> None:
        sizes = {name: weight.numel() for name, weight in model.named_parameters()}
        wrong = [name for name, size in self.sizes.items() if sizes.get(name) != size]
        if wrong:
            raise InputError(
                f"{what} belongs to another model: {wrong[0]} has {self.sizes[wrong[0]]} entries there, "
                f"{sizes.get(wrong[0])} here; make it from this model's scores"
            )


@contextmanager
def frozen_outside(model: nn.Module, mask: WeightMask) -> Iterator[None]:
    """A block after which every weight outside the mask must be bit-identical.

    Raises:
        RuntimeError: one is not.
    """
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    yield
    for name, weight in model.named_parameters():
        moved = _bits(weight) != _bits(before[name])
        if name in mask.indices:
            moved[mask.indices[name].long()] = False
        if moved.any():
            raise RuntimeError(f"{int(moved.sum())} weights of {name} moved outside the mask")


def _bits(weight: Tensor) -> Tensor:
    # As integers: compared as numbers, -0.0 would equal 0.0 and NaN would differ from itself.
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return weight.detach().flatten().view(integer)


def _check_indices(name: str, own: Tensor, sizes: Mapping[str, int]) -> None:
    if name not in sizes:
        raise InputError(f"the mask has indices for {name}, but no size of it")
    if own.dtype != torch.int32 or own.ndim != 1:
        raise InputError(f"a mask's indices are flat and int32, got {own.dtype} of {own.ndim} dimensions for {name}")
    if not len(own):
        return
    if not (own[1:] > own[:-1]).all():
        raise InputError(f"a mask's indices are sorted, each at most once; those of {name} are not")
    if own[0] < 0 or own[-1] >= sizes[name]:
        raise InputError(
            f"a mask's indices of {name} must lie in 0..{sizes[name] - 1}, got {int(own[0])}..{int(own[-1])}"
        )


def _check_known(what: str, asked: Sequence | None, known: Sequence) -> None:
    unknown = [one for one in asked or () if one not in known]
    if unknown:
        names = ", ".join(known) if isinstance(known[0], str) else f"0..{known[-1]}"
        raise InputError(f"{what} must be among {names}, got {unknown[0]!r}")
