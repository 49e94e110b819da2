"""One reader per format of token and text files; none of them unpickles anything."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from memhooks.errors import InputError, in_short
from memhooks.paragraphs.contents import read_array, read_bytes, read_text
from memhooks.paragraphs.records import Records, from_rows
from memhooks.paragraphs.tables import read_parquet


def read_pt(path: Path) -> Records:
    """One integer tensor, as `torch.save` writes it.

    Raises:
        InputError: the file is damaged or holds something else.
    """
    content = read_bytes(path)
    try:
        if content[:2] == b"PK":
            _check_archive(content)
        tensor = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises a dozen kinds on random bytes
        raise InputError(f"{path}: not a plain tensor file ({in_short(error)}); nothing else is unpickled") from error
    if not isinstance(tensor, Tensor):
        raise InputError(f"{path}: expected one tensor, got {type(tensor).__name__}")
    if tensor.layout == torch.strided and tensor.numel() * tensor.element_size() > len(content):
        raise InputError(
            f"{path}: promises shape {tuple(tensor.shape)}, more than its {len(content)} bytes hold; "
            "save a contiguous copy of the tensor"
        )
    return Records(tokens=_integer_rows(tensor, path))


def read_npy(path: Path) -> Records:
    """One array, or for `x_prefix.npy` also the `x_suffix.npy` beside it.

    Raises:
        InputError: a file is damaged or holds something else, or the two have different numbers of rows.
    """
    rows = _integer_rows(torch.from_numpy(read_array(path)), path)
    if not path.stem.endswith("prefix") or path.stem.endswith("preprefix"):
        return Records(tokens=rows)
    suffix = path.with_name(path.name[: -len("prefix.npy")] + "suffix.npy")
    if not suffix.is_file():
        raise InputError(f"{path.name} holds prefixes, but {suffix.name} is not beside it")
    continuation = _integer_rows(torch.from_numpy(read_array(suffix)), suffix)
    if len(continuation) != len(rows):
        raise InputError(f"{path.name} has {len(rows)} rows, {suffix.name} {len(continuation)}")
    return Records(tokens=torch.cat([rows, continuation], dim=1), n_prefix=rows.shape[1])


def read_txt(path: Path) -> Records:
    """Running text, to be cut into paragraphs."""
    return Records(running=(read_text(path), path.name))


def read_jsonl(path: Path) -> Records:
    """One JSON object per line.

    Raises:
        InputError: a line is something else.
    """
    rows = []
    lines = read_text(path).split("\n")  # not splitlines: U+2028 may stand inside JSON strings
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not JSON ({in_short(error)})") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
            rows.append(row)
    return from_rows(rows, str(path))


def read_csv(path: Path) -> Records:
    """A header and one row per paragraph; `tokens` are integers between spaces or commas.

    Raises:
        InputError: it is not CSV, a row has more fields than the header, or tokens are not integers.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({in_short(error)})") from error
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise InputError(f"{path}, row {number}: more fields than the header; quote fields that hold commas")
        if "tokens" in row:
            try:
                row["tokens"] = [int(token) for token in (row["tokens"] or "").strip("[]").replace(",", " ").split()]
            except ValueError as error:
                raise InputError(f"{path}, row {number}: tokens must be integers ({in_short(error)})") from error
    return from_rows(rows, str(path))


READERS: dict[str, Callable[[Path], Records]] = {
    ".pt": read_pt,
    ".npy": read_npy,
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def _check_archive(content: bytes) -> None:
    """Refuse a zip archive that promises more than it holds, before torch makes room for it.

    Raises:
        InputError: it does.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        promised = sum(entry.file_size for entry in archive.infolist())
    if promised > len(content):
        raise InputError(f"promises {promised} bytes in an archive of {len(content)}")


def _integer_rows(tensor: Tensor, path: Path) -> Int64[Tensor, "paragraph pos"]:
    if tensor.layout != torch.strided:
        raise InputError(f"{path}: expected a dense tensor, got {tensor.layout}")
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise InputError(f"{path}: expected a non-empty [paragraph, pos] array, got shape {tuple(tensor.shape)}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"{path}: tokens must be integers, got {tensor.dtype}")
    return tensor.long()
