"""One function per result, returning a plotly figure: memorized beside its controls, with intervals."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.recitation import em_bins
from memhooks.report.theme import COLOURS, NAMES, TEMPLATE, add_line_, figure

Results = Mapping[str, xr.Dataset]
_SEED = 0  # of the intervals drawn


def plot_dose(results: Results, counts: Sequence[int]) -> go.Figure:
    """EM of each planted level, under the model that read it and under its twin."""
    length = int(results["memorized"].attrs["n_continuation"])
    drawing = figure(
        title="Recitation grows with repetition, and only in the model that read the text",
        x="times planted (k)",
        y=f"exact match, tokens of {length}",
    )
    levels = sorted(set(counts))
    for condition, result in results.items():
        em = result["exact_match"].values
        stats = [bootstrap_mean(em[np.array(counts) == level], seed=_SEED) for level in levels]
        add_line_(
            drawing, condition, [str(level) for level in levels], *(np.array(part) for part in zip(*stats, strict=True))
        )
    return drawing.update_xaxes(type="category")


def plot_em_bins(results: Results) -> go.Figure:
    """Share of each paragraph set in the paper's four EM bins."""
    drawing = figure(title="How much of each set is recited", x="exact match (tokens)", y="share of paragraphs")
    for condition, result in results.items():
        em = result["exact_match"].values
        bins = em_bins(int(result.attrs["n_continuation"]))
        shares = [float(((em >= low) & (em <= high)).mean()) for low, high in bins.values()]
        drawing.add_bar(
            x=list(bins),
            y=shares,
            name=NAMES.get(condition, condition),
            marker_color=COLOURS.get(condition),
            texttemplate="%{y:.0%}",
        )
    return drawing.update_yaxes(tickformat=".0%", range=[0, 1.08]).update_xaxes(type="category")


def plot_perturbation(results: Results) -> go.Figure:
    """NLL rise of the continuation when one prefix token is replaced, by its position."""
    drawing = figure(
        title="Replacing one prefix token: how much less likely is the continuation?",
        x="replaced prefix position",
        y="NLL rise, nats per continuation token",
    )
    return _add_means_(drawing, results, "nll_rise", along="pos")


def plot_weight_scores(results: Results) -> go.Figure:
    """Largest |gradient| per layer and component, each map in per cent of its own sum so that they compare."""
    drawing = _side_by_side(results, 1, len(results), height=460)
    maps = [result["max_gradient"].mean("paragraph") for result in results.values()]
    shares = [100 * (one / one.sum()) for one in maps]
    top = max(float(one.max()) for one in shares)
    for column, share in enumerate(shares, start=1):
        drawing.add_heatmap(
            z=share.values,
            x=share["component"].values,
            y=share["layer"].values,
            zmin=0,
            zmax=top,
            colorscale="Viridis",
            showscale=column == 1,
            colorbar={"title": "% of map"},
            row=1,
            col=column,
        )
    drawing.update_layout(title="Where weights move the paragraph's likelihood: largest |gradient|, % of each map")
    return drawing.update_yaxes(title_text="layer", col=1)


def plot_unlearning(table: Sequence[Mapping[str, object]]) -> go.Figure:
    """EM after unlearning one paragraph with each mask: the target should fall, the others stay."""
    drawing = figure(
        title="Unlearning one paragraph: what is forgotten and what is kept",
        x="weights that may move",
        y="exact match, tokens",
    )
    masks = list(dict.fromkeys(str(row["mask"]) for row in table))
    for name, colour in (("target", COLOURS["memorized"]), ("other memorized", COLOURS["natural"])):
        trials = {
            mask: [float(str(row["exact_match"])) for row in table if row["mask"] == mask and row["set"] == name]
            for mask in masks
        }
        drawing.add_bar(
            x=masks, y=[float(np.mean(em)) for em in trials.values()], name=name, marker_color=colour, offsetgroup=name
        )
        drawing.add_box(  # few trials: every point, no interval
            x=[mask for mask, em in trials.items() for _ in em],
            y=[one for em in trials.values() for one in em],
            offsetgroup=name,
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            fillcolor="rgba(0,0,0,0)",
            line={"color": "rgba(0,0,0,0)"},
            marker={"color": "#222", "size": 5},
            showlegend=False,
        )
    return drawing.update_layout(boxmode="group", barmode="group")


def plot_token_nll(tokens: Sequence[str], nll: np.ndarray, n_prefix: int) -> go.Figure:
    """Surprise at each token of one paragraph; the continuation in the memorized colour."""
    drawing = figure(title="Surprise at each token", x="token", y="NLL, nats", height=360)
    colours = [COLOURS["twin"] if pos < n_prefix else COLOURS["memorized"] for pos in range(1, len(tokens))]
    labels = [f"{escape(repr(token), quote=False)} {pos}" for pos, token in enumerate(tokens)][
        1:
    ]  # numbered: equal labels would merge
    drawing.add_bar(x=labels, y=nll, marker_color=colours)
    return drawing.update_xaxes(tickangle=-70, tickfont={"size": 9})


def _add_means_(drawing: go.Figure, results: Results, variable: str, *, along: str) -> go.Figure:
    for condition, result in results.items():
        per_paragraph = result[variable].mean("draw") if "draw" in result[variable].dims else result[variable]
        stats = bootstrap_mean(per_paragraph.values, seed=_SEED)
        add_line_(drawing, condition, result[along].values.tolist(), *stats)
    return drawing


def _side_by_side(results: Results, rows: int, columns: int, *, height: int) -> go.Figure:
    titles = [NAMES.get(condition, condition) for condition in results]
    drawing = make_subplots(rows, columns, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    return drawing.update_layout(template=TEMPLATE, height=height)
