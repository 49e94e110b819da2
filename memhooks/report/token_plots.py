"""Figures of one paragraph's tokens: how sure the model was of each, and what it would rather have said."""

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from memhooks.errors import InputError
from memhooks.measure.token_scores import min_k, min_k_tokens
from memhooks.report.theme import COLOURS, TEMPLATE, figure

_X = "token (dashed line: the continuation begins)"
_TICKS = {"tickangle": -90, "tickfont": {"size": 8}, "tickmode": "linear", "dtick": 1}


def plot_logit_gaps(scores: xr.Dataset, tokens: Sequence[str], alternatives: Sequence[Sequence[str]]) -> go.Figure:
    """Log-probability of every token beside the likeliest others, and below by how much it leads or trails them.

    Args:
        scores: of one paragraph, `token_scores(...).isel(paragraph=0)`.
        tokens: the text of all its tokens, also of the first.
        alternatives: for every scored token, the texts of its `top_tokens`.

    Raises:
        InputError: scores of several paragraphs, or texts of another number.
    """
    labels = _labels(scores, tokens)
    shape = scores["top_tokens"].shape
    if (len(alternatives), *{len(row) for row in alternatives}) != shape:
        raise InputError(f"alternatives must hold {shape[1]} texts for each of {shape[0]} scored tokens")
    drawing = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.66, 0.34], vertical_spacing=0.04)
    drawing.update_layout(template=TEMPLATE, height=640, title="What would the model rather have said at each token?")
    _add_alternatives_(drawing, scores, labels, alternatives)
    drawing.add_scatter(
        x=labels,
        y=scores["log_prob"].values,
        mode="lines+markers",
        name="true token",
        line={"color": "#222", "width": 1.5},
        marker={"size": 5},
        hovertemplate="%{x}: %{y:.2f} nats<extra>true token</extra>",
        row=1,
        col=1,
    )
    gap, first = scores["gap"].values, scores["rank"].values == 0  # of equal logits the smaller id is said
    for name, colour, chosen in (
        ("greedy decoding says it", COLOURS["memorized"], first),
        ("another token leads", COLOURS["control"], ~first),
    ):
        hover = "%{x}: %{y:.2f} nats<extra></extra>"
        drawing.add_bar(
            x=labels, y=np.where(chosen, gap, np.nan), name=name, marker_color=colour, hovertemplate=hover, row=2, col=1
        )
    _mark_continuation_(drawing, scores)
    drawing.update_layout(barmode="overlay", legend={"y": 1.0, "yanchor": "bottom"}, margin={"t": 100})
    drawing.update_yaxes(title_text="log-probability, nats", row=1)
    drawing.update_yaxes(title_text="gap, nats", row=2)
    return drawing.update_xaxes(title_text=_X, **_TICKS, row=2)


def plot_token_log_probs(
    scores: xr.Dataset, tokens: Sequence[str], *, fraction: float = 0.2, lowest: float | None = None
) -> go.Figure:
    """Log-probability of every token as one row; crosses mark the continuation's least likely, which Min-K% averages.

    Args:
        scores: of one paragraph, `token_scores(...).isel(paragraph=0)`.
        tokens: the text of all its tokens, also of the first.
        fraction: share of the continuation's tokens to mark.
        lowest: log-probability at the dark end of the scale, so that figures of several paragraphs compare.

    Raises:
        InputError: scores of several paragraphs, texts of another number, or a fraction outside (0, 1].
    """
    labels = np.array(_labels(scores, tokens))
    chosen = min_k_tokens(scores, fraction=fraction).values
    mean = float(min_k(scores, fraction=fraction))
    title = f"Which tokens surprise? Min-{fraction:.0%} log-probability of the continuation: {mean:.2f} nats"
    drawing = figure(title=title, x=_X, y="", height=320)
    drawing.add_heatmap(
        z=scores["log_prob"].values[None],
        x=labels,
        y=[""],
        zmin=float(scores["log_prob"].min()) if lowest is None else lowest,
        zmax=0,
        colorscale="Cividis",
        colorbar={"title": "nats", "thickness": 14},
        hovertemplate="%{x}: %{z:.2f} nats<extra></extra>",
    )
    drawing.add_scatter(
        x=labels[chosen],
        y=[""] * int(chosen.sum()),
        mode="markers",
        name=f"least likely {fraction:.0%} of the continuation",
        showlegend=True,
        marker={"symbol": "x", "size": 7, "color": "white", "line": {"color": COLOURS["memorized"], "width": 2}},
        hoverinfo="skip",
    )
    _mark_continuation_(drawing, scores)
    drawing.update_layout(legend={"y": 1.0, "yanchor": "bottom"}, margin={"t": 90, "r": 110})
    return drawing.update_xaxes(**_TICKS)


def _add_alternatives_(
    drawing: go.Figure, scores: xr.Dataset, labels: Sequence[str], alternatives: Sequence[Sequence[str]]
) -> None:
    """One set of markers per rank; blank where that token is the true one, whose line is there already."""
    k = scores.sizes["row"]
    colours = sample_colorscale("Viridis", [0.15 + 0.8 * place / max(1, k - 1) for place in range(k)])
    for place in range(k):
        is_true = scores["rank"].values == place
        drawing.add_scatter(
            x=labels,
            y=np.where(is_true, np.nan, scores["top_log_probs"].values[:, place]),
            mode="markers",
            name="likeliest token" if place == 0 else f"{place + 1}.",
            marker={
                "size": 6,
                "color": colours[place],
                "symbol": "line-ew",
                "line": {"width": 2.5, "color": colours[place]},
            },
            customdata=[escape(repr(row[place]), quote=False) for row in alternatives],
            hovertemplate="%{customdata}: %{y:.2f} nats<extra>at %{x}</extra>",
            row=1,
            col=1,
        )


def _mark_continuation_(drawing: go.Figure, scores: xr.Dataset) -> None:
    """A line between the last prefix token and the first of the continuation."""
    border = int(scores.attrs["n_prefix"]) - int(scores["pos"].values[0]) - 0.5
    drawing.add_vline(x=border, line={"color": "#000", "dash": "dash", "width": 2})


def _labels(scores: xr.Dataset, tokens: Sequence[str]) -> list[str]:
    """A label per scored token, numbered by position: equal labels would merge.

    Raises:
        InputError: scores of several paragraphs, or texts of another number.
    """
    if "paragraph" in scores.dims:
        raise InputError("the figure shows one paragraph; pick it with scores.isel(paragraph=0)")
    positions = scores["pos"].values
    if len(tokens) != positions[-1] + 1:
        raise InputError(f"tokens must be the texts of all {positions[-1] + 1} tokens, got {len(tokens)}")
    return [f"{escape(repr(tokens[pos]), quote=False)} {pos}" for pos in positions]
