"""Figures of a comparison of unlearning methods: what is forgotten against what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.report.theme import TEMPLATE

_COLOURS = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#7F7F7F",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#999933",
    "#A0522D",
)
_GOAL = {"fillcolor": "rgba(0,0,0,0.07)", "line": {"width": 0}, "layer": "below"}


def plot_frontier(table: xr.Dataset, tuned: Sequence[Mapping[str, Any]], goals: Mapping[str, float]) -> go.Figure:
    """Two costs against two measures of forgetting; judged means with intervals, tuning trials as small dots.

    Args:
        table: `comparison_table`, methods of one forget-set size.
        tuned: rows of tuning trials, whose settings' means are drawn; may be empty.
        goals: `GOALS`; the grey corner is where all of a panel's goals are met.
    """
    drawing = make_subplots(1, 2, horizontal_spacing=0.1)
    drawing.update_layout(template=TEMPLATE, height=520, title="What is forgotten, and what it costs")
    share = table["nll"].values / table["twin_nll"].values
    axes = (
        ("others_lost", table["exact_match"].values, "exact_match"),
        ("perplexity", share, None),
    )
    for column, (cost, values, interval) in enumerate(axes, start=1):
        for place, name in enumerate(map(str, table["method"].values)):
            colour = _COLOURS[place % len(_COLOURS)]
            if dots := _setting_means(tuned, name):
                x, y = zip(*[(one[cost], one["em" if column == 1 else "share"]) for one in dots], strict=True)
                drawing.add_scatter(
                    x=x, y=y, mode="markers", marker={"color": colour, "size": 5, "opacity": 0.4},
                    showlegend=False, legendgroup=name, hoverinfo="skip", row=1, col=column,
                )  # fmt: skip
            drawing.add_scatter(
                x=[float(table[cost][place])],
                y=[values[place]],
                error_x=_bars(table, cost, place, 1.0),
                error_y=_bars(
                    table, interval or "nll", place, 1.0 if interval else 1 / float(table["twin_nll"][place])
                ),
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker={"color": colour, "size": 11},
                row=1,
                col=column,
            )
    drawing.add_shape(type="rect", x0=-1, x1=goals["others_lost"], y0=-1, y1=goals["forget_em"], row=1, col=1, **_GOAL)
    drawing.add_shape(type="rect", x0=0.9, x1=goals["perplexity"], y0=goals["nll_share"], y1=10, row=1, col=2, **_GOAL)
    most, top = float(table["others_lost"].max()), float(share.max())
    drawing.update_xaxes(title_text="EM that other memorized paragraphs lose, tokens", range=[-1, most + 3], col=1)
    drawing.update_yaxes(title_text="EM of the forgotten, tokens (0 = none)", range=[-2, 53], col=1)
    worst = min(1.3, float(table["perplexity"].max()))
    drawing.update_xaxes(title_text="held-out perplexity, after over before", range=[0.985, worst + 0.02], col=2)
    drawing.update_yaxes(
        title_text="NLL of the forgotten, share of the twin's", range=[-0.05, max(1.1, top + 0.2)], col=2
    )
    return drawing.update_layout(legend={"y": -0.2})


def plot_forgetting(table: xr.Dataset, goals: Mapping[str, float]) -> go.Figure:
    """Each method's EM, longest run, others' loss and perplexity side by side, with the goals as dotted lines."""
    panels = {
        "exact_match": ("EM of the forgotten", goals["forget_em"]),
        "longest_run": ("longest run", goals["longest_run"]),
        "nll": ("NLL, nats per token", goals["nll_share"] * float(table["twin_nll"].mean())),
        "others_lost": ("EM others lose", goals["others_lost"]),
        "perplexity": ("perplexity ratio", goals["perplexity"]),
    }
    names = list(map(str, table["method"].values))
    drawing = make_subplots(
        1,
        len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[title for title, _ in panels.values()],
    )
    for column, (name, (_, goal)) in enumerate(panels.items(), start=1):
        low, high = (np.abs(table[f"{name}_{end}"].values - table[name].values) for end in ("low", "high"))
        drawing.add_scatter(
            x=table[name].values,
            y=names,
            error_x={"type": "data", "array": high, "arrayminus": low, "thickness": 1.5},
            mode="markers",
            marker={"size": 9, "color": [_COLOURS[place % len(_COLOURS)] for place in range(len(names))]},
            showlegend=False,
            row=1,
            col=column,
        )
        drawing.add_shape(
            type="line", x0=goal, x1=goal, y0=0, y1=1, yref="y domain", line={"dash": "dot", "color": "#555"},
            row=1, col=column,
        )  # fmt: skip
    drawing.update_yaxes(autorange="reversed")
    title = "Every measure, with its goal (dotted)"
    return drawing.update_layout(template=TEMPLATE, height=160 + 34 * len(names), title=title, margin={"t": 90})


def _bars(table: xr.Dataset, name: str, place: int, scale: float) -> dict[str, object]:
    mean, low, high = (float(table[f"{name}{end}"][place]) * scale for end in ("", "_low", "_high"))
    return {"type": "data", "array": [high - mean], "arrayminus": [mean - low], "thickness": 1, "width": 3}


def _setting_means(tuned: Sequence[Mapping[str, Any]], method: str) -> list[dict[str, float]]:
    """Mean cost and forgetting of each setting of a method over the paragraphs it was tried on."""
    found = []
    for setting in sorted({int(row["setting"]) for row in tuned if row["method"] == method}):
        rows = [row for row in tuned if row["method"] == method and row["setting"] == setting]
        nll, twin = (np.mean([np.mean(np.asarray(row[name])) for row in rows]) for name in ("nll", "twin_nll"))
        found.append(
            {
                "em": float(np.mean([np.mean(np.asarray(row["exact_match"])) for row in rows])),
                "share": float(nll / twin),
                "others_lost": float(np.mean([np.mean(np.asarray(row["others_lost"])) for row in rows])),
                "perplexity": float(np.mean([row["summary"]["held out: perplexity ratio"] for row in rows])),
            }
        )
    return found
