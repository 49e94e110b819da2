"""Massive activations by layer, attention on position 0 by head, and the rare-token statistic without the sink."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.report.theme import TEMPLATE, colour_of, figure, name_of

Results = Mapping[str, xr.Dataset]
_SITES = {"resid_post": "residual stream after the block", "post": "hidden units of the MLP"}


def plot_massive(results: Results) -> go.Figure:
    """Largest magnitude of each layer (line) beside its median (dotted), on a log axis.

    Args:
        results: of `massive_activations` by set.
    """
    sites = next(iter(results.values()))["site"].values.tolist()
    drawing = make_subplots(1, len(sites), subplot_titles=[_SITES.get(site, site) for site in sites], shared_yaxes=True)
    layers = [f"L{layer}" for layer in next(iter(results.values()))["layer"].values]
    for column, site in enumerate(sites, start=1):
        for place, (name, one) in enumerate(results.items()):
            for variable, dash, words in (("largest", "solid", "largest"), ("median", "dot", "median")):
                drawing.add_scatter(
                    x=layers,
                    y=one[variable].sel(site=site).values,
                    mode="lines+markers",
                    line={"color": colour_of(name, place), "dash": dash},
                    name=f"{name_of(name)}: {words}",
                    legendgroup=f"{name} {words}",
                    showlegend=column == 1,
                    row=1,
                    col=column,
                )
        line = {"color": "#888", "dash": "dash", "width": 1}
        drawing.add_scatter(
            x=layers, y=[100] * len(layers), mode="lines", line=line, showlegend=False, row=1, col=column
        )
    drawing.update_yaxes(type="log").update_yaxes(title_text="magnitude (dashed: 100)", col=1)
    drawing.update_xaxes(title_text="layer")
    title = "Do hidden units of outsized magnitude stand out?"
    return drawing.update_layout(template=TEMPLATE, height=480, title=title)


def plot_sinks(results: Results) -> go.Figure:
    """Attention on position 0 beyond uniform attention's, by layer and head; one map for each set.

    Args:
        results: of `attention_sinks` by set.
    """
    drawing = make_subplots(1, len(results), subplot_titles=[name_of(name) for name in results], shared_yaxes=True)
    for column, one in enumerate(results.values(), start=1):
        mean = one["first"].mean("paragraph").transpose("layer", "head").values
        kinds = ["local" if local else "global" for local in one["local"].values]
        drawing.add_heatmap(
            z=mean - one["uniform"].values[:, None],
            x=[f"H{head}" for head in one["head"].values],
            y=[f"L{layer} {kind}" for layer, kind in zip(one["layer"].values, kinds, strict=True)],
            customdata=mean,
            zmin=-1,
            zmax=1,
            colorscale="RdBu",
            reversescale=True,
            showscale=column == 1,
            colorbar={"title": "share"},
            hovertemplate="%{y}, %{x}: %{customdata:.2f}, beyond uniform %{z:+.2f}<extra></extra>",
            row=1,
            col=column,
        )
    drawing.update_xaxes(title_text="head").update_yaxes(title_text="layer", col=1)
    title = "Which heads look at position 0? Share of attention beyond that of uniform attention"
    return drawing.update_layout(template=TEMPLATE, height=440, title=title)


def plot_rare_tokens_without(results: Results) -> go.Figure:
    """Each head's rare-token correlation with all keys against the same without one.

    Args:
        results: of `rare_token_without` by what is left out; the one of "nothing" is the horizontal axis.
    """
    drawing = figure(
        title="Does attention to rare tokens go with the sink? Every point is a head",
        x="rank correlation of attention and count, all keys (negative: rare tokens)",
        y="the same without the key",
        height=520,
    )
    means = {name: one["spearman"].mean("paragraph").values.ravel() for name, one in results.items()}
    first = next(iter(results.values()))
    heads = [f"L{layer}H{head}" for layer in first["layer"].values for head in first["head"].values]
    for place, name in enumerate(key for key in means if key != "nothing"):
        drawing.add_scatter(
            x=means["nothing"],
            y=means[name],
            mode="markers",
            name=f"without {name_of(name)}",
            text=heads,
            marker={"color": colour_of(name, place), "size": 7, "opacity": 0.7},
            hovertemplate="%{text}: %{x:+.2f}, %{y:+.2f}<extra></extra>",
        )
    ends = [float(np.min(list(means.values()))), float(np.max(list(means.values())))]
    drawing.add_scatter(x=ends, y=ends, mode="lines", line={"color": "#888", "dash": "dot"}, name="no change")
    return drawing
