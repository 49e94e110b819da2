"""Unlearning against the official loop, dense optimizers and reloading: `python -m benchmarks.unlearning [--quick]`.

Each row has a process of its own. Steps are timed one by one, after one to warm up. Floor of a step: forward pass and
gradients of activations, over the rate of a large matrix product; the masked weights' own gradients cost next to
nothing. Memory is all of the process, the model included.
"""

from functools import partial

from benchmarks.deltas import delta
from benchmarks.masked_optimizers import optimizer
from benchmarks.rows import command_line
from benchmarks.unlearning_steps import budget, step

ROWS = {
    "step": step,
    "optimizer-0.1": partial(optimizer, fraction=0.001),
    "optimizer-1": partial(optimizer, fraction=0.01),
    "optimizer-10": partial(optimizer, fraction=0.1),
    "delta": delta,
    "budget": budget,
}


if __name__ == "__main__":
    command_line("benchmarks.unlearning", __doc__, ROWS)
