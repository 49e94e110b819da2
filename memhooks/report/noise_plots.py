"""Figures of single weights: which score highest, and what noise in them does to memorized and other text."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from memhooks.measure.intervals import bootstrap_mean
from memhooks.report.theme import COLOURS, TEMPLATE, add_line_

_SEED = 0  # of the intervals drawn
_MOST_LABELS = 25  # bars that have room for a name each
_PANELS = {
    "chosen": "noise in the chosen weights",
    "top": "noise in the top weights",
    "random": "as many random weights",
    "bottom": "as many of the smallest score",
}
_MEASURES = {"exact_match": "exact match, tokens", "nll_rise": "NLL rise, nats per token"}


def plot_weight_search(rows: xr.Dataset, random: xr.Dataset | None = None) -> go.Figure:
    """|score| of the weights that `search_weights` found, coloured by layer, beside as many random ones."""
    shown = [rows] if random is None else [rows, random]
    titles = ["largest |score|", "as many drawn blindly"][: len(shown)]
    drawing = make_subplots(1, len(shown), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    layers = sorted({int(layer) for one in shown for layer in one["layer"].values})
    colours = sample_colorscale("Viridis", [place / max(1, len(layers) - 1) for place in range(len(layers))])
    for layer, colour in zip(layers, colours, strict=True):
        for column, one in enumerate(shown, start=1):
            own = one["layer"].values == layer
            if not own.any():
                continue
            drawing.add_bar(
                x=np.arange(1, len(own) + 1)[own],
                y=np.abs(one["score"].values[own]),
                name=f"L{layer}",
                legendgroup=f"L{layer}",
                showlegend=column == 1 or layer not in rows["layer"].values,
                marker_color=colour,
                customdata=one["row"].values[own],
                hovertemplate="%{customdata}: %{y:.3g}<extra></extra>",
                row=1,
                col=column,
            )
    drawing.update_layout(template=TEMPLATE, height=460, title="Which single weights score highest?", bargap=0.1)
    drawing.update_xaxes(title_text="weight, by rank")
    drawing.update_yaxes(title_text="|score|, in the localizer's unit", col=1)
    drawing.update_yaxes(tickformat=".1e")
    if rows.sizes["row"] <= _MOST_LABELS:
        names = [str(name) for name in rows["row"].values]
        drawing.update_xaxes(tickvals=list(range(1, len(names) + 1)), tickangle=-70, tickfont={"size": 9})
        for column, one in enumerate(shown, start=1):
            drawing.update_xaxes(ticktext=[str(name) for name in one["row"].values], title_text="", col=column)
        drawing.update_layout(legend={"y": -0.5})
    return drawing


def plot_noise_doses(result: xr.Dataset) -> go.Figure:
    """EM and NLL rise of every set as noise grows, a column per mask; bands over paragraphs, dashes: single draws."""
    title = "Noise of growing size in single weights: does memorized text suffer most?"
    return _curves(result, along="factor", x="std of noise / std of parameter", title=title)


def plot_noise_counts(result: xr.Dataset) -> go.Figure:
    """EM and NLL rise of every set as more weights get noise, a column per mask; drawn as `plot_noise_doses`."""
    factor = float(result["factor"][0])
    title = f"Noise ({factor:g} std of the parameter) in ever more weights: does memorized text suffer most?"
    return _curves(result, along="n_weights", x="weights that get noise", title=title)


def _curves(result: xr.Dataset, *, along: str, x: str, title: str) -> go.Figure:
    masks = list(dict.fromkeys(result["mask"].values.tolist()))
    drawing = make_subplots(
        len(_MEASURES),
        len(masks),
        subplot_titles=[_PANELS.get(mask, mask) for mask in masks],
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.06,
    )
    for column, mask in enumerate(masks, start=1):
        own = result.isel(row=result["mask"].values == mask)
        doses = [f"{dose:g}" if along == "factor" else f"{dose:,}" for dose in own[along].values]
        for name in dict.fromkeys(result["set"].values.tolist()):
            part = own.isel(paragraph=own["set"].values == name)
            for row, measure in enumerate(_MEASURES, start=1):
                _add_curve_(drawing, name, doses, part[measure], (row, column))
    for row, unit in enumerate(_MEASURES.values(), start=1):
        drawing.update_yaxes(title_text=unit, row=row, col=1)
    drawing.update_xaxes(type="category")
    drawing.update_xaxes(title_text=x, row=len(_MEASURES))
    drawing.update_layout(template=TEMPLATE, height=620, title=title, legend={"y": -0.13})
    return drawing


def _add_curve_(
    drawing: go.Figure, name: str, doses: Sequence[str], values: xr.DataArray, place: tuple[int, int]
) -> None:
    """Mean over draws and paragraphs with the paragraphs' interval, and each draw's own mean."""
    row, column = place
    lines = go.Figure()
    stats = bootstrap_mean(values.mean("draw").transpose("paragraph", "row").values, seed=_SEED)
    add_line_(lines, name, doses, *stats)
    lines.update_traces(showlegend=place == (1, 1), selector={"mode": "lines+markers"})
    drawing.add_traces(lines.data, rows=[row] * 3, cols=[column] * 3)  # two ends of the band and the line
    draws = values.mean("paragraph").transpose("row", "draw").values
    drawing.add_scatter(
        x=np.repeat(doses, draws.shape[1]),
        y=draws.ravel(),
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 8, "color": COLOURS.get(name, "#000000")},
        showlegend=False,
        hovertemplate="one draw: %{y:.3g}<extra></extra>",
        row=row,
        col=column,
    )
