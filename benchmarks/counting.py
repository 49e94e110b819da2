"""Counting a corpus: tokens and all windows of 100, from token files and from text, against the tokenizer and a peer.

Floor of token files: a uint16 token is read (2 bytes); its window's hash is written and read once (16 bytes), and each
sorting pass that leaves the cache moves it again (16 bytes). At 10 GB/s and one such pass that is 3.4 ns per token,
300 M tokens/s. Without windows 2 bytes move: the additions into the counts, one per token, are what is left.

Floor of text: the tokenizer's own `encode_batch` of the same texts, with the same threads.

Peer of windows: `collections.Counter` of the windows as bytes, which is exact, too.

`python -m benchmarks.counting` (about a minute; `--only files`, `text` or `peer` for a part).
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from memhooks.organism.paragraphs import load_controls
from memhooks.scale.corpus import Piece, pieces
from memhooks.scale.count import count, load_tokenizer
from memhooks.scale.counting import Counts, CountSettings, count_piece, merge
from memhooks.scale.engine import Engine

CONSOLE = Console()
N_TOKENS, D_VOCAB, N_COPIED, ROUNDS = 40_000_000, 50257, 500_000, 5


def files(place: Path) -> None:
    """Tokens per second from a file of Zipf's tokens, with the merging of what was found."""
    path = place / "tokens.npy"
    np.save(path, zipf(N_TOKENS))
    table = Table(title=f"{N_TOKENS / 1e6:.0f} M tokens of uint16 with {N_COPIED:,} copied, best of {ROUNDS}")
    for column in ("counted", "workers", "pieces, s", "merging, s", "M tokens/s"):
        table.add_column(column)
    spawned = partial(ProcessPoolExecutor, 2, get_context("spawn"))
    pools: dict[str, Callable[[], Executor]] = {
        "1": partial(ThreadPoolExecutor, 1),
        "2 threads": partial(ThreadPoolExecutor, 2),
        "2 processes": spawned,
    }
    for n_tokens in (0, 100):
        settings = CountSettings(D_VOCAB, n_tokens)
        name = f"tokens and windows of {n_tokens}" if n_tokens else "tokens"
        for workers, make in pools.items():
            with make() as pool:
                list(pool.map(time.sleep, [0.5, 0.5]))  # processes are there before the clock runs
                counted, merged = min(
                    (parts_of(path, place, settings, pool, int(workers[0])) for _ in range(ROUNDS)), key=sum
                )
            rate = N_TOKENS / (counted + merged) / 1e6
            table.add_row(name, workers, f"{counted:.2f}", f"{merged:.2f}", f"{rate:.1f}")
        for workers in (1, 2):
            seconds = min(run_of(path, settings, workers) for _ in range(ROUNDS))
            table.add_row(f"{name}, the whole run", f"{workers}", "", "", f"{N_TOKENS / seconds / 1e6:.1f}")
    CONSOLE.print(table)


def parts_of(path: Path, place: Path, settings: CountSettings, pool: Executor, threads: int) -> tuple[float, float]:
    """Seconds of counting the pieces of a file, and of merging them.

    Raises:
        AssertionError: the planted copies were not found.
    """
    todo = pieces([path])
    parts = [place / f"{number:04d}" for number in range(len(todo))]
    start = time.perf_counter()
    list(pool.map(partial(_piece, settings), zip(todo, parts, strict=True)))
    between = time.perf_counter()
    found = merge(parts, threads=threads)
    end = time.perf_counter()
    _check(found, settings)
    return between - start, end - between


def _piece(settings: CountSettings, item: tuple[Piece, Path]) -> None:
    count_piece(*item, settings)


def _check(found: Counts, settings: CountSettings) -> None:
    """Stop where what was planted was not found.

    Raises:
        AssertionError: it was not.
    """
    expected = {1: N_TOKENS - 99 - 2 * (N_COPIED - 99), 2: N_COPIED - 99} if settings.n_tokens else {}
    if found.counted.tokens != N_TOKENS or found.by_copies != expected:
        raise AssertionError(
            f"expected {N_TOKENS} tokens and {expected}, got {found.counted.tokens}, {found.by_copies}"
        )


