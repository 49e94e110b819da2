"""What does the model recite of a corpus? Files are cut into pieces, pieces into windows, and most are soon dropped.

1. `corpus.pieces` names parts of the files that can be read alone.
2. A worker streams a piece: documents, windows (`windows.py`), the filter, the gate (`gate.py`).
3. What the rule keeps goes to disk block by block (`parts.py`); a scan that was killed goes on from there.
4. The finds of all pieces, in the corpus's order, are merged (`merging.py`) into `found.parquet`.

The engine (`engine.py`) says who does step 2. As each piece is computed alone, it changes nothing in what is found.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from memhooks.errors import InputError
from memhooks.model.labelled import versions
from memhooks.model.loading import HookedModel
from memhooks.model.precision import Precision, check_device, check_name, load_at, matmul_precision
from memhooks.model.provenance import model_hash
from memhooks.one_run import MANIFEST, alone_in, begin, code_hash, manifest_of
from memhooks.progress import tracked
from memhooks.scale.corpus import Piece, file_sizes, pieces
from memhooks.scale.engine import Engine
from memhooks.scale.found import Found, merge_parts
from memhooks.scale.gate import gated
from memhooks.scale.parts import Part, Parts, Tally, finds_table
from memhooks.scale.records import Fault
from memhooks.scale.scan_settings import ScanSettings
from memhooks.scale.segments import OnError, segments
from memhooks.scale.windows import Window, blocks, varied, windows

T = TypeVar("T")
BLOCK = 4096
"""Windows that are kept on disk together: a killed scan does so many again at most, per worker."""


@dataclass(frozen=True)
class Source:
    """The model that reads, as a name that every worker can load."""

    name: str = "organism"
    device: str = "cpu"
    precision: Precision = "fp32"

    def load(self) -> HookedModel:
        """The model, loaded once per process."""
        return _load(self)


@lru_cache(maxsize=1)
def _load(source: Source) -> HookedModel:
    return load_at(source.name, device=source.device, precision=source.precision)


def scan(
    paths: Sequence[str | Path],
    folder: str | Path,
    *,
    source: Source | None = None,
    settings: ScanSettings | None = None,
    engine: Engine | None = None,
    on_error: OnError = "stop",
    restart: bool = False,
) -> Found:
    """Find what a model recites of a corpus, and write it to `found.parquet` and `summary.json` in a folder.

    Args:
        paths: files (.jsonl, .txt, both also .zst and .gz; .parquet; token .npy), folders of such files, and folders
            that `Dataset.save_to_disk` wrote.
        folder: of the run; the same call goes on with a scan that was cut short.
        source: the model.
        settings: windows, filters, and what is kept.
        engine: who does the work; one worker in this process by default.
        on_error: whether damaged records and files end the scan, or are named, counted and skipped.
        restart: forget the scan that the folder holds.

    Raises:
        InputError: a file is missing or damaged, settings do not fit the model, or the folder holds another scan.
        OSError: the disk is full; what is done is kept.
    """
    folder, source = Path(folder), source or Source()
    settings, engine = settings or ScanSettings(), engine or Engine()
    todo = pieces(paths, piece_mb=settings.piece_mb)
    check_name(source.precision, check_device(source.device))
    model = source.load()
    settings.check(model)
    with alone_in(folder):
        parts = Parts(folder)
        if restart:
            _clear(parts)
        _begin(folder, source, settings, todo)
        missing = [(number, piece) for number, piece in enumerate(todo) if not parts.done(number)]
        make = {"folder": str(folder), "source": source, "settings": settings, "on_error": on_error}
        for _ in tracked(engine.map(scanner, make, missing), "pieces of the corpus", total=len(missing)):
            pass
        return merge_parts(folder, [parts.read(number) for number in range(len(todo))], model, settings)


def scanner(folder: str, source: Source, settings: ScanSettings, on_error: OnError) -> Callable[[tuple], int]:
    """A worker: it takes a numbered piece, leaves its part on disk, and returns its number."""
    model, parts = source.load(), Parts(Path(folder))

    def work(item: tuple[int, Piece]) -> int:
        with matmul_precision(source.precision):
            scan_piece(model, *item, parts, settings, on_error=on_error)
        return item[0]

    return work


def scan_piece(
    model: HookedModel, number: int, piece: Piece, parts: Parts, settings: ScanSettings, *, on_error: OnError
) -> None:
    """Read one piece and leave its part on disk; blocks that lie there already are read, but not measured again."""
    faults: list[Fault] = []
    stream = segments(
        piece,
        tokenizer=model.tokenizer,
        overlap=settings.n_tokens - 1,
        column=settings.column,
        end_of_text=settings.end_of_text,
        on_error=on_error,
        faults=faults,
    )
    done = parts.read_blocks(number)
    every = blocks(windows(stream, n_tokens=settings.n_tokens, stride=settings.stride), BLOCK)
    for at, block in enumerate(_ahead(every)):
        if at < len(done):
            continue
        done.append(_measured(model, block, settings))
        parts.write_block(number, at, done[-1])
    parts.finish(number, done, faults)


def _measured(model: HookedModel, block: list[Window], settings: ScanSettings) -> Part:
    """What is kept of a block of windows."""
    tokens = np.stack([window.tokens for window in block]).astype(np.int64)
    _check_ids(tokens, block, model.cfg.d_vocab)
    fit = np.nonzero(varied(tokens, min_unique=settings.min_unique))[0]
    n = settings.n_tokens - settings.n_prefix
    if not len(fit):
        return Part(Tally(len(block), len(block), [0] * (n + 1)))
    found = gated(
        model,
        torch.from_numpy(tokens[fit]),
        n_prefix=settings.n_prefix,
        rule=settings.rule,
        batch_size=settings.batch_size,
    )
    kept = found.kept.numpy()
    tally = Tally(len(block), len(block) - len(fit), torch.bincount(found.exact_match, minlength=n + 1).tolist())
    rows = fit[kept]
    places = [block[row].source for row in rows], [block[row].offset for row in rows]
    measured = found.exact_match.numpy()[kept], found.log_probability.numpy()[kept]
    return Part(tally, finds_table(tokens[rows], *places, *measured))


def _check_ids(tokens: np.ndarray, block: list[Window], d_vocab: int) -> None:
    outside = (tokens < 0) | (tokens >= d_vocab)
    if outside.any():
        row = int(np.nonzero(outside.any(1))[0][0])
        raise InputError(
            f"{block[row].source}: token ids must lie in 0..{d_vocab - 1} (the model's vocabulary), got "
            f"{tokens[row][outside[row]][0]}; were the tokens made with another tokenizer?"
        )


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made in a thread while the last is worked on: reading waits for no model."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # pyright: ignore[reportReturnType] - not the end


def _begin(folder: Path, source: Source, settings: ScanSettings, todo: Sequence[Piece]) -> None:
    """Write the manifest, or compare with the one that is there."""
    now = {
        "settings": asdict(settings),
        "model": {"name": source.name, "hash": model_hash(source.load()), "precision": source.precision},
        "corpus": file_sizes(todo),
        "versions": versions() | {"memhooks code": code_hash()},
    }
    begin(folder, now)


def _clear(parts: Parts) -> None:
    """Delete the scan that the folder holds, if it holds one, and nothing else."""
    if manifest_of(parts.folder) is not None:
        parts.clear()
        for name in ("found.parquet", "summary.json", MANIFEST):
            (parts.folder / name).unlink(missing_ok=True)
