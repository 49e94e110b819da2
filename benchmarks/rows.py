"""The command line of the benchmarks whose rows have a process each: neither memory nor prepared weights are shared."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.outcome import Outcome, from_plain, table
from benchmarks.setting import LENGTH, N_PREFIX, Setting, Shape, setting

Rows = Mapping[str, Callable[[Setting], Outcome]]


def command_line(module: str, about: str | None, rows: Rows, *, beside: Callable[..., Table] | None = None) -> None:
    """Print the table of all rows, or some as lines of JSON; exit with 1 where a row's process died.

    Args:
        module: that is run anew for each row, such as `benchmarks.looking`.
        about: its docstring.
        rows: what it can measure, by name.
        beside: `function(quick=)` of another table, printed where no row is asked for by name.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--row", choices=list(rows), action="append", help="only these")
    parser.add_argument("--shape", choices=get_args(Shape), action="append", help="only these")
    parser.add_argument("--json", action="store_true", help="in this process, as lines of JSON")
    asked = parser.parse_args()
    names, shapes = asked.row or list(rows), asked.shape or list(get_args(Shape))
    if asked.json:
        at = setting(shapes[0], quick=asked.quick)
        for name in names:
            sys.stdout.write(json.dumps(rows[name](at).plain()) + "\n")
            sys.stdout.flush()  # the next row may die of memory
        return
    start, console = time.perf_counter(), Console(width=max(200, Console().width))
    outcomes, died = [], False
    for shape in shapes:
        for together in [names] if asked.quick else [[name] for name in names]:
            console.print(f"{time.perf_counter() - start:.0f} s: {', '.join(together)}, {shape}", style="dim")
            found = _in_own_process(module, together, shape, quick=asked.quick)
            outcomes += found
            died |= len(found) < len(together)
    if outcomes:
        rows_of = f"Rows of {N_PREFIX} + {LENGTH - N_PREFIX} tokens"
        console.print(table(outcomes, f"{rows_of}, {torch.get_num_threads()} threads, float32"))
    if beside is not None and asked.row is None:
        console.print(beside(quick=asked.quick))
    console.print(f"{time.perf_counter() - start:.0f} s in all")
    if died:
        sys.exit(1)


def _in_own_process(module: str, names: list[str], shape: Shape, *, quick: bool) -> list[Outcome]:
    """What the rows found before one of them died, if one did."""
    command = [sys.executable, "-m", module, "--json", "--shape", shape, *["--quick"] * quick]
    command += [word for name in names for word in ("--row", name)]
    done = subprocess.run(command, check=False, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        ended = f"exit code {done.returncode}"
        if done.returncode < 0:
            ended = f"signal {-done.returncode}; 9 is what the system sends where memory runs out"
        sys.stderr.write(f"{done.stderr.decode()}\n{', '.join(names)}, {shape}: died ({ended})\n")
    lines = done.stdout.decode().splitlines()
    return [from_plain(json.loads(line)) for line in lines if line.startswith("{")]
