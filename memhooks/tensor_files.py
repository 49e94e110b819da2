"""Named tensors with their provenance, as safetensors: written whole or not at all, checked, and never unpickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memhooks.errors import InputError, in_short
from memhooks.writing import whole_file


def save_tensors(path: Path | str, kind: str, about: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with a line of JSON that says what they are.

    Args:
        path: ends in .safetensors.
        kind: what is saved, such as "delta"; `load_tensors` refuses a file of another kind.
        about: anything that JSON holds.
        tensors: by name.

    Raises:
        InputError: another ending, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"a {kind} is saved as .safetensors, got {path.name}")
    if not path.parent.is_dir():
        raise InputError(f"no folder {path.parent} to save the {kind} in; make it first")
    text = json.dumps(about)
    plain = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    with whole_file(path) as partial:
        save_file(plain, partial, {f"memhooks {kind}": text, "checksum": _checksum(text, plain)})


def load_tensors(path: Path | str, kind: str) -> tuple[dict, dict[str, Tensor]]:
    """Read back what `save_tensors` wrote: what it is about, and the tensors.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"no {kind} file at {path}")
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        text = header.get(f"memhooks {kind}")
        found = None if text is None else json.loads(text)
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise InputError(f"{path}: not a {kind} file, or damaged ({in_short(error)})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a {kind} file")
    if header.get("checksum") != _checksum(str(text), tensors):
        raise InputError(f"{path}: damaged, its checksum differs; save the {kind} again")
    return found, tensors


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
