"""How time and memory grow with paragraphs, their length, layers and width: curves, and the exponents of their ends.

Expected from the operations: time grows with the first power of paragraphs and layers, with about the first of length
(attention's second power is small below a thousand tokens) and up to the second of width. Perturbing has two more
powers of length in it, one for the replaced positions and one for what each of them can change. Memory beyond the
weights must not grow with paragraphs, as they pass batch by batch; only the result itself does.

`python -m benchmarks.growth` (more than four minutes on two threads; `--figure growth.png` draws the curves).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table

from benchmarks.floor import measured, random_model, status
from memhooks.localize.attribution import weight_gradients
from memhooks.measure.perturbation import perturb
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.report.export import save_figure
from memhooks.scale.gate import gated
from memhooks.scale.rules import Rule

CONSOLE = Console(width=140)
D_VOCAB, ROUNDS = 8192, 3


@dataclass(frozen=True)
class Shape:
    """What grows, one thing at a time."""

    paragraphs: int = 32
    length: int = 96
    layers: int = 4
    width: int = 256


AXES = {
    "paragraphs": (16, 32, 64, 128),
    "length": (32, 64, 128, 256),
    "layers": (2, 4, 8, 16),
    "width": (128, 256, 512, 1024),
}
STAGES: dict[str, Callable[[HookedModel, Paragraphs], object]] = {
    "scan (gate)": lambda model, rows: gated(model, rows.tokens, n_prefix=rows.n_prefix, rule=Rule()),
    "perturb": lambda model, rows: perturb(model, rows.select(slice(0, len(rows) // 4)), seed=0),
    "weight gradients": weight_gradients,
}
"""Perturbation runs on a quarter of the paragraphs: one pass for each position of their prefix."""


def grown(stage: str, axis: str) -> list[tuple[int, float, float]]:
    """Sizes along an axis, seconds, and MB at the peak beyond what was there before."""
    found = []
    for size in AXES[axis]:
        shape = replace(Shape(), **{axis: size})
        model = random_model(shape.layers, shape.width, D_VOCAB, dtype=torch.float32)
        tokens = torch.randint(D_VOCAB, (shape.paragraphs, shape.length), generator=torch.Generator().manual_seed(0))
        rows = Paragraphs(tokens, shape.length // 2)
        run = STAGES[stage]
        run(model, rows.select(slice(0, 4)))  # warm, with the weights laid out
        before = status("VmRSS") or np.nan
        costs = [measured(lambda run=run, model=model, rows=rows: run(model, rows))[1] for _ in range(ROUNDS)]
        peak = max(cost.peak or np.nan for cost in costs)
        found.append((size, min(cost.seconds for cost in costs), max(1.0, 1000 * (peak - before))))
    return found


def exponent(sizes: list[float], values: list[float]) -> float:
    """Of the power law through the two largest sizes."""
    return float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]))


def main() -> None:
    """Print the table, and draw the curves if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    table = Table(title=f"random GPT-Neo, {Shape()}, vocabulary {D_VOCAB}, {torch.get_num_threads()} threads")
    for column in ("stage", "axis", "sizes", "seconds", "exponent", "MB beyond the weights", "exponent"):
        table.add_column(column)
    figure = make_subplots(2, len(AXES), shared_xaxes=True, column_titles=list(AXES))
    for number, stage in enumerate(STAGES):
        for column, axis in enumerate(AXES, 1):
            sizes, seconds, megabytes = (list(each) for each in zip(*grown(stage, axis), strict=True))
            table.add_row(
                stage,
                axis,
                " ".join(map(str, sizes)),
                " ".join(f"{one:.2f}" for one in seconds),
                f"{exponent(sizes, seconds):.1f}",
                " ".join(f"{one:.0f}" for one in megabytes),
                f"{exponent(sizes, megabytes):.1f}",
            )
            for row, values in ((1, seconds), (2, megabytes)):
                color = ("#1f77b4", "#d62728", "#2ca02c")[number]
                shown = row == column == 1
                line = go.Scatter(x=sizes, y=values, name=stage, line_color=color, showlegend=shown, legendgroup=stage)
                figure.add_trace(line, row, column)
    CONSOLE.print(table)
    if asked.figure:
        figure.update_xaxes(type="log", tickmode="array")
        for column, sizes in enumerate(AXES.values(), 1):
            figure.update_xaxes(tickvals=sizes, col=column)
        figure.update_yaxes(type="log").update_yaxes(title="seconds", row=1, col=1)
        figure.update_yaxes(title="MB beyond the weights", row=2, col=1).update_layout(width=1100, height=600)
        save_figure(figure, asked.figure)


if __name__ == "__main__":
    main()
