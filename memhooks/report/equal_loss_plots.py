"""Read text beside never-read text at equal loss, as effect sizes with intervals."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from memhooks.report.theme import colour_of, figure

_NAMES = {"memorized": "the model that read it", "twin": "the twin, which did not"}


def plot_equal_loss(results: Mapping[str, xr.Dataset]) -> go.Figure:
    """Effect sizes of `equal_loss`, one dot a measure and model; filled where p is at most 0.05."""
    measures = next(iter(results.values()))["row"].values.tolist()
    drawing = figure(
        title="What is left of the difference between read and never-read text at equal loss?",
        x="read minus never read, standard deviations of the pairs' differences",
        y="",
        height=140 + 46 * len(measures),
    )
    places = np.arange(len(measures))[::-1]
    for number, (name, one) in enumerate(results.items()):
        colour = colour_of(name, number)
        mean, low, high = (one[f"effect{end}"].values for end in ("", "_low", "_high"))
        drawing.add_scatter(
            x=mean,
            y=places + 0.13 - 0.26 * number,
            mode="markers",
            name=_NAMES.get(name, name),
            marker={
                "size": 11,
                "color": [colour if p <= 0.05 else "white" for p in one["p"].values],
                "line": {"color": colour, "width": 2},
            },
            error_x={"array": high - mean, "arrayminus": mean - low, "color": colour, "thickness": 2, "width": 4},
            customdata=np.column_stack([one["read"], one["unread"], one["p"]]),
            hovertemplate="read %{customdata[0]:.3g}, never read %{customdata[1]:.3g}, p %{customdata[2]:.3g}"
            "<extra></extra>",
        )
    drawing.add_vline(x=0, line={"color": "#888", "width": 1})
    drawing.update_layout(legend={"y": -0.16})
    return drawing.update_yaxes(tickvals=places, ticktext=measures, zeroline=False)
