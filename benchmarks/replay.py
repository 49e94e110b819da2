"""Replayed sweeps against the loops that every toolkit runs, as ratios: `python -m benchmarks.replay [--quick]`.

Each sweep has a process of its own, in which TransformerLens's loop and memhooks run one after
the other on the same rows and cells. Floor: the matrix products on what an edit can change and
a scored token can see (`Work.floor_flops`), over the rate of a large matrix product there.
"""

from benchmarks.memory_cap import capped
from benchmarks.perturbing import control, recited
from benchmarks.rows import command_line
from benchmarks.screens import attribution
from benchmarks.sweeps import SWEEPS

ROWS = SWEEPS | {"perturb-recited": recited, "perturb-control": control, "attribution": attribution}


if __name__ == "__main__":
    command_line("benchmarks.replay", __doc__, ROWS, beside=capped)
