"""Figures of attacks on an unlearned model: what comes back, how fast, and what breaks memorized text."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.measure.intervals import bootstrap_mean
from memhooks.report.theme import COLOURS, TEMPLATE, add_line_, faded, figure, name_of

_COLOURS = {"untouched": COLOURS["memorized"], "unlearned": COLOURS["control"], "twin": COLOURS["twin"]}
_NAMES = {"untouched": "untouched model", "unlearned": "unlearned model", "twin": "twin, learns it afresh"}
_CRITERIA = {"half": "exact match halved", "nat": "NLL up by 1 nat", "recited": "new continuation recited"}
_BREAKING = {"steps": "updates", "norm": "length of the change", "path": "sum of |changes|"}
_SEED = 0  # of the intervals drawn


def plot_relearning(result: xr.Dataset) -> go.Figure:
    """EM at each step of relearning, a panel per attack and tested set; dotted: half of the untouched model's level.

    Args:
        result: the tree's node `relearning` of `attack`.
    """
    rows = result["row"].values.tolist()
    drawing = make_subplots(
        1, len(rows), subplot_titles=[_panel(str(row)) for row in rows], horizontal_spacing=0.03, shared_yaxes=True
    )
    steps = result["step"].values.tolist()
    for column, row in enumerate(rows, start=1):
        own = result.sel(row=row)
        for model in ("unlearned", "twin"):
            if f"exact_match_{model}" in own:
                ends = [own[f"exact_match_{model}{end}"].values for end in ("", "_low", "_high")]
                _add_curve_(drawing, model, steps, ends, column)
        level = float(own["exact_match_untouched"][0])
        for height, name in ((level, "untouched, before training"), (float(own["half"]), "half of it")):
            drawing.add_scatter(
                x=[steps[0], steps[-1]],
                y=[height, height],
                mode="lines",
                line={"color": _COLOURS["untouched"], "dash": "dot" if height == level else "dash", "width": 1.5},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    drawing.update_xaxes(title_text="update")
    drawing.update_yaxes(title_text="exact match, tokens", col=1, rangemode="tozero")
    title = "Does the text come back faster than a twin learns it afresh?"
    return drawing.update_layout(template=TEMPLATE, title=title, height=460, margin={"t": 100})


def plot_attacks(summary: xr.Dataset) -> go.Figure:
    """EM under each attack, untouched beside unlearned, with intervals; relearning after its last step, with the twin.

    Args:
        summary: the tree's node `summary` of `attack`.
    """
    rows = [str(row) for row in summary["row"].values]
    drawing = figure(
        title="Does the text come back under attack?", x="exact match, tokens", y="", height=120 + 34 * len(rows)
    )
    for place, model in enumerate(_COLOURS):
        mean, low, high = (summary[f"exact_match_{model}{end}"].values for end in ("", "_low", "_high"))
        known = np.isfinite(mean)
        if known.any():
            _add_points_(
                drawing,
                _NAMES[model],
                _COLOURS[model],
                (mean[known], low[known], high[known]),
                np.flatnonzero(known) + 0.22 * (place - 1),
            )
    drawing.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, autorange="reversed", zeroline=False)
    drawing.update_xaxes(rangemode="tozero")
    return drawing.update_layout(legend={"y": -0.16})


def plot_breaking(result: xr.Dataset) -> go.Figure:
    """Steps and movement until each paragraph breaks, against its NLL before: a row per criterion, sets by colour.

    Args:
        result: of `steps_to_break`; paragraphs that did not break are drawn as open triangles at the last step.
    """
    criteria = [name for name in _CRITERIA if f"steps_{name}" in result and result[f"steps_{name}"].notnull().any()]
    titles = [f"{_CRITERIA[name]}: {what}" for name in criteria for what in _BREAKING.values()]
    drawing = make_subplots(
        max(1, len(criteria)), 3, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.08
    )
    sets = list(dict.fromkeys(result["set"].values.tolist()))
    for row, criterion in enumerate(criteria, start=1):
        for column, measure in enumerate(_BREAKING, start=1):
            for name in sets:
                own = result.isel(paragraph=result["set"].values == name)
                values = own[f"{measure}_{criterion}"].values
                _add_paragraphs_(drawing, name, own, values, (row, column))
    drawing.update_xaxes(title_text="NLL before, nats per token", row=max(1, len(criteria)))
    drawing.update_yaxes(rangemode="tozero")
    for column, measure in enumerate(_BREAKING.values(), start=1):
        drawing.update_yaxes(title_text=measure, col=column)
    drawing.for_each_annotation(lambda one: one.update(text=str(one.text).split(":")[0]))
    return drawing.update_layout(
        template=TEMPLATE,
        title="Is memorized text harder to break?",
        height=140 + 260 * max(1, len(criteria)),
        legend={"y": -0.2},
    )


def plot_sequence(result: xr.Dataset) -> go.Figure:
    """After each request: EM of every request, the others beside them, and the drift on retained text.

    Args:
        result: of `unlearn_in_sequence`.
    """
    drawing = make_subplots(
        1, 2, subplot_titles=["what is recited", "distance from the untouched model"], horizontal_spacing=0.1
    )
    x = list(range(result.sizes["row"]))
    for number in dict.fromkeys(result["request"].values.tolist()):
        own = result["exact_match"].isel(paragraph=result["request"].values == number).mean("paragraph").values
        shade = 0.25 + 0.75 * number / int(result["request"].max())
        drawing.add_scatter(
            x=x,
            y=own,
            mode="lines+markers",
            name=f"request {number}",
            line={"color": f"rgba(0,114,178,{shade:.2f})"},
            row=1,
            col=1,
        )
    lines = go.Figure()
    ends = [result[f"others_exact_match{end}"].values for end in ("", "_low", "_high")]
    add_line_(lines, "memorized", x, ends[0], ends[1], ends[2])
    lines.update_traces(name="other memorized text", selector={"mode": "lines+markers"})
    drawing.add_traces(lines.data, rows=[1] * 3, cols=[1] * 3)
    drawing.add_scatter(
        x=x, y=result["retain_kl"].values, mode="lines+markers", line={"color": "#000"}, showlegend=False, row=1, col=2
    )
    drawing.update_xaxes(title_text="requests so far", tickvals=x)
    drawing.update_yaxes(title_text="exact match, tokens", rangemode="tozero", col=1)
    drawing.update_yaxes(title_text="KL on retained text, nats per token", rangemode="tozero", col=2)
    title = "Requests one after another: do earlier ones come back, and does the model drift?"
    return drawing.update_layout(template=TEMPLATE, title=title, height=460, margin={"t": 90})


def _panel(row: str) -> str:
    on, _, tested = row.partition(": ")
    return f"trained on {on}" + {"trained": ",<br>tested on the same", "held out": ",<br>tested on the rest"}.get(
        tested, ""
    )


def _add_curve_(drawing: go.Figure, model: str, steps: Sequence[int], ends: Sequence[np.ndarray], column: int) -> None:
    mean, low, high = ends
    colour = _COLOURS[model]
    if np.isfinite(low).all():
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "legendgroup": model}
        drawing.add_scatter(x=steps, y=high, **band, row=1, col=column)
        drawing.add_scatter(x=steps, y=low, fill="tonexty", fillcolor=faded(colour), **band, row=1, col=column)
    drawing.add_scatter(
        x=steps,
        y=mean,
        mode="lines",
        name=_NAMES[model],
        legendgroup=model,
        showlegend=column == 1,
        line={"color": colour, "width": 2.5},
        row=1,
        col=column,
    )


def _add_points_(
    drawing: go.Figure, name: str, colour: str, ends: tuple[np.ndarray, np.ndarray, np.ndarray], y: np.ndarray
) -> None:
    mean, low, high = ends
    drawing.add_scatter(
        x=mean,
        y=y,
        mode="markers",
        name=name,
        cliponaxis=False,
        marker={"color": colour, "size": 9},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - mean),
            "arrayminus": np.nan_to_num(mean - low),
            "color": colour,
        },
    )


def _add_paragraphs_(
    drawing: go.Figure, name: str, own: xr.Dataset, values: np.ndarray, place: tuple[int, int]
) -> None:
    row, column = place
    colour, x = COLOURS.get(name, "#000000"), own["nll_before"].values
    unbroken = np.isnan(values)
    shown = np.where(unbroken, own.attrs["n_steps"], values) if column == 1 else values
    known = np.isfinite(shown)
    drawing.add_scatter(
        x=x[known],
        y=shown[known],
        mode="markers",
        name=name_of(name),
        legendgroup=name,
        showlegend=place == (1, 1),
        marker={
            "color": colour,
            "size": 9,
            "symbol": ["triangle-up-open" if one else "circle" for one in unbroken[known]],
        },
        text=own["paragraph"].values[known],
        hovertemplate="%{text}: %{y:.4g}<extra></extra>",
        row=row,
        col=column,
    )
    if known.sum() < 2:
        return
    mean, low, high = bootstrap_mean(shown[known], seed=_SEED, clusters=own["cluster"].values[known])
    drawing.add_scatter(
        x=[float(np.median(x))],
        y=[float(mean)],
        mode="markers",
        marker={"color": colour, "size": 16, "symbol": "line-ew-open", "line": {"width": 3}},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [np.nan_to_num(high - mean)],
            "arrayminus": [np.nan_to_num(mean - low)],
            "color": colour,
        },
        showlegend=False,
        hovertemplate="mean: %{y:.4g}<extra></extra>",
        row=row,
        col=column,
    )
