"""Counts a corpus, on this machine or on Ray: see `counting.py` for what is counted and how."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from jaxtyping import Integer, UInt64
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError, in_short
from memhooks.model.labelled import versions
from memhooks.model.loading import BUNDLED, asset
from memhooks.model.sources import read_tokenizer
from memhooks.one_run import MANIFEST, alone_in, begin, code_hash, manifest_of
from memhooks.paragraphs.contents import check_file
from memhooks.paragraphs.ngrams import lookup, ngram_hashes
from memhooks.progress import tracked
from memhooks.scale.corpus import Piece, file_sizes, pieces
from memhooks.scale.counting import Counts, CountSettings, count_piece, is_counted, merge
from memhooks.scale.engine import Engine
from memhooks.scale.segments import OnError
from memhooks.writing import whole_file


def count(
    paths: Sequence[str | Path],
    folder: str | Path,
    settings: CountSettings,
    *,
    tokenizer: str | None = None,
    engine: Engine | None = None,
    on_error: OnError = "stop",
    restart: bool = False,
) -> Counts:
    """Count a corpus's tokens and repeated windows into a folder: unigrams.npy, windows.parquet and summary.json.

    Args:
        paths: files and folders as for `scan`.
        folder: of the run; the same call goes on with a count that was cut short.
        settings: what is counted.
        tokenizer: model folder, hub name, `organism`; needed for text.
        engine: who does the work; one worker in this process by default.
        on_error: whether damaged records and files end the count, or are named, counted and skipped.
        restart: forget the count that the folder holds.

    Raises:
        InputError: a file is missing or damaged, ids lie outside the vocabulary, or the folder holds another count.
        OSError: the disk is full; what is done is kept.
    """
    folder, engine = Path(folder), engine or Engine()
    todo = pieces(paths, piece_mb=settings.piece_mb)
    with alone_in(folder):
        if restart:
            _clear(folder)
        begin(folder, {"settings": asdict(settings) | {"tokenizer": tokenizer}, "corpus":
                        file_sizes(todo), "versions": versions() | {"memhooks code": code_hash()}})  # fmt: skip
        parts = [part_path(folder, number) for number in range(len(todo))]
        parts[0].parent.mkdir(exist_ok=True)
        missing = [(number, piece) for number, piece in enumerate(todo) if not is_counted(parts[number])]
        make = {"folder": str(folder), "settings": settings, "tokenizer": tokenizer, "on_error": on_error}
        for _ in tracked(
            engine.map(counter, make, missing, in_threads=True), "pieces of the corpus", total=len(missing)
        ):
            pass
        counts = merge(parts, threads=engine.workers)
        _write(folder, counts, settings)
    return counts


def counter(
    folder: str, settings: CountSettings, tokenizer: str | None, on_error: OnError
) -> Callable[[tuple[int, Piece]], int]:
    """A worker: it takes a numbered piece, leaves its part on disk, and returns its number."""
    reads = None if tokenizer is None else load_tokenizer(tokenizer)

    def work(item: tuple[int, Piece]) -> int:
        number, piece = item
        count_piece(piece, part_path(Path(folder), number), settings, tokenizer=reads, on_error=on_error)
        return number

    return work


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A model's tokenizer, without the model.

    Raises:
        InputError: there is none.
    """
    found = read_tokenizer(asset(name) if name in BUNDLED else name)
    if found is None:
        raise InputError(f"{name}: there is no tokenizer in this folder; give one that has tokenizer.json")
    return found


def part_path(folder: Path, number: int) -> Path:
    """Where the part of a piece lies, but for its endings."""
    return folder / "parts" / f"{number:06d}"


@dataclass(frozen=True)
class WindowCounts:
    """Windows that a corpus holds at least twice.

    Attributes:
        n_tokens: of a window.
        hashes: of the windows, sorted.
        copies: of each.
    """

    n_tokens: int
    hashes: UInt64[np.ndarray, " distinct"]
    copies: Integer[np.ndarray, " distinct"]

    def of(self, tokens: Integer[np.ndarray, "row pos"]) -> Integer[np.ndarray, " row"]:
        """How often each row stands in the corpus; 0 means once or never.

        Raises:
            InputError: rows of another length were counted.
        """
        if tokens.shape[1] != self.n_tokens:
            raise InputError(f"windows of {self.n_tokens} tokens were counted, got rows of {tokens.shape[1]}")
        return lookup(ngram_hashes(tokens, self.n_tokens)[:, 0], self.hashes, self.copies)


def load_window_counts(path: str | Path) -> WindowCounts:
    """The windows.parquet of a count.

    Raises:
        InputError: it is missing or damaged.
    """
    check_file(Path(path), "window counts")
    try:
        table = parquet.read_table(path, page_checksum_verification=True)
        about = json.loads((table.schema.metadata or {})[b"windows"])
        return WindowCounts(about["n_tokens"], table["hash"].to_numpy(), table["copies"].to_numpy())
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: no window counts as `memhooks count` writes them ({in_short(error)})") from error


def _write(folder: Path, counts: Counts, settings: CountSettings) -> None:
    with whole_file(folder / "unigrams.npy") as partial, partial.open("wb") as file:
        np.save(file, counts.tokens)
    about = json.dumps({"n_tokens": settings.n_tokens, "stride": settings.stride})
    table = pa.table({"hash": counts.hashes, "copies": counts.copies}).replace_schema_metadata({"windows": about})
    with whole_file(folder / "windows.parquet") as partial:
        parquet.write_table(table, partial, write_page_checksum=True)
    with whole_file(folder / "summary.json") as partial:
        partial.write_text(json.dumps(summary(counts), indent=2))


def summary(counts: Counts) -> dict[str, object]:
    """Numbers of documents, tokens, windows and copies, and faults, as plain data."""
    return asdict(counts.counted) | {
        "ids_seen": int((counts.tokens > 0).sum()),
        "distinct_windows": sum(counts.by_copies.values()),
        "repeated_windows": len(counts.hashes),
        "by_copies": {str(number): times for number, times in counts.by_copies.items()},
    }


def _clear(folder: Path) -> None:
    """Delete the count that the folder holds, if it holds one, and nothing else."""
    if manifest_of(folder) is not None:
        for path in [*folder.glob("parts/*.npy*"), *folder.glob("parts/*.json*")]:
            path.unlink()
        for name in ("unigrams.npy", "windows.parquet", "summary.json", MANIFEST):
            (folder / name).unlink(missing_ok=True)
