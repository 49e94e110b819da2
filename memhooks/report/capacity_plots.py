"""How many bits of a paragraph does the model hold, by how often it was planted?"""

import plotly.graph_objects as go
import xarray as xr

from memhooks.report.theme import COLOURS, add_line_, colour_of, figure, name_of

_NAMES = {"mirror": "only the twin (B)"}


def plot_capacity(table: xr.Dataset) -> go.Figure:
    """Bits per paragraph by times planted, with the twin's code length as ceiling; whole sets beside them.

    Args:
        table: of `capacity_table`.
    """
    drawing = figure(
        title="How many bits of a paragraph does the model hold?",
        x="times planted (k); at the right whole sets",
        y="bits per paragraph beyond the twin",
        height=520,
    )
    by_level = table.isel(row=table["level"].values > 0)
    levels = [str(k) for k in by_level["level"].values]
    if levels:
        add_line_(drawing, "memorized", levels, *(by_level[f"bits{end}"].values for end in ("", "_low", "_high")))
        drawing.add_scatter(
            x=levels,
            y=by_level["ceiling"].values,
            mode="lines",
            name="all that could be held (the twin's code length)",
            line={"color": COLOURS["memorized"], "dash": "dash"},
        )
    whole = table.isel(row=table["level"].values == 0)
    for place, name in enumerate(whole["row"].values.tolist()):
        row = whole.sel(row=name)
        mean, low, high = (float(row[f"bits{end}"]) for end in ("", "_low", "_high"))
        shown = _NAMES.get(name, name_of(name))
        drawing.add_scatter(
            x=[shown],
            y=[mean],
            error_y={"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low]},
            mode="markers",
            marker={"size": 9, "color": colour_of(name, place)},
            name=shown,
            showlegend=False,
        )
    drawing.add_hline(y=0, line={"color": "#888", "width": 1})
    return drawing.update_xaxes(type="category", tickangle=-25)  # the sets' names are long
