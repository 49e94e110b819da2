"""Figures of the layer profile of gradients: where they lie, whether the loss explains it, which contrasts hold."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from memhooks.localize.profile import centre_of_mass, layer_shares, losses_of
from memhooks.measure.intervals import bootstrap_mean
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.report.theme import COLOURS, NAMES, add_line_, colour_of, faded, figure, name_of

Results = Mapping[str, xr.Dataset]

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "x", "pentagon")
_SEED = 0  # of the intervals drawn
_LINEAR = 0.01  # nats below which the loss axis is linear, so that a loss of 0 has a place
_TICKS = np.array([0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100])
_KINDS = (  # variable, p, verdict, name, colour, height above the row's middle
    ("difference", "p", "survives", "raw", "#222222", 0.13),
    ("adjusted", "p_adjusted", "survives_adjusted", "at equal loss (regression)", COLOURS["control"], -0.13),
)


def plot_layer_shares(
    results: Results, *, pooling: str = "max_gradient", sets: Mapping[str, Paragraphs] | None = None
) -> go.Figure:
    """Mean share of each layer in every condition's gradients, with 95 % intervals.

    Args:
        results: of `weight_scores`, by condition.
        pooling: how each component was pooled.
        sets: their paragraphs, where known; near-duplicates then count once in the intervals.

    Raises:
        InputError: scores that `layer_shares` refuses.
    """
    drawing = figure(
        title="In which layers do the gradients lie? Share of each layer, size removed",
        x="layer",
        y=f"share of {_words(pooling)}",
        height=500,
    )
    colours, layers = _colours(results), []
    for condition, result in results.items():
        shares = layer_shares(result, pooling=pooling)
        near = clusters(sets[condition]).numpy() if sets and condition in sets else None
        layers = shares["layer"].values.tolist()
        name = name_of(condition)
        ends = bootstrap_mean(shares.values, seed=_SEED, clusters=near)
        add_line_(drawing, condition if condition in NAMES else name, layers, *ends)
        drawing.update_traces(
            line_color=colours[condition], fillcolor=faded(colours[condition]), selector={"legendgroup": name}
        )
    even = 1 / len(layers)
    drawing.add_hline(y=even, line={"dash": "dot", "color": "#888", "width": 1})
    drawing.add_annotation(text="all layers<br>alike", x=1, xref="paper", xanchor="left", y=even, showarrow=False)
    drawing.update_layout(margin={"r": 90})
    return drawing.update_xaxes(tickvals=layers, ticktext=[f"L{layer}" for layer in layers])


def plot_centre_against_loss(results: Results, *, pooling: str = "max_gradient") -> go.Figure:
    """Every paragraph by its loss and its centre of mass; where sets overlap in loss, they compare at equal loss.

    Raises:
        InputError: scores without a finite loss, or such as `layer_shares` refuses.
    """
    drawing = figure(
        title="Do the sets differ at equal loss? A dot per paragraph, large = mean of the set",
        x="loss, nats per token (log scale, linear below 0.01)",
        y=f"centre of mass of {_words(pooling)}, layers",
        height=520,
    )
    centres = {name: centre_of_mass(layer_shares(one, pooling=pooling)).values for name, one in results.items()}
    losses = {name: losses_of(name, one) for name, one in results.items()}
    looks = {
        name: {"color": colour, "symbol": _SYMBOLS[number % len(_SYMBOLS)]}
        for number, (name, colour) in enumerate(_colours(results).items())
    }
    for name, look in looks.items():
        drawing.add_scatter(
            x=_on_axis(losses[name]),
            y=centres[name],
            name=name_of(name),
            mode="markers",
            marker=look | {"size": 7, "opacity": 0.7},
            customdata=list(zip(map(str, results[name]["paragraph"].values), losses[name], strict=True)),
            hovertemplate="%{customdata[0]}: loss %{customdata[1]:.3g}, centre %{y:.2f}<extra></extra>",
        )
    for name, look in looks.items():  # the means lie above all dots
        drawing.add_scatter(
            x=_on_axis(losses[name].mean(keepdims=True)),
            y=[centres[name].mean()],
            showlegend=False,
            mode="markers",
            marker=look | {"size": 17, "line": {"color": "white", "width": 2}},
            hovertemplate=f"mean: loss {losses[name].mean():.3g}, centre %{{y:.2f}}<extra>{name_of(name)}</extra>",
        )
    largest = max(float(one.max()) for one in losses.values())
    shown = _TICKS[: 1 + np.searchsorted(_TICKS, largest)]
    return drawing.update_xaxes(tickvals=_on_axis(shown), ticktext=[f"{one:g}" for one in shown], zeroline=False)


def plot_profile_contrasts(contrasts: xr.Dataset) -> go.Figure:
    """Table of `profile_contrasts` as a forest plot: filled dots are differences that survive interval and test."""
    rows = contrasts["row"].values.tolist()
    drawing = figure(
        title="Do memorized gradients lie lower in the network than those of each control?",
        x=f"centre of mass of {_words(str(contrasts.attrs['pooling']))}, memorized minus control, layers (negative = "
        "memorized lower)",
        y="",
        height=170 + 80 * len(rows),
    )
    places = np.arange(len(rows))[::-1]
    for variable, p, verdict, name, colour, above in _KINDS:
        mean, low, high = (contrasts[f"{variable}{end}"].values for end in ("", "_low", "_high"))
        drawing.add_scatter(
            x=mean,
            y=places + above,
            mode="markers",
            showlegend=False,
            marker=_dot(colour, [colour if survives else "white" for survives in contrasts[verdict].values]),
            error_x={"array": high - mean, "arrayminus": mean - low, "color": colour, "thickness": 2, "width": 4},
            customdata=contrasts[p].values,
            hovertemplate="%{x:.3f} layers, p = %{customdata:.3g}<extra></extra>",
        )
        drawing.add_scatter(x=[None], y=[None], name=name, mode="markers", marker=_dot(colour, colour))
    drawing.add_scatter(
        x=[None], y=[None], name="does not survive (interval and p)", mode="markers", marker=_dot("#888", "white")
    )
    for place in places[np.isnan(contrasts["adjusted"].values)]:
        drawing.add_annotation(
            text="too few paragraphs of equal loss: not adjusted",
            x=0,
            y=place + _KINDS[1][-1],
            xanchor="left",
            xshift=6,
            showarrow=False,
            font={"size": 11, "color": _KINDS[1][-2]},
        )
    drawing.add_vline(x=0, line={"color": "#888", "width": 1})
    drawing.update_layout(legend={"y": 1.0, "yanchor": "bottom", "x": 0}, margin={"t": 90})
    labels = [_about(contrasts.sel(row=row)) for row in rows]
    return drawing.update_yaxes(tickvals=places, ticktext=labels, range=[-0.5, len(rows) - 0.5], zeroline=False)


def _dot(colour: str, inside: str | list[str]) -> dict:
    return {"size": 11, "color": inside, "line": {"color": colour, "width": 2}}


def _about(row: xr.Dataset) -> str:
    losses = f"loss {float(row['nll_memorized']):.2f} and {float(row['nll_control']):.2f}"
    overlap = f"{float(row['overlap']):.0%}"
    return f"{name_of(str(row['row'].values))}<br><span style='font-size:11px'>{losses}, overlap {overlap}</span>"


def _on_axis(loss: np.ndarray) -> np.ndarray:
    """Where a loss is drawn: logarithmic, but linear around 0."""
    return np.arcsinh(loss / _LINEAR)


def _colours(results: Results) -> dict[str, str]:
    unnamed = [condition for condition in results if condition not in COLOURS]
    places = {condition: number for number, condition in enumerate(unnamed)}
    return {condition: colour_of(condition, places.get(condition, 0)) for condition in results}


def _words(pooling: str) -> str:
    return {"max_gradient": "largest |gradient|"}.get(pooling, pooling.replace("_", " "))
