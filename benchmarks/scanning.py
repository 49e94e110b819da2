"""Scanning a corpus: the gate against decoding every window, workers against one, and memory against size.

Floor of the gate: each window's prefix must be read once, 2 x block weights x n_prefix multiplications and additions,
and one position unembedded; windows that go on being recited cost up to twice that.

Peer: Hugging Face `generate` with its cache, 50 tokens per window, which is how such scans are usually written.

`python -m benchmarks.scanning` (about 10 minutes; `--only gate`, `workers` or `memory` for a part).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import GPTNeoForCausalLM

from benchmarks.floor import matrix_rate
from benchmarks.recitation import best_of, decode
from memhooks.model.components import component_parameters
from memhooks.model.loading import asset, load_model
from memhooks.organism.paragraphs import load_controls, load_planted
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.scale.engine import Engine
from memhooks.scale.gate import gated
from memhooks.scale.rules import Rule
from memhooks.scale.scan import scan
from memhooks.scale.scan_settings import ScanSettings

CONSOLE = Console()


def gate() -> None:
    """Windows of which one in twenty recites, as in a corpus with many repetitions, and none at all."""
    model = load_model("organism")
    peer = GPTNeoForCausalLM.from_pretrained(asset("organism"), dtype=torch.float32).eval()
    unread, recited = load_controls().tokens[:152], load_planted("A", at_least=128).tokens[:8]
    table = Table(title=f"160 windows, organism, {torch.get_num_threads()} threads")
    for column in ("windows", "gate, s", "generate, s", "ratio", "times the floor", "findings"):
        table.add_column(column)
    for name, tokens in {"8 recited": torch.cat([unread, recited]), "none recited": unread}.items():
        rows = Paragraphs(tokens, 50)
        ours = best_of(lambda tokens=tokens: gated(model, tokens, n_prefix=50, rule=Rule(), batch_size=32))
        theirs = best_of(lambda rows=rows: decode(peer, rows), repeats=2)
        kept = gated(model, tokens, n_prefix=50, rule=Rule(), batch_size=32).kept
        decoded = (torch.cat(decode(peer, rows))[:, 50:] == rows.continuation).all(1)
        weights = sum(weight.numel() for weight in component_parameters(model).values())
        floor = 2 * len(tokens) * (50 * weights + model.cfg.d_model * model.cfg.d_vocab) / matrix_rate()
        same = "equal" if torch.equal(kept, decoded) else "DIFFER"
        table.add_row(
            name, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}", f"{ours / floor:.1f}", f"{same}, {kept.sum()}"
        )
    CONSOLE.print(table)


def workers() -> None:
    """Windows per second of one and two workers of one thread each, after their start."""
    table = Table(title="scan of 2,000 windows and of 400; the difference leaves out the start of workers and of Ray")
    for column in ("engine", "workers", "400 windows, s", "2,000 windows, s", "windows/s", "times one here"):
        table.add_column(column)
    base = 0.0
    for engine in (Engine(), Engine(workers=2), Engine("ray"), Engine("ray", workers=2)):
        few, many = (_scan_seconds(engine, n) for n in (400, 2000))
        rate = 1600 / (many - few)
        base = base or rate
        table.add_row(engine.name, str(engine.workers), *(f"{x:.1f}" for x in (few, many, rate)), f"{rate / base:.2f}")
    CONSOLE.print(table)


def _scan_seconds(engine: Engine, n_windows: int) -> float:
    tokens = np.tile(load_controls().tokens.numpy(), (4, 1))[:n_windows]
    with tempfile.TemporaryDirectory() as place:
        np.save(Path(place) / "rows.npy", tokens.astype(np.uint16))
        start = time.perf_counter()
        scan([Path(place) / "rows.npy"], Path(place) / "run", settings=ScanSettings(piece_mb=0.02), engine=engine)
        return time.perf_counter() - start


def memory() -> None:
    """Peak memory of reading 20, 60 and 200 MB of compressed lines, each in a process of its own."""
    table = Table(title="reading one .jsonl.zst into windows")
    for column in ("MB of text", "peak, MB", "seconds"):
        table.add_column(column)
    for size in (20, 60, 200):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scanning", "--reads", str(size)], capture_output=True, check=True
        )
        table.add_row(str(size), done.stdout.decode().strip(), f"{time.perf_counter() - start:.0f}")
    CONSOLE.print(table)


def read_once(size: int) -> None:
    """Read a corpus of so many MB as a scan does, all but the model, and print the peak memory in MB."""
    import zstandard

    from memhooks.scale.corpus import pieces
    from memhooks.scale.segments import segments
    from memhooks.scale.windows import windows

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "corpus.jsonl.zst"
        with path.open("wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as packed:
            for _ in range(size * 1_000_000 // 5700):  # bytes of a line; none is repeated, as those pack too well
                packed.write(json.dumps({"tokens": rng.integers(0, 4096, 1000).tolist()}).encode() + b"\n")
        for piece in pieces([path]):
            for _ in windows(segments(piece, overlap=99), n_tokens=100, stride=50):
                pass
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f}\n")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("gate", "workers", "memory"))
    parser.add_argument("--reads", type=int)
    asked = parser.parse_args()
    if asked.reads:
        read_once(asked.reads)
        return
    for name, part in {"gate": gate, "workers": workers, "memory": memory}.items():
        if asked.only in (None, name):
            part()


if __name__ == "__main__":
    main()
