"""Figures of the published table: measured against published by row, and the layer sums of the EM bins."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.report.theme import TEMPLATE, figure

_COLOURS = {"reproduced": "#009E73", "not reproduced": "#D55E00", "not compared": "#7F7F7F"}
_SHADES = {"0-10": "#440154", "11-29": "#31688E", "30-49": "#35B779", "50": "#C8A415"}
_LEAST = 1e-6  # what is drawn on a logarithmic axis for 0


def plot_published(table: xr.Dataset) -> go.Figure:
    """Measured over published by row, with intervals; 1 = the same. Rows that were not measured are left out.

    Args:
        table: of `table_of`.
    """
    published = table["published"].values
    shown = np.isfinite(table["measured"].values) & (published != 0)
    rows = table.isel(row=np.nonzero(shown)[0][::-1])
    drawing = figure(
        title="Do the published numbers come out? Measured over published",
        x="measured / published, 1 = the same",
        y="row of the table",
        height=160 + 24 * max(1, rows.sizes["row"]),
    )
    for verdict, colour in _COLOURS.items():
        some = rows.isel(row=np.nonzero(rows["verdict"].values == verdict)[0])
        if not some.sizes["row"]:
            continue
        theirs = some["published"].values
        ratio, low, high = (some[name].values / theirs for name in ("measured", "low", "high"))
        low, high = np.fmin(low, high), np.fmax(low, high)  # of negative numbers the ends change places
        drawing.add_scatter(
            x=np.maximum(ratio, _LEAST),
            y=[_label(one, name) for one, name in zip(some["row"].values, some["quantity"].values, strict=True)],
            mode="markers",
            name=verdict,
            marker={"color": colour, "size": 8},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": np.nan_to_num(high - ratio),
                "arrayminus": np.nan_to_num(ratio - np.maximum(low, _LEAST)),
                "thickness": 1.2,
            },
            customdata=np.stack([some["measured"].values, theirs, some["reason"].values], axis=1),
            hovertemplate="%{y}<br>measured %{customdata[0]:.4g}, published %{customdata[1]:.4g}<br>%{customdata[2]}"
            "<extra></extra>",
        )
    drawing.add_vline(x=1, line={"color": "#222", "width": 1})
    order = [_label(one, name) for one, name in zip(rows["row"].values, rows["quantity"].values, strict=True)]
    drawing.update_yaxes(categoryorder="array", categoryarray=order, title_text=None, dtick=1)
    drawing.update_xaxes(type="log")
    return drawing.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, margin={"t": 90})


def plot_layer_sums(sums: xr.Dataset) -> go.Figure:
    """Layer sums of each EM bin: measured as lines with points, published dashed; by relative depth, log axis.

    Args:
        sums: of `layer_sums_of`.
    """
    bins = [str(one) for one in sums["row"].values]
    drawing = make_subplots(1, 2, subplot_titles=["measured", "published"], shared_yaxes=True, horizontal_spacing=0.03)
    for name in bins:
        one = sums.sel(row=name)
        style = {"legendgroup": name, "name": f"EM {name}", "mode": "lines+markers"}
        for column, (variable, axis) in enumerate((("measured", "layer"), ("published", "rank")), start=1):
            values = one[variable].values
            drawing.add_scatter(
                x=[f"L{layer}" for layer in one[axis].values],
                y=values,
                line={"color": _SHADES.get(name, "#000000"), "dash": "solid" if column == 1 else "dash"},
                showlegend=column == 1,
                row=1,
                col=column,
                **style,
            )
    drawing.update_yaxes(type="log")
    drawing.update_yaxes(title_text="layer sum, nats per unit of weight", col=1)
    drawing.update_xaxes(title_text="layer")
    title = "In which layers is the gradient of text that is recited more or less?"
    return drawing.update_layout(template=TEMPLATE, title=title, height=460, margin={"t": 90})


def _label(key: str, quantity: str) -> str:
    return f"{key.split('.')[0]}: {quantity}"
