"""Figures of fine-tuning leakage: every level of repetition at every step."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.report.theme import COLOURS, TEMPLATE, faded

_PANELS = {
    "recited": "recited in full, share",
    "extractable": "extractable, share",
    "exact_match": "exact match, tokens",
    "nll": "NLL, nats per token",
}
_SHADES = ("#E3B505", "#E69F00", "#EC7A08", "#D55E00", "#A63C06", "#661100")
"""From few readings to many."""


def plot_leak(table: xr.Dataset, held_out: xr.Dataset | None = None) -> go.Figure:
    """What comes out of each level at each step, with 95 % intervals; the control was never read.

    Args:
        table: of `leak_table`.
        held_out: of `held_out_by_step`, drawn beside the NLL.
    """
    samples = f"{int(table.attrs['queries']):,} samples"
    titles = [words.replace("extractable", f"extractable ({samples})") for words in _PANELS.values()]
    drawing = make_subplots(2, 2, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.13)
    levels = np.unique(table["level"].values).tolist()
    places = np.linspace(0, len(_SHADES) - 1, max(1, len(levels) - 1)).round().astype(int).tolist()
    colours = [COLOURS["control"], *(_SHADES[place] for place in places)]
    for place, measure in enumerate(_PANELS):
        at = {"row": place // 2 + 1, "col": place % 2 + 1}
        for level, colour in zip(levels, colours, strict=False):
            own = table.isel(row=table["level"].values == level)
            name = f"read {level} times" if level else "never read (control)"
            ends = [own[f"{measure}{end}"].values for end in ("", "_low", "_high")]
            _add_(drawing, name, colour, own["step"].values, ends, at, is_first=place == 0)
        if measure == "nll" and held_out is not None:
            ends = [held_out[f"nll{end}"].values for end in ("", "_low", "_high")]
            _add_(drawing, "held-out text", COLOURS["held_out"], held_out["step"].values, ends, at, is_first=True)
    drawing.update_xaxes(title_text="updates", title_standoff=4)
    title = "Fine-tuning: what comes out after how many readings? 95 % intervals"
    drawing.update_layout(template=TEMPLATE, height=720, title=title, legend={"y": -0.1})
    return drawing.update_annotations(font_size=14)


def _add_(
    drawing: go.Figure,
    name: str,
    colour: str,
    steps: np.ndarray,
    ends: list[np.ndarray],
    at: dict[str, int],
    *,
    is_first: bool,
) -> None:
    """One line with its band."""
    mean, low, high = ends
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "legendgroup": name}
    drawing.add_scatter(x=steps, y=high, **band, **at)
    drawing.add_scatter(x=steps, y=low, fill="tonexty", fillcolor=faded(colour).replace("0.2)", "0.1)"), **band, **at)
    drawing.add_scatter(
        x=steps,
        y=mean,
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=is_first,
        line={"color": colour},
        marker={"size": 5},
        hovertemplate="step %{x}: %{y:.3g}<extra>" + name + "</extra>",
        **at,
    )
