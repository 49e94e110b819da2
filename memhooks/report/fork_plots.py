"""Figures of two forks: the line between them, what parts carry, what localizers name, what reading made."""

from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.errors import InputError
from memhooks.report.theme import COLOURS, PALETTE, TEMPLATE, faded, figure

_SETS = {
    "memorized": ("read by the model alone", COLOURS["memorized"]),
    "mirror": ("read by the other alone", PALETTE[2]),
    "control": ("read by neither", COLOURS["control"]),
}
_BOUNDS = {"random": "#7F7F7F", "oracle": "#000000"}
_LOCALIZERS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#332288", "#56B4E9")


def plot_line(line: xr.Dataset) -> go.Figure:
    """NLL of each set along the line from the model (0) to its fork (1), with 95 % intervals.

    Raises:
        InputError: it is no result of `loss_along_line`.
    """
    _need(line, "barrier", "loss_along_line")
    barrier = [float(line[f"barrier{end}"]) for end in ("", "_low", "_high")]
    drawing = figure(
        title=f"Is there a hill between the forks? Barrier of never-read text {barrier[0]:.3f} nats "
        f"[{barrier[1]:.3f}, {barrier[2]:.3f}]",
        x="share of the other fork's weights",
        y="NLL of the continuation, nats per token",
        height=460,
    )
    x = line["row"].values.tolist()
    for name, (words, colour) in _SETS.items():
        mean, low, high = (line[f"nll_{name}{end}"].values for end in ("", "_low", "_high"))
        _band(drawing, x, low, high, colour)
        drawing.add_scatter(
            x=x,
            y=mean,
            name=words,
            mode="lines+markers",
            line={"color": colour},
            customdata=line[f"em_{name}"].values,
            hovertemplate="%{x:.2f}: NLL %{y:.2f}, EM %{customdata:.1f}<extra></extra>",
        )
    return drawing


def plot_swaps(swaps: xr.Dataset) -> list[go.Figure]:
    """What each part removes and brings: layers with intervals, runs of layers, matrices as a map, heads as a map.

    Figures of parts that the swaps lack are left out.

    Raises:
        InputError: it is no result of `swap_parts`.
    """
    _need(swaps, "removes", "swap_parts")
    kinds = swaps["kind"].values
    drawn = [_bars(swaps)] if {"layer", "attention", "mlp"} <= set(kinds) else []
    if {"bottom", "top"} <= set(kinds):
        drawn.append(_runs(swaps))
    drawn += [_maps(swaps, kind) for kind in ("matrix", "head") if kind in kinds]
    return drawn


def plot_counterfactual(found: xr.Dataset) -> go.Figure:
    """Every paragraph's NLL without having read it minus with it, by readings; the band holds 95 % of never-read text.

    Raises:
        InputError: it is no result of `counterfactual_memorization`.
    """
    _need(found, "nll_difference", "counterfactual_memorization")
    drawing = figure(
        title="How much likelier does reading make a paragraph? A dot each; line: mean; band: 95 % of never-read text",
        x="times that one of the forks has read it",
        y="NLL without reading minus with, nats per token",
        height=480,
    )
    counts = sorted({int(one) for one in found["count"].values})
    place = {count: number for number, count in enumerate(counts)}
    generator = np.random.default_rng(0)  # sideways, so that dots do not hide each other
    for shift, (name, (words, colour)) in zip((-0.17, 0.17, 0.0), _SETS.items(), strict=True):
        here = found["set"].values == name
        x = np.array([place[int(one)] for one in found["count"].values[here]]) + shift
        drawing.add_scatter(
            x=x + generator.uniform(-0.1, 0.1, len(x)),
            y=found["nll_difference"].values[here],
            mode="markers",
            name=words,
            marker={"color": colour, "size": 5, "opacity": 0.5},
            text=[escape(str(one)) for one in found["paragraph"].values[here]],
            hovertemplate="%{text}: %{y:.2f} nats per token<extra></extra>",
        )
        rows = found.isel(row=(found["row_set"] == name).values)
        mean, low, high = (rows[f"mean{end}"].values for end in ("", "_low", "_high"))
        drawing.add_scatter(
            x=[place[int(one)] + shift for one in rows["row_count"].values],
            y=mean,
            mode="lines+markers",
            showlegend=False,
            line={"color": colour},
            marker={"size": 9, "symbol": "diamond", "line": {"color": "white", "width": 1}},
            error_y={"array": high - mean, "arrayminus": mean - low, "color": colour},
            hovertemplate="mean %{y:.2f}<extra></extra>",
        )
    ends = [-float(found["threshold_mirror"]), float(found["threshold"])]
    if not np.isnan(ends).any():  # too few never-read paragraphs for a band
        drawing.add_hrect(y0=ends[0], y1=ends[1], fillcolor=faded(COLOURS["control"]), line_width=0)
    words = [str(one) if one else "none" for one in counts]
    return drawing.update_xaxes(tickvals=list(place.values()), ticktext=words)


