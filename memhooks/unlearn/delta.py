"""What unlearning changed: old and new value of every masked weight, to apply and to take back bit for bit.

A delta of 0.1 % of GPT-Neo 125M is about 1 MB and is applied in milliseconds, so a hundred paragraphs' deltas share one
model in memory. Values are written, never added: floating-point sums could not be taken back exactly.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakSet

import torch
from jaxtyping import Int32
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.labelled import versions
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import know_hash, model_hash
from memhooks.tensor_files import load_tensors, save_tensors


@dataclass(frozen=True, eq=False)
class Delta:
    """The change of chosen weights between two states of a model.

    Attributes:
        indices: of the chosen entries of each parameter, flat and sorted.
        old: their values before.
        new: their values after.
        before: `model_hash` of the model that `new` is written into.
        after: `model_hash` of what comes of it.
        about: where the change comes from: recipe, budget, paragraphs, the kept step's record.
    """

    indices: Mapping[str, Int32[Tensor, " chosen"]]
    old: Mapping[str, Tensor]
    new: Mapping[str, Tensor]
    before: str
    after: str
    about: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.indices.values()))

    def __repr__(self) -> str:
        return f"Delta({len(self)} weights of {len(self.indices)} parameters, {self.before} -> {self.after})"

    @property
    def moved(self) -> int:
        """How many of the chosen weights differ before and after."""
        return sum(int((self.old[name] != self.new[name]).sum()) for name in self.indices)

    @property
    def norm(self) -> float:
        """Euclidean length of the change."""
        squares = [(self.new[name].double() - self.old[name].double()).square().sum() for name in self.indices]
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0

    def apply_(self, model: HookedModel) -> None:
        """Write the new values into the model that the delta was made from.

        The model is recognised by its hash, which costs nothing where the weights were hashed since they last changed;
        an edit through `.data` outside the delta's own entries escapes it.

        Raises:
            InputError: the model is another, was edited meanwhile, or becomes another than the delta says.
        """
        _exchange_(model, self, self.old, self.new, (self.before, self.after), done="apply")

    def revert_(self, model: HookedModel) -> None:
        """Write the old values back into a model to which the delta was applied.

        Raises:
            InputError: the delta was not applied to this model, or it was edited meanwhile.
        """
        _exchange_(model, self, self.new, self.old, (self.after, self.before), done="revert")

    @contextmanager
    def applied(self, model: HookedModel) -> Iterator[HookedModel]:
        """Inside the block the delta is applied; after it, also after an error, the old values are back bit for bit.

        Raises:
            InputError: the model is another, or was edited meanwhile.
            RuntimeError: the block edited the weights as well; the delta's own entries are back, the others are not.
        """
        entered = False
        try:
            self.apply_(model)
            entered = True
            yield model
        finally:
            # Ctrl-C may fall between the two lines above: then the hash tells that the new values are in.
            if (alone := model_hash(model) == self.after) or entered:
                _write_(model, self, self.old)
                if alone:
                    know_hash(model, self.before)
        if model_hash(model) != self.before:
            raise RuntimeError(
                "the weights were edited while a delta was applied: its own entries are back, the others are as edited"
            )


def delta_of(
    model: HookedModel,
    mask: WeightMask,
    old: Mapping[str, Tensor],
    *,
    before: str,
    about: Mapping[str, object] | None = None,
) -> Delta:
    """The change of a mask's entries since `old` was taken; nothing else may have changed.

    Args:
        model: as it is now.
        mask: whose entries changed.
        old: the parameters' earlier values, whole, by name.
        before: the model's hash at that time.
        about: provenance.
    """
    parameters = dict(model.named_parameters())
    chosen = {name: own for name, own in mask.indices.items() if len(own)}
    values = [
        {
            name: source[name].detach().flatten()[own.long().to(source[name].device)].cpu()
            for name, own in chosen.items()
        }
        for source in (old, parameters)
    ]
    made = Delta(chosen, *values, before=before, after=model_hash(model), about=dict(about or {}))
    _VERIFIED.add(made)
    return made


def save_delta(delta: Delta, path: Path | str) -> None:
    """Write a delta as .safetensors, provenance inside, whole or not at all.

    Raises:
        InputError: another ending.
    """
    tensors = {
        f"{name}.{part}": values[name]
        for part, values in (("indices", delta.indices), ("old", delta.old), ("new", delta.new))
        for name in delta.indices
    }
    about = {"before": delta.before, "after": delta.after, "about": dict(delta.about), "versions": versions()}
    save_tensors(path, "delta", about, tensors)


def load_delta(path: Path | str) -> Delta:
    """Read a delta back.

    Raises:
        InputError: the file is missing, damaged or holds something else.
    """
    about, tensors = load_tensors(path, "delta")
    parts: dict[str, dict[str, Tensor]] = {"indices": {}, "old": {}, "new": {}}
    for name, values in tensors.items():
        parameter, _, part = name.rpartition(".")
        if part not in parts:
            raise InputError(f"{path}: not a delta file; it holds {name}")
        parts[part][parameter] = values
    before, after, origin = about.get("before"), about.get("after"), about.get("about")
    if not isinstance(before, str) or not isinstance(after, str) or not isinstance(origin, dict):
        raise InputError(f"{path}: not a delta file; it does not say which model it belongs to")
    _check_parts(path, **parts)
    return Delta(**parts, before=before, after=after, about=origin)


def _check_parts(path: Path | str, *, indices: dict, old: dict, new: dict) -> None:
    for name, own in indices.items():
        if name not in old or name not in new:
            raise InputError(f"{path}: damaged; {name} lacks old or new values")
        if own.ndim != 1 or not own.shape == old[name].shape == new[name].shape or old[name].dtype != new[name].dtype:
            raise InputError(f"{path}: damaged; indices, old and new values of {name} do not fit each other")
        if own.dtype != torch.int32 or (own[1:] <= own[:-1]).any() or (own < 0).any():
            raise InputError(f"{path}: damaged; the indices of {name} are not sorted int32")
        if not (torch.isfinite(old[name]).all() and torch.isfinite(new[name]).all()):
            raise InputError(f"{path}: damaged; values of {name} are not numbers")
    if {*old, *new} - set(indices) or not indices:
        raise InputError(f"{path}: damaged; some values have no indices")


def _exchange_(
    model: HookedModel,
    delta: Delta,
    expected: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    hashes: tuple[str, str],
    *,
    done: str,
) -> None:
    if (here := model_hash(model)) != hashes[0]:
        state = "applied already" if done == "apply" else "not applied"
        hint = f" it is {state};" if here == hashes[1] else ""
        raise InputError(
            f"cannot {done} this delta: it belongs to a model with the weights {hashes[0]}, these are {here};{hint} "
            "load the model that it was made from, unprocessed and in the same dtype"
        )
    _check_fits(model, delta, done)
    if not _holds(model, delta, expected):  # an edit through `.data` escapes the hash's memory
        raise InputError(f"cannot {done} this delta: the model's weights were edited behind torch's back")
    try:
        _write_(model, delta, values)
        if delta in _VERIFIED:
            know_hash(model, hashes[1])
        elif model_hash(model) != hashes[1]:  # once for each delta that came from a file
            raise InputError(f"cannot {done} this delta: what comes of it is not what it says; it is damaged")
        _VERIFIED.add(delta)
    except BaseException:  # Ctrl-C too: all or nothing
        _write_(model, delta, expected)
        know_hash(model, hashes[0])
        raise


_VERIFIED: WeakSet[Delta] = WeakSet()
"""Deltas of which it is known that they lead from the one hash to the other."""


def _check_fits(model: HookedModel, delta: Delta, done: str) -> None:
    parameters = dict(model.named_parameters())
    for name, own in delta.indices.items():
        weight = parameters.get(name)
        if weight is None or (len(own) and int(own[-1]) >= weight.numel()) or delta.new[name].dtype != weight.dtype:
            here = "has none" if weight is None else f"has {weight.numel()} entries of {weight.dtype}"
            raise InputError(
                f"cannot {done} this delta: it holds {delta.new[name].dtype} values of {name}, and this model {here}"
            )


def _holds(model: HookedModel, delta: Delta, expected: Mapping[str, Tensor]) -> bool:
    parameters = dict(model.named_parameters())
    for name, own in delta.indices.items():
        here = parameters[name].detach().flatten()[own.long().to(parameters[name].device)].cpu()
        if not torch.equal(here, expected[name]):
            return False
    return True


@torch.no_grad()
def _write_(model: HookedModel, delta: Delta, values: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, own in delta.indices.items():
        weight = parameters[name]
        weight.view(-1)[own.long().to(weight.device)] = values[name].to(weight.device)
