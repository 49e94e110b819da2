"""Text and integer arrays out of files that may be missing, damaged or untrue about their own size."""

import io
import math
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from memhooks.errors import InputError, in_short


def is_folder(path: Path) -> bool:
    """Whether a folder lies there that may be looked into."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_file(path: Path, what: str) -> None:
    """Refuse a path at which no file lies.

    Raises:
        InputError: there is none, or its folder may not be looked into.
    """
    try:
        found = path.is_file()
    except OSError as error:  # such as a whole paragraph given as a file name
        raise InputError(
            f"{str(path)[:80]!r}: cannot be opened ({error.strerror}); give texts as a list of strings"
        ) from error
    if not found:
        raise InputError(f"no {what} at {path}")


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        InputError: it may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def read_text(path: Path) -> str:
    """The whole file as UTF-8, each line end as a line feed, without a byte order mark.

    Raises:
        InputError: it may not be read, or is not UTF-8.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({in_short(error)})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_array(path: Path, *, what: str = "tokens") -> Int64[np.ndarray, "..."]:
    """The integers of a `.npy` file, without unpickling and without room for more than the file holds.

    Raises:
        InputError: the file is damaged or holds something else.
    """
    content = io.BytesIO(read_bytes(path))
    if content.getbuffer()[:2] == b"PK":
        raise InputError(f"{path}: an archive of arrays; save one array as .npy")
    try:
        shape, columns_first, dtype = _header(content)
    except Exception as error:  # numpy's reader of damaged headers raises many kinds
        raise InputError(f"{path}: damaged, or not a plain array ({in_short(error)})") from error
    if dtype.kind == "O":
        raise InputError(f"{path}: not a plain array but pickled objects, which are never loaded")
    if dtype.kind not in "iu":
        raise InputError(f"{path}: {what} must be integers, got {dtype}")
    room = content.getbuffer().nbytes - content.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > room:
        raise InputError(f"{path}: damaged, its header promises shape {shape} of {dtype}, but {room} bytes follow")
    flat = np.frombuffer(content.getbuffer(), dtype, math.prod(shape), content.tell())
    if dtype == np.uint64 and flat.size and flat.max() > np.iinfo(np.int64).max:
        raise InputError(f"{path}: {what} are too large, got {flat.max()}")
    return flat.reshape(shape, order="F" if columns_first else "C").astype(np.int64)


def _header(content: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers by Python 2, or with odd escapes
        version = np.lib.format.read_magic(content)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(content)
        return np.lib.format.read_array_header_2_0(content)
