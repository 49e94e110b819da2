"""Colours, fonts and bands shared by all figures; colour-blind safe (Okabe and Ito, 2008)."""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

COLOURS = {
    "memorized": "#D55E00",
    "control": "#0072B2",
    "control_own": "#56B4E9",
    "twin": "#7F7F7F",
    "natural": "#009E73",
    "held_out": "#CC79A7",
    "partly": "#E69F00",
    "licence_never": "#332288",
    "licence_own": "#999933",
}
NAMES = {
    "memorized": "memorized (A)",
    "control": "never seen (C)",
    "control_own": "never seen (C), own continuation",
    "twin": "A under the twin",
    "natural": "natural duplicates",
    "held_out": "held-out prose",
    "partly": "A planted 8 to 16 times",
    "licence_never": "licences never seen",
    "licence_own": "licences, own continuation",
}
PALETTE = ("#882255", "#000000", "#117733", "#AA4499", "#661100")
"""Colours of conditions that have none of their own (Tol, 2021), in order of appearance."""

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {"gridcolor": "#e6e6e6", "zerolinecolor": "#bbb", "automargin": True},
        "yaxis": {"gridcolor": "#e6e6e6", "zerolinecolor": "#bbb", "automargin": True},
        "title": {"x": 0.01, "xanchor": "left"},
        "modebar": {"orientation": "v"},  # beside the figure, not over its title
        "legend": {"orientation": "h", "y": -0.22},
        "margin": {"l": 70, "r": 20, "t": 60, "b": 60},
    }
)


def name_of(condition: str) -> str:
    """What a condition is called in figures; names that the theme does not know are shown as they are, escaped."""
    return NAMES.get(condition, escape(condition.replace("_", " "), quote=False))


def colour_of(condition: str, place: int) -> str:
    """Its own colour, or else one of `PALETTE` by its place among the conditions drawn."""
    return COLOURS.get(condition) or PALETTE[place % len(PALETTE)]


def figure(*, title: str, x: str, y: str, height: int = 420) -> go.Figure:
    """An empty figure in the house style with its title and axis titles (units included)."""
    made = go.Figure(layout={"template": TEMPLATE, "title": {"text": title}, "height": height})
    made.update_xaxes(title_text=x)
    made.update_yaxes(title_text=y)
    return made


def add_line_(
    drawing: go.Figure,
    condition: str,
    x: Sequence,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    column: int | None = None,
) -> None:
    """Add one condition's means as a line and their intervals as a band; the legend names it once."""
    colour, name = COLOURS.get(condition, "#000000"), NAMES.get(condition, condition)
    place = {} if column is None else {"row": 1, "col": column}
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "legendgroup": name}
    drawing.add_scatter(x=x, y=high, **band, **place)
    drawing.add_scatter(x=x, y=low, fill="tonexty", fillcolor=faded(colour), **band, **place)
    drawing.add_scatter(
        x=x,
        y=mean,
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=column in (None, 1),
        line={"color": colour},
        marker={"size": 5},
        **place,
    )


def faded(colour: str) -> str:
    """A colour at one fifth of its strength, for bands."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"
