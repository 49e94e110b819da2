"""Figures of the logit lens and of direct effects, memorized beside its control."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.localize.logit_lens import share_decided
from memhooks.measure.intervals import bootstrap_mean
from memhooks.report.theme import NAMES, TEMPLATE, add_line_

_SEED = 0  # of the intervals drawn
_MOST_NUMBERS = 13  # columns of a map whose cells have room for a number


def plot_logit_lens(results: Mapping[str, xr.Dataset]) -> go.Figure:
    """Surprise at the true token, and the share of tokens that are decided, by the number of blocks that have run."""
    titles = ["NLL of the true token", "tokens whose final choice is decided"]
    drawing = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.12)
    drawing.update_layout(template=TEMPLATE, height=440, title="Logit lens: if the model ended after so many blocks")
    drawn = []
    for condition, result in results.items():
        depths = result["layer"].values.tolist()
        for column, values in enumerate((result["nll"].mean("pos"), share_decided(result)), start=1):
            drawn.append(bootstrap_mean(values.transpose("paragraph", "layer").values, seed=_SEED))
            add_line_(drawing, condition, depths, *drawn[-1], column=column)
    _leave_out_embeddings_(drawing, [means for means, _, _ in drawn[::2]])
    n_depths = max(result.sizes["layer"] for result in results.values())
    drawing.update_xaxes(title_text="blocks that have run (0 = embeddings alone)", dtick=max(1, round(n_depths / 12)))
    drawing.update_yaxes(title_text="nats per continuation token", col=1)
    return drawing.update_yaxes(title_text="share of tokens", tickformat=".0%", range=[-0.02, 1.05], col=2)


def _leave_out_embeddings_(drawing: go.Figure, nll: Sequence[np.ndarray]) -> None:
    """Where the embeddings alone are far worse than any block, they would press the curves flat: say so instead."""
    highest = max(float(means[1:].max()) for means in nll)
    start = [float(means[0]) for means in nll]
    if min(start) < 2 * highest:
        drawing.update_yaxes(rangemode="tozero", col=1)
        return
    drawing.update_yaxes(range=[0, 1.3 * highest], col=1)
    drawing.add_annotation(
        text=f"after 0 blocks, off the scale: {' and '.join(f'{one:.1f}' for one in start)} nats",
        xref="x domain",
        yref="y domain",
        x=0.98,
        y=0.98,
        showarrow=False,
        font={"size": 11, "color": "#555"},
    )


def plot_direct_effects(results: Mapping[str, xr.Dataset]) -> go.Figure:
    """Mean direct effect of every head, and of the MLPs in the last column; red = for the true token."""
    titles = [NAMES.get(condition, condition) for condition in results]
    drawing = make_subplots(1, len(results), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    means = [result[["heads", "mlp"]].mean("paragraph") for result in results.values()]
    maps = [np.column_stack([one["heads"].transpose("layer", "head").values, one["mlp"].values]) for one in means]
    bound = max(float(np.abs(one).max()) for one in maps)
    for column, (values, result) in enumerate(zip(maps, results.values(), strict=True), start=1):
        drawing.add_heatmap(
            z=values,
            x=[*(f"H{head}" for head in result["head"].values), "MLP"],
            y=[f"L{layer}" for layer in result["layer"].values],
            zmin=-bound,
            zmax=bound,
            colorscale="RdBu_r",
            showscale=column == 1,
            colorbar={"title": "logits"},
            texttemplate="%{z:.1f}" if values.shape[1] <= _MOST_NUMBERS else None,
            textfont={"size": 9},
            hovertemplate="%{y} %{x}: %{z:.3f} logits<extra></extra>",
            row=1,
            col=column,
        )
    return drawing.update_layout(
        template=TEMPLATE, height=440, title="Direct effect on the true token's logit (red = raises it)"
    )
