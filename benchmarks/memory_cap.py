"""A sweep under a limit of memory that full caches break: `python -m benchmarks.memory_cap [--quick]`.

1. Both ways run once without a limit, and their peaks are noted.
2. The limit is what the process has with the model and clean runs, and half of what memhooks took
   for its largest batches on top. So memhooks must halve its batches, and full caches must fail.
"""

import argparse
import json
import subprocess
import sys
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.floor import Cost, measured, status
from benchmarks.setting import N_PREFIX, Setting, setting
from benchmarks.sweeps import all_cells, pair
from memhooks.model.replay.batches import MOST, Batches
from memhooks.model.replay.clean_run import CleanRun, clean_run
from memhooks.model.replay.edits import Cells
from memhooks.model.replay.sweep import from_run, sweep
from memhooks.model.replay.work import Work

Way = Literal["memhooks", "full cache"]
SHARE, POSITIONS = 0.5, range(24, 40)


def main() -> None:
    """Print the table, or one way's outcome as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--way", choices=("memhooks", "full cache"), help="in this process, as a line of JSON")
    parser.add_argument("--spare", type=float, help="GB beyond what the process has when it begins")
    asked = parser.parse_args()
    if asked.way is None:
        Console(width=160).print(capped(quick=asked.quick))
    else:
        sys.stdout.write(json.dumps(one_way(asked.way, asked.spare, quick=asked.quick)) + "\n")


def capped(*, quick: bool) -> Table:
    """Both ways without and with the limit."""
    free = {way: in_own_process(way, None, quick=quick) for way in ("memhooks", "full cache")}
    spare = SHARE * (free["memhooks"]["peak"] - free["memhooks"]["before"])
    cells = f"z of all heads of one layer at {len(POSITIONS)} positions"
    drawn = Table(title=f"{cells} under a memory cap: {free['memhooks']['setting']}")
    for heading in ("way", "cap on data beyond the model and clean runs, GB", "outcome", "peak beyond them, GB"):
        drawn.add_column(heading)
    for limit in (None, spare):
        for way in ("memhooks", "full cache"):
            one = free[way] if limit is None else in_own_process(way, limit, quick=quick)
            what = "memhooks" if way == "memhooks" else f"TransformerLens run_with_cache of {MOST} of the rows"
            drawn.add_row(
                what,
                "none" if limit is None else f"{limit:.2f}",
                one["outcome"],
                f"{one['peak'] - one['before']:.2f}",
            )
    return drawn


def in_own_process(way: Way, spare: float | None, *, quick: bool) -> dict:
    """A way's outcome and peak."""
    command = [sys.executable, "-m", "benchmarks.memory_cap", "--way", way]
    limit = [] if spare is None else ["--spare", str(spare)]
    done = subprocess.run(command + limit + ["--quick"] * quick, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.decode().splitlines()[-1])


def one_way(way: Way, spare: float | None, *, quick: bool) -> dict:
    """Run it, under a limit if there is one; an error of memory is an outcome."""
    at = setting("125M", quick=quick)
    clean, corrupted = pair(at, whole=True)
    source, run = (clean_run(at.model, rows, first=N_PREFIX) for rows in (clean, corrupted))
    _ = run.outcome
    at.model(corrupted)
    before = status("VmRSS")
    if spare is not None:
        import resource

        limit = int(1e9 * (status("VmData") + spare))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    limit_of_rows = Batches(MOST)

    def work() -> str:
        if way == "memhooks":
            return swept(at, source, run, limit_of_rows)
        return f"completed, {peers.cached(at.model, corrupted.repeat(MOST, 1))} activations"

    try:
        found, cost = measured(work)
    except (RuntimeError, MemoryError) as error:
        found, cost = (
            f"died: {str(error).splitlines()[0].rpartition('Allocator: ')[2][:100]}",
            Cost(0.0, status("VmHWM")),
        )
    return {"outcome": found, "peak": cost.peak, "before": before, "setting": at.name}


def swept(at: Setting, source: CleanRun, run: CleanRun, limit: Batches) -> str:
    """All heads of the middle layer at some positions."""
    layer = at.model.cfg.n_layers // 2
    cells = all_cells([layer], POSITIONS, range(at.model.cfg.n_heads))
    position, head = (torch.tensor(cells[name].to_numpy()) for name in ("pos", "head"))
    where = Cells(torch.zeros_like(position), position, head)
    found = sweep(run, ("z", layer), where, from_run(source, "z", layer), batches=limit, work=Work())
    return f"completed, {len(found.nll)} cells, at most {limit.rows} rows together at the end"


if __name__ == "__main__":
    main()
