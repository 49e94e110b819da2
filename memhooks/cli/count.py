"""`memhooks count`."""

# Heavy imports stay inside the commands, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from memhooks.cli.options import (
    Address,
    Column,
    EndOfText,
    EngineOption,
    Json,
    OnError,
    PieceMb,
    Restart,
    Workers,
    WorkerThreads,
)
from memhooks.errors import InputError


def count(
    corpus: Annotated[list[Path], typer.Argument(help="Files and folders as for `memhooks scan`.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of the run; the same command goes on there.")] = Path(
        "runs/count"
    ),
    tokenizer: Annotated[
        str | None, typer.Option(help="For text: a model's folder or hub name, or `organism`.")
    ] = None,
    d_vocab: Annotated[
        int | None, typer.Option(help="Size of the vocabulary; the tokenizer's own if there is one.")
    ] = None,
    n_tokens: Annotated[int, typer.Option(min=0, help="Tokens of a window; 0 counts single tokens alone.")] = 100,
    stride: Annotated[int, typer.Option(min=1, help="Tokens between the starts of windows; 1 is every place.")] = 1,
    column: Column = None,
    end_of_text: EndOfText = None,
    on_error: OnError = "stop",
    engine: EngineOption = "local",
    workers: Workers = 1,
    address: Address = None,
    worker_threads: WorkerThreads = 1,
    piece_mb: PieceMb = 8.0,
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """How often does each token occur, and which windows recur?

    Writes `unigrams.npy` (one number per token id, which `--counts` of other commands takes), `windows.parquet` (hash
    and copies of each window that the corpus holds at least twice) and `summary.json`. Counts are exact, but for two
    windows that share a 64-bit hash: of a billion different ones the chance is 1 in 37.

    Memory holds one piece per worker; the windows wait on disk, 8 bytes each. Killed, the same command goes on.

    Examples:
    - `memhooks count corpus/ --tokenizer organism`
    - `memhooks count tokens.npy --d-vocab 50257 --end-of-text 50256 --workers 2`
    - `memhooks count pile/*.jsonl.zst --tokenizer EleutherAI/gpt-neo-125M --n-tokens 0 --on-error skip`
    """
    _check(tokenizer, d_vocab)

    from memhooks.scale.count import count as run
    from memhooks.scale.count import load_tokenizer, summary
    from memhooks.scale.counting import CountSettings
    from memhooks.scale.engine import Engine

    size = len(load_tokenizer(tokenizer)) if d_vocab is None and tokenizer is not None else d_vocab
    assert size is not None
    settings = CountSettings(size, n_tokens, stride, column, end_of_text, piece_mb)
    counts = run(
        corpus,
        folder,
        settings,
        tokenizer=tokenizer,
        engine=Engine(engine, workers, worker_threads, address),
        on_error=on_error,
        restart=restart,
    )
    found = summary(counts)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    from memhooks.terminal import print_table, say

    faults = counts.counted.faults
    shown = {name.replace("_", " "): value for name, value in found.items() if name not in ("by_copies", "faults")}
    print_table(
        "Counted", [{"what": name, "number": value} for name, value in {**shown, "faults": len(faults)}.items()]
    )
    for fault in faults[:10]:
        say(f"skipped {fault.source}: {fault.what}")
    say(f"written: {folder / 'unigrams.npy'}, {folder / 'windows.parquet'}")


def _check(tokenizer: str | None, d_vocab: int | None) -> None:
    """Refuse to count without a vocabulary.

    Raises:
        InputError: neither a tokenizer nor a size is given.
    """
    if tokenizer is None and d_vocab is None:
        raise InputError("give --tokenizer for text, or --d-vocab, the size of the vocabulary, for token files")
