"""Replayed sweeps against the loops that every toolkit runs, as ratios: `python -m benchmarks.replay [--quick]`.

Each sweep has a process of its own, in which TransformerLens's loop and memhooks run one after
the other on the same rows and cells. Floor: the matrix products on what an edit can change and
a scored token can see (`Work.floor_flops`), over the rate of a large matrix product there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import get_args

import torch
from rich.console import Console

from benchmarks.memory_cap import capped
from benchmarks.outcome import Outcome, from_plain, table
from benchmarks.perturbing import control, recited
from benchmarks.screens import attribution
from benchmarks.setting import N_PREFIX, Shape, setting
from benchmarks.sweeps import SWEEPS

ROWS = SWEEPS | {"perturb-recited": recited, "perturb-control": control, "attribution": attribution}


def main() -> None:
    """Print the table of all sweeps and that of the memory cap, or one sweep as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--sweep", choices=list(ROWS), action="append", help="only these")
    parser.add_argument("--shape", choices=get_args(Shape), action="append", help="only these")
    parser.add_argument("--json", action="store_true", help="in this process, as a line of JSON")
    asked = parser.parse_args()
    sweeps, shapes = asked.sweep or list(ROWS), asked.shape or list(get_args(Shape))
    if asked.json:
        at = setting(shapes[0], quick=asked.quick)
        for sweep in sweeps:
            sys.stdout.write(json.dumps(ROWS[sweep](at).plain()) + "\n")
        return
    start, console = time.perf_counter(), Console(width=max(200, Console().width))
    outcomes = []
    for shape in shapes:
        for together in [sweeps] if asked.quick else [[sweep] for sweep in sweeps]:
            console.print(f"{time.perf_counter() - start:.0f} s: {', '.join(together)}, {shape}", style="dim")
            outcomes += in_own_process(together, shape, quick=asked.quick)
    console.print(table(outcomes, f"Rows of {N_PREFIX} + 50 tokens, {torch.get_num_threads()} threads, float32"))
    if asked.sweep is None:
        console.print(capped(quick=asked.quick))
    console.print(f"{time.perf_counter() - start:.0f} s in all")


def in_own_process(sweeps: list[str], shape: Shape, *, quick: bool) -> list[Outcome]:
    """Sweeps in a process where neither memory nor prepared weights of others are there."""
    command = [sys.executable, "-m", "benchmarks.replay", "--json", "--shape", shape, *["--quick"] * quick]
    command += [word for sweep in sweeps for word in ("--sweep", sweep)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=False, capture_output=True, env=environment)
    if done.returncode:
        sys.stderr.write(done.stderr.decode())
        sys.exit(done.returncode)
    lines = done.stdout.decode().splitlines()
    return [from_plain(json.loads(line)) for line in lines if line.startswith("{")]


if __name__ == "__main__":
    main()
