"""How often does each token occur in a corpus, and which windows stand there more than once? Exactly, in any order.

1. A worker streams a piece once: tokens are counted, and each window's 64-bit hash is written to disk, sorted.
2. Token counts are added up.
3. Windows are merged range by range of hashes, so many ranges that each fits into memory; equal neighbours are copies.

Nothing but one piece per worker, and one range, is in memory. Counts of two corpora add up: `merge` takes the parts of
any number of runs. Equal windows have equal hashes; two of a billion different ones share one with a chance of 1 in 37.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Integer, UInt64
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError, in_short
from memhooks.progress import tracked
from memhooks.scale.corpus import Piece
from memhooks.scale.records import Fault
from memhooks.scale.rolling import window_hashes
from memhooks.scale.segments import OnError, Segment, segments
from memhooks.writing import whole_file

T = TypeVar("T")
_IN_MEMORY = 1 << 23
"""Hashes that are merged at once: 64 MB, as sorting is fast near the cache."""


@dataclass(frozen=True)
class CountSettings:
    """What is counted.

    Attributes:
        d_vocab: size of the vocabulary.
        n_tokens: of a window; 0 counts tokens alone.
        stride: tokens from one window's start to the next.
        column: of records.
        end_of_text: id that ends documents in one-dimensional token files.
        piece_mb: size of the pieces; a worker has a piece's windows in memory, 4 times a file of 16-bit tokens.
    """

    d_vocab: int
    n_tokens: int = 100
    stride: int = 1
    column: str | None = None
    end_of_text: int | None = None
    piece_mb: float | int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be counted.

        Raises:
            InputError: a setting out of range.
        """
        if self.d_vocab < 1:
            raise InputError(f"d_vocab must be at least 1, got {self.d_vocab}")
        if self.n_tokens < 0 or self.stride < 1:
            raise InputError(
                f"n_tokens must be at least 0 and stride at least 1, got {self.n_tokens} and {self.stride}"
            )


@dataclass(frozen=True)
class Counted:
    """How much a part holds.

    Attributes:
        documents: that begin in it.
        tokens: of it.
        windows: that begin in it.
        faults: of reading, where they are skipped.
    """

    documents: int = 0
    tokens: int = 0
    windows: int = 0
    faults: Sequence[Fault] = ()


def count_piece(
    piece: Piece,
    path: Path,
    settings: CountSettings,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_error: OnError = "stop",
) -> None:
    """Count one piece and leave the part on disk: `path` with the endings .tokens.npy, .windows.npy and, last, .json.

    Raises:
        InputError: what cannot be read, if it is not skipped; ids outside the vocabulary.
    """
    faults: list[Fault] = []
    stream = segments(
        piece,
        tokenizer=tokenizer,
        overlap=max(0, settings.n_tokens - 1),
        column=settings.column,
        end_of_text=settings.end_of_text,
        on_error=on_error,
        faults=faults,
    )
    tokens, hashes, n_documents = np.zeros(settings.d_vocab, np.int64), [np.zeros(0, np.uint64)], 0
    for segment in stream:
        tokens += _token_counts(segment, settings.d_vocab)
        n_documents += segment.first == 0
        if settings.n_tokens:
            every = window_hashes(segment.tokens, settings.n_tokens)
            hashes.append(every[-segment.first % settings.stride :: settings.stride])
    whole = np.concatenate(hashes)
    whole.sort()
    _save(path, ".tokens.npy", tokens)
    _save(path, ".windows.npy", whole)
    counted = Counted(n_documents, int(tokens.sum()), len(whole), faults)
    with whole_file(path.with_name(path.name + ".json")) as partial:
        partial.write_text(json.dumps(asdict(counted)))


def is_counted(path: Path) -> bool:
    """Whether a part is there."""
    return path.with_name(path.name + ".json").exists()


@dataclass(frozen=True)
class Counts:
    """The counts of a corpus.

    Attributes:
        tokens: occurrences of each id.
        hashes: of the windows that stand there at least twice, sorted.
        copies: how often each of them does.
        by_copies: for each number of copies, how many different windows have it.
        counted: documents, tokens, windows and faults.
    """

    tokens: Integer[np.ndarray, " d_vocab"]
    hashes: UInt64[np.ndarray, " distinct"]
    copies: Integer[np.ndarray, " distinct"]
    by_copies: dict[int, int]
    counted: Counted