def plot_agreement(curves: xr.Dataset) -> go.Figure:
    """Share of the gap that vanishes with the weights each localizer names, beside matched random ones and the oracle.

    Raises:
        InputError: it is no result of `swap_curves`.
    """
    _need(curves, "beyond_random", "swap_curves")
    titles = ("text that was localized", "matched random weights", "other recited text")
    made = make_subplots(cols=3, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    made.update_layout(
        template=TEMPLATE,
        title="Do localizers name weights that hold the text? Their top weights are swapped for the other fork's",
        height=470,
    )
    names = list(dict.fromkeys(map(str, curves["localizer"].values)))
    for number, name in enumerate(names):
        rows = curves.isel(row=(curves["localizer"] == name).values)
        colour = _BOUNDS.get(name) or _LOCALIZERS[number % len(_LOCALIZERS)]
        for column, what in enumerate(("target", "random", "others"), start=1):
            mean, low, high = (rows[f"{what}{end}"].values for end in ("", "_low", "_high"))
            made.add_scatter(
                x=rows["fraction"].values,
                y=mean,
                name=escape(name.replace("_", " ")),
                legendgroup=name,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": colour, "dash": "dot" if name in _BOUNDS else "solid"},
                error_y={"array": high - mean, "arrayminus": mean - low, "color": colour, "thickness": 1},
                hovertemplate=f"{escape(name)}: %{{y:.1%}} at %{{x:.1%}}<extra></extra>",
                row=1,
                col=column,
            )
    made.update_xaxes(type="log", title_text="share of all weights swapped (log)", tickformat="~%")
    ticks = sorted(set(curves["fraction"].values.tolist()))
    made.update_xaxes(tickvals=ticks, ticktext=[f"{one:.4g}".rstrip() for one in ticks])
    return made.update_yaxes(title_text="share of the forks' gap that vanishes", tickformat=".0%", col=1)


def _bars(swaps: xr.Dataset) -> go.Figure:
    drawing = _pair("What does one layer carry? Share of the gap in NLL that its exchange removes or brings")
    styles = (("layer", "whole layer", "#222222"), ("attention", "attention", "#009E73"), ("mlp", "MLP", "#E69F00"))
    for kind, words, colour in styles:
        rows = swaps.isel(row=(swaps["kind"] == kind).values)
        for column, what in enumerate(("removes", "brings"), start=1):
            mean, low, high = (rows[f"{what}{end}"].values for end in ("", "_low", "_high"))
            drawing.add_bar(
                x=[f"L{layer}" for layer in rows["layer"].values],
                y=mean,
                name=words,
                legendgroup=kind,
                showlegend=column == 1,
                marker_color=colour,
                error_y={"array": high - mean, "arrayminus": mean - low, "color": "#888", "thickness": 1.5},
                hovertemplate=f"{words} %{{x}}: %{{y:.1%}}<extra></extra>",
                row=1,
                col=column,
            )
    whole = swaps.isel(row=(swaps["kind"] == "layer").values)
    layers = [f"L{layer}" for layer in whole["layer"].values]
    for column, suffix in enumerate(("", "_other"), start=1):
        mean, low, high = (whole[f"control_rise{suffix}{end}"].values / _gap(swaps) for end in ("", "_low", "_high"))
        drawing.add_bar(
            x=layers,
            y=mean,
            name="rise of never-read text under the whole layer's swap, over the gap",
            legendgroup="control",
            showlegend=column == 1,
            marker_color=COLOURS["control"],
            error_y={"array": high - mean, "arrayminus": mean - low, "color": "#888", "thickness": 1.5},
            row=1,
            col=column,
        )
    drawing.add_scatter(
        x=layers,
        y=whole["blind"].values,
        name="whole layer moved as far, in random order",
        mode="markers",
        marker={"symbol": "x", "color": "#882255", "size": 9},
        row=1,
        col=1,
    )
    drawing.update_xaxes(title_text="layer")
    return drawing


def _gap(swaps: xr.Dataset) -> float:
    """What separates the forks on the memorized set, nats per token."""
    here = swaps["set"].values == "memorized"
    return float((swaps["clean_nll_other"] - swaps["clean_nll_model"]).values[here].mean())


def _runs(swaps: xr.Dataset) -> go.Figure:
    drawing = _pair("How many layers does it take? Runs of layers swapped, embeddings left as they are")
    for kind, words, colour in (("bottom", "from the bottom", "#0072B2"), ("top", "from the top", "#D55E00")):
        rows = swaps.isel(row=(swaps["kind"] == kind).values)
        n = np.arange(1, rows.sizes["row"] + 1)
        for column, what in enumerate(("removes", "brings"), start=1):
            mean, low, high = (rows[f"{what}{end}"].values for end in ("", "_low", "_high"))
            drawing.add_scatter(
                x=n,
                y=mean,
                name=words,
                legendgroup=kind,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": colour},
                error_y={"array": high - mean, "arrayminus": mean - low, "color": colour},
                text=[escape(str(one)) for one in rows["row"].values],
                hovertemplate="%{text}: %{y:.1%}<extra></extra>",
                row=1,
                col=column,
            )
    drawing.update_xaxes(title_text="layers swapped", dtick=1)
    return drawing


def _maps(swaps: xr.Dataset, kind: str) -> go.Figure:
    rows = swaps.isel(row=(swaps["kind"] == kind).values)
    heads = kind == "head"
    own = [f"H{one}" for one in rows["head"].values] if heads else [str(one).split()[0] for one in rows["row"].values]
    columns = list(dict.fromkeys(own))
    layers = sorted({int(one) for one in rows["layer"].values})
    what = "head" if heads else "matrix"
    drawing = _pair(f"Does a single {what} carry it? Share of the gap (zoomed colours)", y="layer")
    bound = max(float(np.abs(rows[one].values).max()) for one in ("removes", "brings")) or 1.0
    for number, one in enumerate(("removes", "brings"), start=1):
        grid = np.full((len(layers), len(columns)), np.nan)
        for name, layer, value in zip(own, rows["layer"].values, rows[one].values, strict=True):
            grid[layers.index(int(layer)), columns.index(name)] = value
        drawing.add_heatmap(
            z=grid,
            x=columns,
            y=[f"L{layer}" for layer in layers],
            colorscale="RdBu_r",
            zmin=-bound,
            zmax=bound,
            texttemplate="%{z:.2%}",
            showscale=number == 2,
            colorbar={"title": "share", "tickformat": ".1%"},
            hovertemplate="%{y} %{x}: %{z:.2%}<extra></extra>",
            row=1,
            col=number,
        )
    drawing.update_xaxes(title_text=what)
    return drawing.update_yaxes(tickformat=None, autorange="reversed")


def _pair(title: str, *, y: str = "share of the gap, 0 = nothing, 1 = all") -> go.Figure:
    titles = ("removes: the other's part in the model", "brings: the model's part in the other")
    made = make_subplots(cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    made.update_layout(template=TEMPLATE, title=title, height=440)
    made.update_yaxes(tickformat=".0%")
    return made.update_yaxes(title_text=y, col=1)


def _band(drawing: go.Figure, x: list, low: np.ndarray, high: np.ndarray, colour: str) -> None:
    style = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    drawing.add_scatter(x=x, y=high, **style)
    drawing.add_scatter(x=x, y=low, fill="tonexty", fillcolor=faded(colour), **style)


def _need(result: xr.Dataset, name: str, maker: str) -> None:
    if name not in result:
        raise InputError(f"expected a result of {maker}, which holds {name!r}")
