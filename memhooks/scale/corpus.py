"""Names the parts of a corpus that can be read alone, so that workers share it and a killed scan goes on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from memhooks.errors import InputError
from memhooks.paragraphs.contents import is_folder

Kind = Literal["jsonl", "txt", "parquet", "npy", "dataset"]
COMPRESSED = (".zst", ".gz")
ENDINGS = {".jsonl": "jsonl", ".txt": "txt", ".parquet": "parquet", ".npy": "npy"}


@dataclass(frozen=True)
class Piece:
    """A part of a corpus that one worker reads alone.

    Attributes:
        path: file or `datasets` folder, as it was given.
        kind: the format.
        start: where the piece begins: bytes (jsonl), rows (parquet, dataset, two-dimensional npy) or tokens (npy).
        stop: where it ends; None for the end of the file, which is where compressed files and texts end.
    """

    path: str
    kind: Kind
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """The same for the same part of the same file, and for no other."""
        return f"{self.path}[{self.start}:{'' if self.stop is None else self.stop}]"


def pieces(paths: Sequence[str | Path], *, piece_mb: float | int = 8) -> list[Piece]:
    """The pieces of all files, in order, the same every time.

    Args:
        paths: files, folders of files (all below them with a known ending, by name), and folders that
            `Dataset.save_to_disk` wrote.
        piece_mb: size of a piece in millions of bytes. Compressed files and texts are one piece each, as they cannot
            be entered in the middle; so are row groups of parquet files.

    Raises:
        InputError: nothing is there, or a file has another ending.
    """
    if not 0 < piece_mb < np.inf:
        raise InputError(f"piece_mb must be a positive number of megabytes, got {piece_mb}")
    if not paths:
        raise InputError("a corpus needs at least one file or folder, got none")
    size = max(1, int(piece_mb * 1e6))
    found = [piece for path in paths for one in _files(Path(path)) for piece in _pieces_of(one, size)]
    if not found:
        raise InputError(f"the corpus is empty: {', '.join(map(str, paths))}")
    return found


def file_sizes(every: Sequence[Piece]) -> dict[str, list[int]]:
    """Every file with its size in bytes (0 for folders) and its number of pieces: tells one corpus from another."""
    sizes: dict[str, list[int]] = {}
    for piece in every:
        path = Path(piece.path)
        sizes.setdefault(piece.path, [path.stat().st_size if path.is_file() else 0, 0])[1] += 1
    return sizes


def _files(path: Path) -> Iterator[Path]:
    if not is_folder(path):
        if not path.is_file():
            raise InputError(f"no corpus file or folder at {path}")
        if _kind(path) is None:
            raise InputError(f"{path}: cannot read {path.suffix or 'files without an ending'}; supported: {_SUPPORTED}")
        yield path
    elif (path / "state.json").is_file():
        yield path
    else:
        inside = [one for one in sorted(path.rglob("*")) if one.is_file() and _kind(one) is not None]
        if not inside:
            raise InputError(f"{path}: no corpus file in this folder; supported: {_SUPPORTED}")
        yield from inside


def _kind(path: Path) -> Kind | None:
    compressed = path.suffix in COMPRESSED
    kind = ENDINGS.get(path.with_suffix("").suffix if compressed else path.suffix)
    return None if compressed and kind not in ("jsonl", "txt") else kind  # pyright: ignore[reportReturnType]


def _pieces_of(path: Path, size: int) -> list[Piece]:
    name = path.as_posix()
    if is_folder(path):
        return _ranges(name, "dataset", *_rows_of_dataset(path, size))
    kind = _kind(path)
    assert kind is not None
    if kind == "txt" or path.suffix in COMPRESSED:
        return [Piece(name, kind)] if path.stat().st_size else []
    if kind == "jsonl":
        return _ranges(name, kind, path.stat().st_size, size)
    try:
        if kind == "parquet":
            return _row_groups(path, name)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return _ranges(name, kind, len(array), max(1, size * len(array) // max(1, array.nbytes)))
    except (OSError, ValueError, EOFError, TypeError, pa.ArrowException):
        return [Piece(name, kind)]  # what is wrong with it is said where it is read


def _ranges(name: str, kind: Kind, total: int, each: int) -> list[Piece]:
    return [Piece(name, kind, start, min(start + each, total)) for start in range(0, total, each)]


def _row_groups(path: Path, name: str) -> list[Piece]:
    with parquet.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(at).num_rows for at in range(file.metadata.num_row_groups)]
    ends = np.cumsum([0, *sizes]).tolist()
    return [Piece(name, "parquet", start, stop) for start, stop in pairwise(ends) if start < stop]


def _rows_of_dataset(path: Path, size: int) -> tuple[int, int]:
    """Rows of a saved dataset, and how many of them make a piece.

    Raises:
        InputError: it cannot be read.
    """
    from datasets import load_from_disk

    try:
        json.loads((path / "state.json").read_text("utf8"))
        dataset = load_from_disk(str(path))
        n_rows, n_bytes = len(dataset), sum(file.stat().st_size for file in path.glob("*.arrow"))
    except Exception as error:  # datasets and arrow raise many kinds on damage
        raise InputError(f"{path}: not a dataset that can be read ({error!s:.120})") from error
    return n_rows, max(1, size * n_rows // max(1, n_bytes))


_SUPPORTED = (
    ".jsonl and .txt (also .zst and .gz), .parquet, .npy with tokens, folders of these, and folders of "
    "Dataset.save_to_disk"
)
