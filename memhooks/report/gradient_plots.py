"""Figures of gradients: maps of components by EM bin, of activations by layer, head and position, and of cosines."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.errors import InputError
from memhooks.report.theme import NAMES, TEMPLATE

Results = Mapping[str, xr.Dataset]


def plot_range_maps(maps: xr.Dataset, *, variable: str = "max_gradient") -> go.Figure:
    """Results of `range_maps`: a map for each EM bin, in per cent of its own sum, and its layers' shares beside it.

    Sizes differ by an order of magnitude with the loss, so they stand in the titles.
    """
    bins = [str(name) for name in maps["row"].values]
    titles = [title for name in bins for title in (_bin_title(maps.sel(row=name), name), "layers, %")]
    drawing = make_subplots(
        len(bins),
        2,
        subplot_titles=titles,
        shared_xaxes=True,
        column_widths=[0.8, 0.2],
        horizontal_spacing=0.02,
        vertical_spacing=0.06,
    )
    labels = [f"L{layer}" for layer in maps["layer"].values]
    shares = 100 * maps[variable] / maps[variable].sum(("layer", "component"))
    top = float(shares.max())
    for row, name in enumerate(bins, start=1):
        one = shares.sel(row=name).transpose("layer", "component")
        drawing.add_heatmap(
            z=one.values,
            x=one["component"].values,
            y=labels,
            zmin=0,
            zmax=top,
            colorscale="Viridis",
            showscale=row == 1,
            colorbar={"title": "% of map", "x": 1.01},
            row=row,
            col=1,
        )
        drawing.add_bar(
            x=one.sum("component").values,
            y=labels,
            orientation="h",
            marker_color="#777",
            showlegend=False,
            row=row,
            col=2,
        )
    drawing.update_yaxes(showticklabels=False, col=2)
    drawing.update_xaxes(rangemode="tozero", col=2)
    reference = {"own": "the model's own", "true": "the true"}[str(maps.attrs["reference"])]
    return drawing.update_layout(
        template=TEMPLATE,
        height=110 + 250 * len(bins),
        margin={"t": 90},
        title=f"Where is the gradient of {reference} continuation's NLL? {variable}, by how much is recited",
    )


def plot_attention_and_mlp(maps: xr.Dataset) -> go.Figure:
    """Results of `range_maps`: per layer the sum of |gradient| over all attention and over all MLP weights, by bin."""
    drawing = make_subplots(
        1, 2, subplot_titles=["attention weights", "MLP weights"], shared_yaxes=True, horizontal_spacing=0.03
    )
    labels = [f"L{layer}" for layer in maps["layer"].values]
    shades = ["#440154", "#31688E", "#35B779", "#C8A415"]
    for column, kind in enumerate(("attention", "mlp"), start=1):
        for name, shade in zip(maps["row"].values, shades, strict=False):
            drawing.add_bar(
                x=labels,
                y=maps[kind].sel(row=name).values,
                name=f"EM {name}",
                legendgroup=str(name),
                showlegend=column == 1,
                marker_color=shade,
                row=1,
                col=column,
            )
    drawing.update_yaxes(type="log", title_text="sum of |gradient|", col=1)
    drawing.update_yaxes(type="log", col=2)
    drawing.update_xaxes(title_text="layer")
    return drawing.update_layout(template=TEMPLATE, height=420, title="Where is the gradient: attention or MLP?")


def plot_component_map(scores: xr.Dataset, *, variable: str = "max_gradient", title: str = "") -> go.Figure:
    """Results of `component_scores`: layer by component, such as of any localizer."""
    one = scores[variable].transpose("layer", "component")
    drawing = go.Figure(layout={"template": TEMPLATE, "height": 420, "title": title or one.attrs["units"]})
    drawing.add_heatmap(
        z=one.values,
        x=one["component"].values,
        y=[f"L{layer}" for layer in one["layer"].values],
        colorscale="Viridis",
        zmin=0,
        colorbar={"title": "max of<br>score" if variable == "max_gradient" else "score", "tickformat": ".1e"},
    )
    drawing.update_xaxes(title_text="component: one head's matrix, or one of the MLP's")
    return drawing.update_yaxes(title_text="layer")


def plot_activation_gradients(results: Results, *, variable: str = "max_gradient") -> go.Figure:
    """Results of `activation_gradients` at each paragraph's own position, by head: a row per site, a column per result.

    Such as the clean and the perturbed paragraphs of pairs at the perturbed token and where the impact token is
    predicted. Each map is in per cent of its own sum: the size follows the loss.
    """
    means = {name: one[variable].mean("paragraph") for name, one in results.items()}
    means = {name: 100 * one / one.sum(("layer", "head")) for name, one in means.items()}
    sites = next(iter(means.values()))["site"].values.tolist()
    titles = [f"{site}: {NAMES.get(name, name)}" for site in sites for name in means]
    drawing = make_subplots(
        len(sites), len(means), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.1
    )
    for row, site in enumerate(sites, start=1):
        top = max(float(one.sel(site=site).max()) for one in means.values())
        low, high = cast(Any, drawing.get_subplot(row, 1)).yaxis.domain
        for column, one in enumerate(means.values(), start=1):
            drawing.add_heatmap(
                z=one.sel(site=site).transpose("layer", "head").values,
                x=[f"H{head}" for head in one["head"].values],
                y=[f"L{layer}" for layer in one["layer"].values],
                zmin=0,
                zmax=top,
                colorscale="Viridis",
                showscale=column == 1,
                colorbar={"len": high - low, "y": (low + high) / 2, "title": "% of map", "x": 1.02},
                row=row,
                col=column,
            )
    return drawing.update_layout(
        template=TEMPLATE,
        height=150 + 260 * len(sites),
        margin={"t": 110},
        title="Which head's activations move the token? |Gradient| by layer and head",
    ).update_annotations(font_size=12)


def plot_one_paragraph(
    gradients: xr.Dataset, tokens: Sequence[str], *, site: str = "v", layer: int | None = None, head: int | None = None
) -> go.Figure:
    """One paragraph of `activation_gradients` over positions: all heads of a layer, or all layers of a head.

    Raises:
        InputError: neither or both are given.
    """
    one = gradients["max_gradient"].isel(paragraph=0).sel(site=site)
    if (layer is None) == (head is None):
        raise InputError("give either a layer, to see its heads, or a head, to see it in all layers")
    shown = one.sel(layer=layer) if head is None else one.sel(head=head)
    down = "head" if head is None else "layer"
    shown = shown.transpose(down, "pos")
    fixed = f"layer {layer}" if head is None else f"head {head}"
    drawing = go.Figure(layout={"template": TEMPLATE, "height": 440, "title": f"|Gradient| at {site} of {fixed}"})
    drawing.add_heatmap(
        z=shown.values,
        x=[
            f"{escape(repr(tokens[int(pos)]), quote=False)} {pos}" for pos in shown["pos"].values
        ],  # numbered: equal ones would merge
        y=[f"{down[0].upper()}{number}" for number in shown[down].values],
        colorscale="Viridis",
        zmin=0,
        colorbar={"title": "nats per<br>unit", "tickformat": ".1e"},
    )
    drawing.update_xaxes(title_text="token and its position", tickangle=-70, tickfont={"size": 9})
    return drawing.update_yaxes(title_text=down)


def plot_similarity(result: xr.Dataset, *, across: str = "component") -> go.Figure:
    """Results of `weight_similarity`, or of `set_similarity` at one site and position: between and within the sets."""
    names = {"between": "between the sets", "within_one": "within the first", "within_other": "within the second"}
    drawing = make_subplots(3, 1, subplot_titles=list(names.values()), shared_xaxes=True, vertical_spacing=0.08)
    for row, variable in enumerate(names, start=1):
        one = result[variable].transpose("layer", across)
        drawing.add_heatmap(
            z=one.values,
            x=[f"H{label}" if across == "head" else str(label) for label in one[across].values],
            y=[f"L{layer}" for layer in one["layer"].values],
            zmin=-1,
            zmax=1,
            colorscale="RdBu_r",
            showscale=row == 1,
            colorbar={"title": "cosine"},
            row=row,
            col=1,
        )
    return drawing.update_layout(
        template=TEMPLATE,
        height=760,
        margin={"t": 90},
        title="Do both sets pull the same way? Cosine of mean gradients",
    )


def _bin_title(one: xr.Dataset, name: str) -> str:
    return (
        f"EM {name}: {int(one['n_paragraphs'])} paragraphs, NLL {float(one['nll']):.2f}, "
        f"sum {float(one['grad_sum']):.3g}, variance {float(one['grad_var']):.2g}"
    )


def plot_pair_similarity(result: xr.Dataset, *, variable: str = "cosine") -> go.Figure:
    """Results of `paired_similarity` by head at each pair's own position: a map per site, mean over pairs."""
    sites = result["site"].values.tolist()
    drawing = make_subplots(1, len(sites), subplot_titles=sites, shared_yaxes=True, horizontal_spacing=0.03)
    with np.errstate(invalid="ignore"):
        mean = result[variable].mean("paragraph")
    cosine = variable == "cosine"
    for column, site in enumerate(sites, start=1):
        one = mean.sel(site=site).transpose("layer", "head")
        drawing.add_heatmap(
            z=one.values,
            x=[f"H{head}" for head in one["head"].values],
            y=[f"L{layer}" for layer in one["layer"].values],
            zmin=-1 if cosine else 0,
            zmax=1 if cosine else float(mean.max()),
            colorscale="RdBu_r" if cosine else "Viridis",
            showscale=column == 1,
            colorbar={"title": variable},
            row=1,
            col=column,
        )
    what = "Cosine" if cosine else "Relative difference"
    return drawing.update_layout(
        template=TEMPLATE, height=400, title=f"{what} between each paragraph and its perturbed twin, mean over pairs"
    )
