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


def _template(*, text: str, paper: str, grid: str, zero: str) -> go.layout.Template:
    axis = {"gridcolor": grid, "zerolinecolor": zero, "linecolor": zero, "automargin": True}
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": text},
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "xaxis": axis,
            "yaxis": axis,
            "title": {"x": 0.01, "xanchor": "left"},
            "hoverlabel": {"bgcolor": paper, "bordercolor": zero, "font": {"color": text}},
            "modebar": {"orientation": "v", "bgcolor": paper, "color": zero, "activecolor": text},  # beside the title
            "legend": {"orientation": "h", "y": -0.22},
            "margin": {"l": 70, "r": 20, "t": 60, "b": 60},
        }
    )


TEMPLATE = _template(text="#222", paper="white", grid="#e6e6e6", zero="#8a9199")
"""The look of all figures; each figure is given it, it is never plotly's default."""

DARK = _template(text="#e6e8ea", paper="#14171a", grid="#2d343b", zero="#7a848d")
"""The same on a dark page."""


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


def _on_dark() -> dict[str, str]:
    """What a dark page shows in place of the colours that would hardly be seen on it, and of their bands."""
    lighter = {
        "#0072B2": "#3D8FD6",
        "#56B4E9": "#A9DDFF",
        "#332288": "#9B8CF0",
        "#882255": "#DD6FA5",
        "#000000": "#FFFFFF",
        "#117733": "#4FB873",
        "#AA4499": "#D67CC8",
        "#661100": "#E08A70",
    }
    inks = {"#000": "#fff", "black": "white", "#222": "#e6e8ea", "#333": "#d5d9dd", "#444": "#c6ccd1"}
    inks |= {"#555": "#b4bcc4", "#666": "#a7b0b8", "white": "#14171a", "#fff": "#14171a"}
    bands = {faded(light): faded(dark) for light, dark in lighter.items()}
    return {light.lower(): dark for light, dark in (lighter | inks | bands).items()}


ON_DARK = _on_dark()
"""Colours of figures, in lower case, and what stands for them on a dark page."""
