"""Results as labelled arrays: a closed list of axes, a unit for each variable, provenance for all."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from memhooks.errors import InputError, in_short
from memhooks.writing import whole_file

_DEPENDS_ON = ("memhooks", "torch", "transformer-lens", "transformers", "numpy")
_END_AT = {b"\0": 40, b"\1": 44, b"\2": 28, b"\3": 28}  # where each version of an HDF5 header says how long the file is
AXES: dict[str, str] = {
    "paragraph": "paragraph of the set",
    "pos": "token position in the paragraph, from 0",
    "layer": "block, from 0",
    "head": "attention head, from 0",
    "component": "weight matrix of a block: one head's W_Q, W_K, W_V or W_O, or W_in, W_out",
    "site": "kind of hook point, such as resid_pre",
    "row": "one row of a table",
    "draw": "one of several random choices",
    "step": "update of a run, 0 = before the first",
    "sampler": "how tokens are drawn",
    "p": "probability that the text is among the samples",
    "queries": "number of samples",
    "query": "position that attends, from 0",
    "key": "position that is attended to, from 0",
    "rank": "rarity rank among a paragraph's prefix tokens, 0 = rarest",
    "d_model": "residual stream",
    "d_head": "one head's query, key or value",
    "d_mlp": "hidden units of an MLP",
    "d_vocab": "vocabulary",
    "batch": "rows inside a hook",
}


@dataclass(frozen=True)
class Variable:
    """Values with their axes and a unit that also says what zero means."""

    values: Tensor | np.ndarray
    axes: tuple[str, ...]
    unit: str
    labels: Mapping[str, Sequence] = field(default_factory=dict)


def labelled(provenance: Mapping[str, object], **variables: Variable) -> xr.Dataset:
    """Bind variables to one Dataset; the only maker of results.

    Raises:
        ValueError: an axis is not in `AXES`.
    """
    data, coordinates = {}, {}
    for name, variable in variables.items():
        unknown = [axis for axis in variable.axes if axis not in AXES]
        if unknown:
            raise ValueError(f"axes of {name!r} must be among {', '.join(AXES)}; got {', '.join(unknown)}")
        data[name] = (variable.axes, _plain(variable.values), {"units": variable.unit})
        coordinates.update({axis: list(values) for axis, values in variable.labels.items()})
    attributes = {
        key: value if isinstance(value, int | float | str) else json.dumps(value) for key, value in provenance.items()
    }
    return xr.Dataset(data, coordinates, attributes | versions())


def versions() -> dict[str, str]:
    """The versions on which a result may depend."""
    return {f"version_{name.replace('-', '_')}": version(name) for name in _DEPENDS_ON}


def save_result(result: xr.Dataset | xr.DataTree, path: Path) -> None:
    """Write a result (or several, as a tree) as netCDF with a checksum at its end, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes(result.to_netcdf(engine="h5netcdf"))  # in memory: on a full disk HDF5 fails in its own ways
    with whole_file(path) as partial:
        partial.write_bytes(content + _checksum(content))


def load_result(path: Path | str) -> xr.Dataset:
    """Read a result back into memory.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"no result file at {path}") from error
    except (OSError, ValueError) as error:  # a folder, a name too long, or one that holds a zero byte
        raise InputError(f"{str(path)[:200]}: cannot be read ({in_short(error)})") from error
    if not _is_whole(content):
        raise InputError(f"{path}: damaged, cut short, or not a saved result; compute it again")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as result:
            # Numbers come back as numpy's, which are no plain numbers to JSON.
            plain = {key: one.item() if isinstance(one, np.generic) else one for key, one in result.attrs.items()}
            return result.load().assign_attrs(plain)
    except Exception as error:  # HDF5 and xarray raise a dozen kinds
        raise InputError(f"{path}: not a saved result ({in_short(error)})") from error


def _is_whole(content: bytes) -> bool:
    # HDF5 itself may hang or take gigabytes on a damaged file, so nothing damaged reaches it. The file's
    # header tells where HDF5's own bytes end; files without a checksum after them come from other tools.
    if content[:8] != b"\x89HDF\r\n\x1a\n" or content[8:9] not in _END_AT:
        return False
    place = _END_AT[content[8:9]]
    end = int.from_bytes(content[place : place + 8], "little")
    return end == len(content) or content[end:] == _checksum(content[:end])


def _checksum(content: bytes) -> bytes:
    return b"memhooks" + hashlib.blake2b(content, digest_size=16).digest()


def _plain(values: Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()  # numpy has no bfloat16
