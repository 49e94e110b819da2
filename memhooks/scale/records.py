"""Records of a piece, one reader per format: a text or tokens, where they come from, and what could not be read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from memhooks.errors import in_short
from memhooks.scale.corpus import COMPRESSED, Piece
from memhooks.scale.streams import StreamError, lines, runs

COLUMNS = ("tokens", "text", "content")


@dataclass(frozen=True)
class Fault:
    """What could not be read, and why.

    Attributes:
        source: file and place.
        what: is wrong there.
    """

    source: str
    what: str


@dataclass(frozen=True)
class Record:
    """A document, or a run of one.

    Attributes:
        source: file and place of the document.
        content: its text or its tokens.
        first: place of the first token in the document; None where it follows the record before.
        own: how many of the tokens belong to this piece; the rest is there to complete its last windows.
    """

    source: str
    content: str | np.ndarray
    first: int | None = 0
    own: int | None = None


def records(piece: Piece, *, column: str | None, overlap: int, end_of_text: int | None) -> Iterator[Record | Fault]:
    """What a piece holds, in order; damage is a fault among the records and ends the piece only where it must."""
    try:
        if piece.kind == "npy":
            yield from _arrays(piece, overlap, end_of_text)
        else:
            yield from _READERS[piece.kind](piece, column)
    except StreamError as error:
        yield Fault(piece.path, str(error))
    except (OSError, ValueError, EOFError, TypeError, pa.ArrowException) as error:
        yield Fault(piece.path, f"cannot be read: {getattr(error, 'strerror', None) or in_short(error)}")


def _jsonl(piece: Piece, column: str | None) -> Iterator[Record | Fault]:
    whole = Path(piece.path).suffix in COMPRESSED
    for place, line in lines(Path(piece.path), piece.start, None if whole else piece.stop):
        source = f"{piece.path}#{place}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Fault(source, f"not JSON ({in_short(error)})")
            continue
        yield _record(source, row, column)


def _txt(piece: Piece, column: str | None) -> Iterator[Record | Fault]:
    for number, run in enumerate(runs(Path(piece.path))):
        yield Record(piece.path, run, first=None if number else 0)


def _parquet(piece: Piece, column: str | None) -> Iterator[Record | Fault]:
    with parquet.ParquetFile(piece.path) as file:
        wanted = [one for one in ([column] if column else COLUMNS) if one in file.schema_arrow.names]
        begun = 0
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            if piece.start <= begun and (piece.stop is None or begun < piece.stop):
                place = begun
                for batch in file.iter_batches(64, row_groups=[group], columns=wanted):
                    yield from _rows(batch.to_pylist(), piece.path, place, column)
                    place += len(batch)
            begun += n_rows


def _dataset(piece: Piece, column: str | None) -> Iterator[Record | Fault]:
    from datasets import Dataset, load_from_disk

    rows = load_from_disk(piece.path)
    if not isinstance(rows, Dataset):
        yield Fault(piece.path, "a dictionary of datasets; give the folder of one of them")
        return
    stop = len(rows) if piece.stop is None else piece.stop
    for start in range(piece.start, stop, 64):
        batch = rows.select(range(start, min(start + 64, stop)))
        yield from _rows(list(batch), piece.path, start, column)


def _rows(rows: Sequence[Any], path: str, start: int, column: str | None) -> Iterator[Record | Fault]:
    for number, row in enumerate(rows, start):
        yield _record(f"{path}#{number}", row, column)


def _record(source: str, row: object, column: str | None) -> Record | Fault:
    """The document of one row."""
    if not isinstance(row, Mapping):
        return Fault(source, f"expected an object, got {type(row).__name__}")
    name = column or next((one for one in COLUMNS if one in row), None)
    if name is None or name not in row:
        return Fault(source, f"no column {column or ', '.join(COLUMNS)}; it has {', '.join(map(str, list(row)[:5]))}")
    value = row[name]
    if isinstance(value, str):
        return Record(source, value)
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        return Fault(source, f"{name} must be a text or a list of integers, got {type(value).__name__}")
    if any(not 0 <= token < 2**31 for token in value):
        return Fault(source, f"{name} must be token ids, from 0 on and below {2**31}")
    return Record(source, np.array(value, np.int64))


def _arrays(piece: Piece, overlap: int, end_of_text: int | None) -> Iterator[Record | Fault]:
    array = np.load(piece.path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        yield Fault(piece.path, "expected one array of integers with one or two axes")
    elif array.ndim == 2:
        for number in range(piece.start, len(array) if piece.stop is None else piece.stop):
            yield Record(f"{piece.path}#{number}", np.array(array[number]))
    else:
        yield from _stretch(piece, array, overlap, end_of_text)


def _stretch(piece: Piece, array: np.ndarray, overlap: int, end_of_text: int | None) -> Iterator[Record]:
    """The documents of a stretch of running tokens; its last one goes on for as long as its windows do."""
    stop = len(array) if piece.stop is None else piece.stop
    tokens = np.array(array[piece.start : stop + overlap])
    begun = _begin_of_document(array, piece.start, end_of_text)
    ends = np.nonzero(tokens == end_of_text)[0].tolist() if end_of_text is not None else []
    first = 0
    for end in [*ends, len(tokens)]:
        own = min(end, stop - piece.start) - first
        if own > 0:
            where = piece.start + first
            yield Record(f"{piece.path}#{begun}", tokens[first:end], first=where - begun, own=own)
        first, begun = end + 1, piece.start + end + 1
        if first >= stop - piece.start:
            break


def _begin_of_document(array: np.ndarray, place: int, end_of_text: int | None, *, chunk: int = 1 << 20) -> int:
    """Where the document begins that goes on at `place`."""
    while end_of_text is not None and place > 0:
        start = max(0, place - chunk)
        ends = np.nonzero(array[start:place] == end_of_text)[0]
        if len(ends):
            return start + int(ends[-1]) + 1
        place = start
    return 0


_READERS: dict[str, Callable[[Piece, str | None], Iterator[Record | Fault]]] = {
    "jsonl": _jsonl,
    "txt": _txt,
    "parquet": _parquet,
    "dataset": _dataset,
}
