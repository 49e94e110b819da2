"""Masks as files: int32 indices in safetensors, which hold numbers and text and nothing that could run."""

from pathlib import Path

from memhooks.errors import InputError
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.labelled import versions
from memhooks.tensor_files import load_tensors, save_tensors

FORMAT = 1
"""Version of the file's layout."""


def save_mask(mask: WeightMask, path: str | Path) -> None:
    """Write to `.safetensors`, whole or not at all: 4 bytes a weight, the model's hash and the versions in use.

    Raises:
        InputError: the file name does not end in `.safetensors`, or its folder does not exist.
    """
    about = {"format": FORMAT, "sizes": dict(mask.sizes), "model_hash": mask.model_hash, "versions": versions()}
    save_tensors(path, "mask", about, mask.indices)


def load_mask(path: str | Path) -> WeightMask:
    """Read a mask back; `mask.check(model)` says whether it was made for a model.

    Raises:
        InputError: the file is missing, damaged, of a later format, or holds something else.
    """
    about, indices = load_tensors(path, "mask")
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: a mask of format {about.get('format')!r}, this version reads {FORMAT}")
    try:
        return WeightMask(indices, _sizes(about.get("sizes")), str(about.get("model_hash")))
    except InputError as error:
        raise InputError(f"{path}: not a mask ({error})") from error


def _sizes(sizes: object) -> dict[str, int]:
    if not isinstance(sizes, dict) or not all(type(size) is int and 0 < size < 2**31 for size in sizes.values()):
        raise InputError("the number of entries of each parameter must be a positive 32-bit integer")
    return sizes