def merge(parts: Sequence[Path], *, in_memory: int = _IN_MEMORY, threads: int = 1) -> Counts:
    """Add up the parts of one corpus or of several.

    Args:
        parts: as `count_piece` was given them.
        in_memory: window hashes that may be in memory at once, about.
        threads: ranges that are merged side by side.

    Raises:
        InputError: there are none, one is missing or damaged, or they have different vocabularies.
    """
    if not parts:
        raise InputError("there is nothing to merge: no parts of a count were given")
    each = [_counted(path) for path in parts]
    tokens = _load(parts[0], ".tokens.npy").astype(np.int64)
    for path in parts[1:]:
        more = _load(path, ".tokens.npy")
        if len(more) != len(tokens):
            raise InputError(f"{path}: counts of {len(more)} ids, the others of {len(tokens)}; count them anew")
        tokens += more
    counted = Counted(
        *(sum(getattr(one, name) for one in each) for name in ("documents", "tokens", "windows")),
        faults=[fault for one in each for fault in one.faults],
    )
    n_ranges = 1 << (counted.windows // max(1, in_memory // threads)).bit_length()
    files = [_load(path, ".windows.npy") for path in parts]
    again, n_once = [(np.zeros(0, np.uint64), np.zeros(0, np.int64))], 0
    with ThreadPoolExecutor(threads) as pool:  # numpy sorts without holding Python's lock
        ranges = pool.map(lambda at: _repeated(_range(files, at, n_ranges)), range(n_ranges))
        for hashes, copies, once in tracked(ranges, "merging windows", total=n_ranges):
            again.append((hashes, copies))
            n_once += once
    hashes, copies = (np.concatenate(each) for each in zip(*again, strict=True))
    numbers, times = np.unique(copies, return_counts=True)
    by_copies = ({1: n_once} if n_once else {}) | dict(zip(numbers.tolist(), times.tolist(), strict=True))
    return Counts(tokens, hashes, copies, by_copies, counted)


def _range(files: Sequence[np.ndarray], at: int, n_ranges: int) -> UInt64[np.ndarray, " window"]:
    """The hashes of all files, which are sorted, that lie in one of so many ranges; sorted."""
    bounds = [np.uint64(edge * (2**64 // n_ranges)) for edge in (at, at + 1) if edge < n_ranges]
    cuts = [[*np.searchsorted(one, bounds).tolist(), len(one)] for one in files]
    whole = np.concatenate([one[cut[0] : cut[1]] for one, cut in zip(files, cuts, strict=True)])
    whole.sort()
    return whole


def _repeated(
    whole: UInt64[np.ndarray, " window"],
) -> tuple[UInt64[np.ndarray, " distinct"], Integer[np.ndarray, " distinct"], int]:
    """Of sorted hashes those that stand there more than once, how often, and the number of the others."""
    same = np.flatnonzero(whole[1:] == whole[:-1])  # few: everything after this costs next to nothing
    begins = np.flatnonzero(np.diff(same, prepend=-2) > 1)
    copies = np.diff(np.append(begins, len(same))) + 1
    return whole[same[begins]], copies, len(whole) - int(copies.sum())


def _token_counts(segment: Segment, d_vocab: int) -> Integer[np.ndarray, " d_vocab"]:
    own = segment.tokens[slice(*segment.own)]
    if len(own) and (own.min() < 0 or own.max() >= d_vocab):
        raise InputError(
            f"{segment.source}: token ids must lie in 0..{d_vocab - 1}, got {own.min()}..{own.max()}; were they made "
            "with another tokenizer?"
        )
    return np.bincount(own, minlength=d_vocab)


def _save(path: Path, ending: str, array: np.ndarray) -> None:
    with whole_file(path.with_name(path.name + ending)) as partial, partial.open("wb") as file:
        np.save(file, array)


def _load(path: Path, ending: str) -> np.ndarray:
    file = path.with_name(path.name + ending)
    return _tried(file, lambda: np.load(file, mmap_mode="r", allow_pickle=False))


def _counted(path: Path) -> Counted:
    file = path.with_name(path.name + ".json")
    about: dict[str, Any] = _tried(file, lambda: json.loads(file.read_text()))
    faults = [Fault(**fault) for fault in about.pop("faults")]
    return Counted(**about, faults=faults)


def _tried(file: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{file}: cannot be read ({in_short(error)}); delete it and its part's .json, and count again"
        ) from error
