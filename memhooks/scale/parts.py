"""What a scan has found so far, on disk: one file per finished piece, one per block of an unfinished one.

`parts/000012.parquet` holds the finds of piece 12, `parts/000012.003.parquet` those of its fourth block. Every file is
written whole or not at all, and says in its metadata how many windows it stands for. So a killed scan loses one block.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from memhooks.errors import InputError, in_short
from memhooks.scale.records import Fault
from memhooks.writing import whole_file

_SCHEMA = pa.schema(
    {
        "tokens": pa.list_(pa.int32()),
        "source": pa.string(),
        "offset": pa.int64(),
        "exact_match": pa.int32(),
        "log_probability": pa.float64(),
    }
)


@dataclass(frozen=True)
class Tally:
    """How many windows a part stands for, and what became of them.

    Attributes:
        windows: all of them.
        dropped: by the filters, before the model read them.
        matches: windows by their exact match, from 0 to the whole continuation.
        faults: of reading, where they are skipped.
    """

    windows: int = 0
    dropped: int = 0
    matches: Sequence[int] = ()
    faults: Sequence[Fault] = ()

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        n = max(len(self.matches), len(other.matches))
        matches = [sum(each) for each in zip(_padded(self.matches, n), _padded(other.matches, n), strict=True)]
        return Tally(self.windows + other.windows, self.dropped + other.dropped, matches, [*self.faults, *other.faults])


@dataclass(frozen=True)
class Part:
    """Finds and their tally."""

    tally: Tally = field(default_factory=Tally)
    finds: pa.Table = field(default_factory=_SCHEMA.empty_table)

    def plus(self, other: "Part") -> "Part":
        """Both together, in this order."""
        return Part(self.tally.plus(other.tally), pa.concat_tables([self.finds, other.finds]))


def finds_table(
    tokens: np.ndarray, sources: Sequence[str], offsets: Sequence[int], matches: np.ndarray, logs: np.ndarray
) -> pa.Table:
    """The kept windows of a block."""
    columns = (list(tokens.astype(np.int32)), sources, offsets, matches, logs)
    return pa.table([pa.array(one, kind.type) for one, kind in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)


@dataclass(frozen=True)
class Parts:
    """The parts of a scan's folder."""

    folder: Path

    def done(self, piece: int) -> bool:
        """Whether a piece is finished."""
        return self._path(piece).exists()

    def read(self, piece: int) -> Part:
        """A finished piece's part."""
        return _read(self._path(piece))

    def read_blocks(self, piece: int) -> list[Part]:
        """The blocks of an unfinished piece, from its first on."""
        blocks = []
        while (path := self._path(piece, len(blocks))).exists():
            blocks.append(_read(path))
        return blocks

    def write_block(self, piece: int, block: int, part: Part) -> None:
        """Keep a block's finds."""
        _write(self._path(piece, block), part)

    def finish(self, piece: int, blocks: Sequence[Part], faults: Sequence[Fault]) -> None:
        """Make one part of a piece's blocks; it is there before they go."""
        whole = Part(Tally(faults=faults))
        for block in blocks:
            whole = whole.plus(block)
        _write(self._path(piece), whole)
        for number in range(len(blocks)):
            self._path(piece, number).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all parts, and nothing else."""
        for path in self.folder.glob("parts/*.parquet*"):
            path.unlink()

    def _path(self, piece: int, block: int | None = None) -> Path:
        return self.folder / "parts" / (f"{piece:06d}" + ("" if block is None else f".{block:03d}") + ".parquet")


def _write(path: Path, part: Part) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = part.finds.replace_schema_metadata({"tally": json.dumps(asdict(part.tally))})
    with whole_file(path) as partial:
        parquet.write_table(table, partial, write_page_checksum=True)


def _read(path: Path) -> Part:
    try:
        table = parquet.read_table(path, page_checksum_verification=True)
        about = json.loads((table.schema.metadata or {})[b"tally"])
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged ({in_short(error)}); delete this file, and the scan goes on") from error
    faults = [Fault(**fault) for fault in about.pop("faults")]
    return Part(Tally(**about, faults=faults), table.replace_schema_metadata())


def _padded(counts: Sequence[int], n: int) -> list[int]:
    return [*counts, *[0] * (n - len(counts))]