def run_of(path: Path, settings: CountSettings, workers: int) -> float:
    """Seconds of `memhooks count` after its imports, with all that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = count([path], folder, settings, engine=Engine(workers=workers))
        seconds = time.perf_counter() - start
    _check(found, settings)
    return seconds


def text(place: Path) -> None:
    """Tokens per second from lines of text beside the tokenizer alone, all with the tokenizer's own threads.

    Raises:
        AssertionError: the tokenizer alone finds another number of tokens.
    """
    tokenizer = load_tokenizer("organism")
    known = tokenizer.batch_decode(load_controls().tokens[:200])
    choice = np.random.default_rng(0).integers(0, len(known), (2000, 20))
    texts = [" ".join(known[at] for at in row) for row in choice]
    path = place / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": one}) for one in texts))
    fast = cast(Any, tokenizer).backend_tokenizer
    n_tokens = sum(len(one.ids) for one in fast.encode_batch(texts, add_special_tokens=False))
    settings = CountSettings(len(tokenizer))

    def ours() -> None:
        parts = []
        for number, piece in enumerate(pieces([path])):
            parts.append(place / f"text{number}")
            count_piece(piece, parts[-1], settings, tokenizer=tokenizer)
        if (found := merge(parts).counted.tokens) != n_tokens:
            raise AssertionError(f"expected {n_tokens} tokens, got {found}")

    ways: dict[str, Callable[[], object]] = {
        "encode_batch": lambda: batches(fast.encode_batch, texts),
        "encode_batch_fast": lambda: batches(fast.encode_batch_fast, texts),
        "counting, tokens and windows of 100": ours,
    }
    seconds = dict.fromkeys(ways, np.inf)
    for _ in range(ROUNDS):  # in turn, so that what else the machine does meets all of them
        for name, way in ways.items():
            seconds[name] = min(seconds[name], timed(way))
    table = Table(title=f"{n_tokens / 1e6:.1f} M tokens of text, tokenizer of the organism, best of {ROUNDS}")
    for column in ("way", "M tokens/s", "times encode_batch"):
        table.add_column(column)
    for name, taken in seconds.items():
        table.add_row(name, f"{n_tokens / taken / 1e6:.2f}", f"{seconds['encode_batch'] / taken:.2f}")
    CONSOLE.print(table)


def batches(encode: Callable[..., object], texts: list[str], each: int = 100) -> None:
    """Encode so many texts at a time, as a stream would."""
    for start in range(0, len(texts), each):
        encode(texts[start : start + each], add_special_tokens=False)


def peer(place: Path) -> None:
    """Windows of 100 of 400,000 tokens, one thread each.

    Raises:
        AssertionError: the two find different counts.
    """
    tokens = zipf(400_000, copied=20_000)
    path = place / "few.npy"
    np.save(path, tokens)
    found: dict[str, dict[int, int]] = {}

    def theirs() -> None:
        whole = tokens.tobytes()
        every = Counter(whole[start : start + 200] for start in range(0, len(whole) - 198, 2))
        found["peer"] = dict(Counter(every.values()))

    def ours() -> None:
        (piece,) = pieces([path])
        count_piece(piece, place / "few", CountSettings(D_VOCAB))
        found["ours"] = merge([place / "few"]).by_copies

    times = {way.__name__: min(timed(way) for _ in range(ROUNDS)) for way in (theirs, ours)}
    if found["peer"] != found["ours"]:
        raise AssertionError(f"a Counter finds {found['peer']}, counting finds {found['ours']}")
    CONSOLE.print(
        f"Counter of bytes: {0.4 / times['theirs']:.2f} M windows/s; here, with files, {0.4 / times['ours']:.1f}: "
        f"{times['theirs'] / times['ours']:.0f} times, equal counts"
    )


def zipf(n_tokens: int, *, copied: int = N_COPIED) -> np.ndarray:
    """Zipf's tokens, with a stretch of the beginning again in the second half."""
    tokens = (np.random.default_rng(0).zipf(1.3, n_tokens).astype(np.int64) % D_VOCAB).astype(np.uint16)
    tokens[n_tokens // 2 : n_tokens // 2 + copied] = tokens[:copied]
    return tokens


def timed(way: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("files", "text", "peer"))
    asked = parser.parse_args().only
    for name, part in {"files": files, "text": text, "peer": peer}.items():
        if asked in (None, name):
            with tempfile.TemporaryDirectory() as place:
                part(Path(place))


if __name__ == "__main__":
    main()
