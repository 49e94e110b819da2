"""The table of benchmarks.replay on a GPU, in single precision and bfloat16: `python -m benchmarks.gpu`.

Aim: 15 times the loops of TransformerLens.
"""

import sys
from dataclasses import replace

import torch
from rich.console import Console

from benchmarks.outcome import Outcome, table
from benchmarks.replay import ROWS
from benchmarks.setting import N_PREFIX, Size, setting

AIM = 15.0
WHOLE = Size(n_cells=80, every_layer=1, every_head=1, n_ablated=8, n_perturbed=8, n_decoded=4, n_pairs=16)


def main() -> None:
    """Print one table for each precision."""
    if not torch.cuda.is_available():
        sys.stderr.write("benchmarks.gpu needs a GPU that torch can use (torch.cuda.is_available() is False)\n")
        sys.exit(1)
    device = "cuda"
    console = Console(width=max(200, Console().width))
    for dtype in (torch.float32, torch.bfloat16):
        outcomes = []
        for shape in ("125M", "organism"):
            at = setting(shape, device=device, dtype=dtype)
            at = replace(at, size=WHOLE) if shape == "125M" else at
            for name, row in ROWS.items():
                console.print(f"{name}, {shape}, {dtype}", style="dim")
                row(at)  # once to warm up
                outcomes.append(with_aim(row(at)))
        console.print(table(outcomes, f"{torch.cuda.get_device_name()}, {N_PREFIX} + 50 tokens, {dtype}"))


def with_aim(one: Outcome) -> Outcome:
    """Every loop of TransformerLens is to be beaten by the same ratio here."""
    return replace(
        one, peers=[replace(peer, aim=AIM if "TransformerLens" in peer.name else peer.aim) for peer in one.peers]
    )


if __name__ == "__main__":
    main()
