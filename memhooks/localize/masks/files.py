"""Masks as files: int32 indices in safetensors, which hold numbers and text and nothing that could run."""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from memhooks.errors import InputError, in_short
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.labelled import versions
from memhooks.writing import whole_file

FORMAT = 1
"""Version of the file's layout."""


def save_mask(mask: WeightMask, path: str | Path) -> None:
    """Write to `.safetensors`, whole or not at all: 4 bytes a weight, the model's hash and the versions in use.

    Raises:
        InputError: the file name does not end in `.safetensors`, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"masks are saved as .safetensors, got {path.name}")
    if not path.parent.is_dir():
        raise InputError(f"no folder {path.parent} to save the mask in; make it first")
    about = {"sizes": dict(mask.sizes), "model_hash": mask.model_hash, **versions()}
    header = {"format": FORMAT, "checksum": _checksum(mask), **about}
    with whole_file(path) as partial:
        tensors = {name: own.contiguous().cpu() for name, own in mask.indices.items()}
        save_file(tensors, partial, {"memhooks_mask": json.dumps(header)})


def load_mask(path: str | Path) -> WeightMask:
    """Read a mask back; `mask.check(model)` says whether it was made for a model.

    Raises:
        InputError: the file is missing, damaged, of a later format, or holds something else.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"no mask file at {path}")
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["memhooks_mask"])
            indices = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if header["format"] != FORMAT:
            raise InputError(f"{path}: a mask of format {header['format']!r}, this version reads {FORMAT}")
        mask = WeightMask(indices, _sizes(header["sizes"]), str(header["model_hash"]))
        if _checksum(mask) != header["checksum"]:
            raise InputError("damaged: the checksum differs")
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: not a mask ({error})") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not a saved mask, or damaged ({in_short(error)}); save it again") from error
    return mask


def _sizes(sizes: object) -> dict[str, int]:
    if not isinstance(sizes, dict) or not all(type(size) is int and 0 < size < 2**31 for size in sizes.values()):
        raise InputError("the number of entries of each parameter must be a positive 32-bit integer")
    return sizes


def _checksum(mask: WeightMask) -> str:
    digest = hashlib.blake2b(json.dumps([dict(mask.sizes), mask.model_hash]).encode(), digest_size=16)
    for name in sorted(mask.indices):
        digest.update(name.encode())
        digest.update(mask.indices[name].contiguous().cpu().numpy().data)
    return digest.hexdigest()
