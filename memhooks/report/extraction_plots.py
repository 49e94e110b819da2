"""How many queries, how much prefix, recalled or predictable: what can be extracted."""

from collections.abc import Mapping
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from memhooks.report.theme import add_line_, colour_of, figure, name_of

Results = Mapping[str, xr.Dataset]


def plot_extraction(results: Results, *, sampler: str = "temperature 1", p: float = 0.5) -> go.Figure:
    """Share of paragraphs extractable with so many queries, with bands.

    Args:
        results: of `extraction_curves` by set.
        sampler: which of the samplers.
        p: which of the probabilities.
    """
    drawing = figure(
        title=f"How many queries until a paragraph is out? ({escape(sampler)}, p = {p:g})",
        x="queries",
        y="share of paragraphs extractable",
        height=480,
    )
    for name, one in results.items():
        cell = one.sel(sampler=sampler, p=p)
        add_line_(
            drawing, name, one["queries"].values.tolist(), *(cell[f"share{e}"].values for e in ("", "_low", "_high"))
        )
    return drawing.update_xaxes(type="log", dtick=1).update_yaxes(range=[-0.03, 1.03], tickformat=".0%")


def plot_prefix_length(results: Results) -> go.Figure:
    """EM after the last m tokens of the prefix alone, with bands; dashed: in place, after other text.

    Alone they begin at position 0, so the lines differ by position and the dashed ones by lost tokens.

    Args:
        results: of `prefix_length_curve` by set.
    """
    length = int(next(iter(results.values())).attrs["n_continuation"])
    drawing = figure(
        title="How much of the prefix does recitation need?",
        x="last tokens of the prefix that are given (alone: from position 0)",
        y=f"exact match, tokens of {length}",
        height=480,
    )
    for place, (name, one) in enumerate(results.items()):
        ends = (one[f"exact_match{end}"].values for end in ("", "_low", "_high"))
        add_line_(drawing, name, one["row"].values.tolist(), *ends)
        if "exact_match_in_place" in one:
            drawing.add_scatter(
                x=one["row"].values.tolist(),
                y=one["exact_match_in_place"].values,
                mode="lines",
                name=f"{name_of(name)}, in place after other text",
                line={"color": colour_of(name, place), "dash": "dash"},
            )
    return drawing


def plot_recalled(results: Results) -> go.Figure:
    """Log-probability of each continuation under the model against the best of twin and prior.

    Args:
        results: of `log_probabilities` by set.
    """
    drawing = figure(
        title="Recalled, or could anyone have said it? Every point is a paragraph",
        x="best of twin and prior, nats per token (0 = certain)",
        y="the model, nats per token (0 = certain)",
        height=520,
    )
    lowest = 0.0
    for place, (name, one) in enumerate(results.items()):
        best = one["model"].values - one["gap"].values
        lowest = min(lowest, float(best.min()), float(one["model"].min()))
        drawing.add_scatter(
            x=best,
            y=one["model"].values,
            mode="markers",
            name=name_of(name),
            text=[escape(str(each)) for each in one["paragraph"].values],
            marker={"color": colour_of(name, place), "size": 6, "opacity": 0.6},
            hovertemplate="%{text}: %{x:.2f}, %{y:.2f}<extra></extra>",
        )
    ends = np.array([lowest, 0.0])
    drawing.add_scatter(x=ends, y=ends, mode="lines", name="no more than they", line={"color": "#888", "dash": "dot"})
    return drawing
