"""What a result was computed from: a fingerprint of the weights and how they were loaded."""

import hashlib
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.model.loading import HookedModel, is_processed

_HASHES: WeakKeyDictionary[HookedModel, tuple[tuple, str]] = WeakKeyDictionary()
"""Fingerprints by the versions of all weights, which every edit in place raises (but one through `.data`)."""


def provenance(model: HookedModel, tokens: Int[Tensor, "paragraph pos"]) -> dict[str, object]:
    """Model fingerprint, processing, dtype and a fingerprint of the tokens, for a result's attributes."""
    return {
        "model_hash": model_hash(model),
        "processed": int(is_processed(model)),
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "tokens_hash": tensor_hash(tokens),
    }


def model_hash(model: HookedModel) -> str:
    """16 hexadecimal digits that change with any weight and with the shape of attention; hooks do not count."""
    state = weights_state(model)
    if (known := _HASHES.get(model)) is not None and known[0] == state:
        return known[1]
    digest = hashlib.blake2b(state[0].encode(), digest_size=8)
    for name, weight in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(_bytes(weight))
    _HASHES[model] = state, digest.hexdigest()
    return _HASHES[model][1]


def know_hash(model: HookedModel, known: str) -> None:
    """Remember the fingerprint of weights that were just put back or exchanged for known ones."""
    _HASHES[model] = weights_state(model), known


def weights_state(model: HookedModel) -> tuple:
    """Changes whenever a weight is replaced or edited in place (but not through `.data`), at no cost."""
    shape = (model.cfg.n_layers, model.cfg.n_heads, model.cfg.window_size, model.cfg.attn_types, model.cfg.eps)
    return repr(shape), *((id(weight), weight.data_ptr(), weight._version) for weight in model.parameters())


def tensor_hash(tensor: Tensor) -> str:
    """16 hexadecimal digits of a tensor's values and shape."""
    digest = hashlib.blake2b(str(tuple(tensor.shape)).encode(), digest_size=8)
    digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data
