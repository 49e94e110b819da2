"""Figures of the dose response: every measure against how often a paragraph was read, and how long ago."""

from collections.abc import Mapping
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from memhooks.report.theme import COLOURS, NAMES, TEMPLATE, faded

_TITLES = {
    "exact_match": ("exact match", "tokens"),
    "nll": ("NLL", "nats per token"),
    "longest_run": ("longest run", "tokens"),
    "log_probability": ("log-probability", "nats, T = 1"),
    "centre_max": ("gradient centre, largest", "layers"),
    "centre_l2": ("gradient centre, norm", "layers"),
    "log_gradient": ("gradient size", "log of norm"),
    "attention_head": ("rare-token head", "Spearman"),
    "attention_most": ("most rare-token head", "Spearman"),
    "perturbed_nll": ("perturbed: NLL rise", "nats per token"),
    "perturbed_em": ("perturbed: EM drop", "tokens"),
    "worst_share": ("share of worst token", "of NLL rises"),
    "steps_to_unlearn": ("steps to unlearn", "updates to + 1 nat"),
    "recited": ("recited in full", "share"),
    "queries_1": ("out with 1 sample", "share"),
    "queries_100": ("out with 100 samples", "share"),
    "queries_10000": ("out with 10,000 samples", "share"),
}
_COLUMNS = 4


def plot_dose_curves(curves: xr.Dataset) -> go.Figure:
    """Every measure by k, with 95 % intervals: the model that read the paragraphs beside the twin that did not.

    Args:
        curves: of `dose_curves`.
    """
    measures = list(dict.fromkeys(curves["measure"].values.tolist()))
    n_rows = -(-len(measures) // _COLUMNS)
    titles = [_TITLES.get(name, (escape(name), ""))[0] for name in measures]
    drawing = make_subplots(
        n_rows, _COLUMNS, subplot_titles=titles, horizontal_spacing=0.07, vertical_spacing=0.28 / max(n_rows, 1)
    )
    for place, name in enumerate(measures):
        row, column = place // _COLUMNS + 1, place % _COLUMNS + 1
        for condition in dict.fromkeys(curves["condition"].values.tolist()):
            chosen = (curves["measure"].values == name) & (curves["condition"].values == condition)
            _add_curve_(drawing, condition, curves.isel(row=chosen), row=row, column=column, is_first=place == 0)
        drawing.update_yaxes(title_text=_TITLES.get(name, ("", ""))[1], title_standoff=4, row=row, col=column)
    each = sorted(set(curves["k"].values.tolist()))
    drawing.update_xaxes(type="log", tickvals=each, ticktext=[str(one) for one in each], title_text="readings k")
    drawing.update_xaxes(title_standoff=4)
    title = "What depends on how often a paragraph was read? 95 % intervals"
    drawing.update_layout(template=TEMPLATE, height=90 + 215 * n_rows, title=title, legend={"y": -0.06})
    return drawing.update_annotations(font_size=13)


def plot_recency(tables: Mapping[str, xr.Dataset]) -> go.Figure:
    """NLL and EM of each paragraph against the gap since it was read last; each level of k has its own colour.

    Where colours overlap along the axis, k and the gap can be told apart.

    Args:
        tables: of `dose_table`, by condition, with gaps.
    """
    shown = {"nll": "NLL, nats per token", "exact_match": "exact match, tokens"}
    conditions = list(tables)
    drawing = make_subplots(
        len(shown),
        len(conditions),
        subplot_titles=[NAMES.get(name, escape(name)) for name in conditions],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.06,
    )
    each = np.unique(tables[conditions[0]]["level"].values).tolist()
    colours = sample_colorscale("Viridis", [place / max(1, len(each) - 1) for place in range(len(each))])
    for column, table in enumerate(tables.values(), start=1):
        for row, (name, unit) in enumerate(shown.items(), start=1):
            for level, colour in zip(each, colours, strict=True):
                own = table.isel(paragraph=table["level"].values == level)
                drawing.add_scatter(
                    x=1 + own["gap"].values,
                    y=own[name].values,
                    mode="markers",
                    name=f"k = {level}",
                    legendgroup=str(level),
                    showlegend=(row, column) == (1, 1),
                    marker={"color": colour, "size": 6, "opacity": 0.8},
                    customdata=own["paragraph"].values,
                    hovertemplate="%{customdata}: %{y:.3g}, gap %{x:.0f} - 1<extra></extra>",
                    row=row,
                    col=column,
                )
            if column == 1:
                drawing.update_yaxes(title_text=unit, row=row, col=1)
    drawing.update_xaxes(type="log", dtick=1)
    drawing.update_xaxes(title_text="1 + updates since the last reading", row=len(shown))
    title = "Is it the number of readings, or how long ago the last one was? A dot per paragraph"
    return drawing.update_layout(template=TEMPLATE, height=620, title=title, legend={"y": -0.14})


def _add_curve_(drawing: go.Figure, condition: str, own: xr.Dataset, *, row: int, column: int, is_first: bool) -> None:
    """One condition's means as a line and its intervals as a band."""
    colour, name = COLOURS.get(condition, "#000000"), NAMES.get(condition, escape(condition))
    at = {"row": row, "col": column, "legendgroup": name}
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    k = own["k"].values
    drawing.add_scatter(x=k, y=own["high"].values, **band, **at)
    drawing.add_scatter(x=k, y=own["low"].values, fill="tonexty", fillcolor=faded(colour), **band, **at)
    drawing.add_scatter(
        x=k,
        y=own["mean"].values,
        mode="lines+markers",
        name=name,
        showlegend=is_first,
        line={"color": colour},
        marker={"size": 5},
        customdata=own["n"].values,
        hovertemplate="k = %{x}: %{y:.3g} (n = %{customdata})<extra></extra>",
        **at,
    )
