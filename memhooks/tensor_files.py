"""Named tensors with their provenance, as safetensors: written whole or not at all, and never unpickled."""

import json
from collections.abc import Mapping
from pathlib import Path

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
        InputError: another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"a {kind} is saved as .safetensors, got {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_file(
            {name: one.detach().cpu().contiguous() for name, one in tensors.items()},
            partial,
            {f"memhooks {kind}": json.dumps(about)},
        )


def load_tensors(path: Path | str, kind: str) -> tuple[dict, dict[str, Tensor]]:
    """Read back what `save_tensors` wrote: what it is about, and the tensors.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no {kind} file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(f"memhooks {kind}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        found = None if about is None else json.loads(about)
    except (SafetensorError, OSError, ValueError, RuntimeError, RecursionError) as error:
        raise InputError(f"{path}: not a {kind} file, or damaged ({in_short(error)})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a {kind} file")
    return found, tensors
