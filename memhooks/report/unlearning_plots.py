"""Figures of one unlearning run: its way, what it changed for better and worse, and where its weights lie."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import component_labels, component_parameters, components, head_view
from memhooks.model.loading import HookedModel
from memhooks.report.theme import COLOURS, TEMPLATE, figure
from memhooks.unlearn.recipe import Budget
from memhooks.unlearn.record import UnlearningStep

_KEPT = "#000000"
_BEFORE, _AFTER = "#999999", COLOURS["control"]
_ABOUT = ("forgotten", "kept", "privacy")
_PANELS = (  # how units begin, and what their panel is called; the first that fits counts
    ("tokens", "tokens recited"),
    ("nats per token, 0 = certain", "NLL, nats per token"),
    ("nats per token, 0 = the same", "distance to the twin, nats per token"),
    ("nats", "KL, nats"),
    ("share", "share"),
    ("1 = certain", "perplexity"),
    ("0.5", "AUC, 0.5 = cannot be told"),
    ("", "ratio"),
)


def plot_steps(records: Sequence[UnlearningStep], budget: Budget | None = None) -> go.Figure:
    """What each step saw: the text to forget above, drift on retained text below; the kept step is marked.

    Args:
        records: of a run, in order.
        budget: whose goals are drawn as dotted lines.
    """
    drawing = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.42, 0.33, 0.25])
    curves = (
        (1, "forget_em", "exact match", COLOURS["memorized"]),
        (1, "longest_run", "longest verbatim run", COLOURS["partly"]),
        (2, "forget_nll", "NLL of the text to forget", COLOURS["memorized"]),
        (3, "retain_kl", "KL on retained text", COLOURS["control"]),
    )
    for row, name, label, colour in curves:
        drawing.add_scatter(
            x=[record.step for record in records],
            y=[getattr(record, name) for record in records],
            name=label,
            mode="lines+markers",
            line={"color": colour},
            row=row,
            col=1,
        )
    _mark_goals_(drawing, budget)
    kept = max((record.step for record in records if record.best), default=None)
    if kept is not None:
        drawing.add_vline(x=kept, line={"color": _KEPT, "width": 1, "dash": "dash"})
        drawing.add_annotation(text=f"kept: step {kept}", x=kept, y=1, yref="paper", yanchor="bottom", showarrow=False)
    for row, title in enumerate(("tokens", "NLL, nats/token", "KL, nats/token"), start=1):
        drawing.update_yaxes(title={"text": title, "standoff": 12}, rangemode="tozero", row=row)
    drawing.update_xaxes(title_text="updates made", tickformat="d", row=3)
    title = "How the text is forgotten, step by step, and how far retained text drifts"
    return drawing.update_layout(template=TEMPLATE, height=700, title=title, legend={"y": -0.14}, margin={"t": 80})


def plot_evaluation(tree: xr.DataTree) -> go.Figure:
    """Every measure before and after as two dots with intervals, a panel per unit; a diamond is the twin's value.

    Args:
        tree: of `evaluate`.
    """
    table = tree["summary"].to_dataset()
    panels = _panels(table)
    heights = [len(rows) + 1.5 for rows in panels.values()]
    drawing = make_subplots(
        len(panels),
        1,
        row_heights=[one / sum(heights) for one in heights],
        vertical_spacing=min(0.9 / max(1, len(panels) - 1), 42 / (30 * sum(heights))),
    )
    for place, rows in enumerate(panels.values(), start=1):
        _add_panel_(drawing, table, rows, place)
    for place, unit in enumerate(panels, start=1):
        drawing.update_xaxes(title={"text": unit, "standoff": 2}, row=place)
    drawing.update_yaxes(tickfont={"size": 12}, showgrid=False, zeroline=False)
    drawing.update_layout(
        template=TEMPLATE,
        height=140 + int(30 * sum(heights)),
        title="What was forgotten, and what did it cost? Before and after, 95 % intervals",
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 90, "l": 20},
    )
    return drawing


def plot_mask(model: HookedModel, mask: WeightMask) -> go.Figure:
    """Share of each component's weights in the mask, over the share of all weights in it; white = as expected.

    Raises:
        InputError: the mask is empty, or belongs to another model.
    """
    share = _shares(model, mask)
    with np.errstate(divide="ignore"):
        times = np.log2(share / mask.fraction)
    times[share == 0] = np.nan
    most = max(1.0, math.ceil(float(np.nanmax(np.abs(times)))))
    step = max(1, math.ceil(most / 4))
    ticks = [power for power in range(-int(most), int(most) + 1) if power % step == 0]
    layers = [f"L{layer}" for layer in range(model.cfg.n_layers)]
    drawing = figure(
        title=f"Where do the {len(mask):,} chosen weights lie? Red: more than {100 * mask.fraction:.2g} % of the part",
        x="component",
        y="layer",
        height=200 + 34 * len(layers),
    )
    drawing.add_heatmap(
        z=times,
        x=component_labels(model),
        y=layers,
        customdata=100 * share,
        zmin=-most,
        zmax=most,
        colorscale="RdBu_r",
        colorbar={
            "title": "times the<br>expected<br>share",
            "tickvals": ticks,
            "ticktext": [f"{2**power}" if power >= 0 else f"1/{2**-power}" for power in ticks],
        },
        hovertemplate="%{y} %{x}: %{customdata:.3g} % of its weights<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    drawing.update_layout(plot_bgcolor="#d9d9d9", margin={"r": 110})
    drawing.add_annotation(
        text="grey: none chosen", xref="paper", yref="paper", x=1, y=1, yanchor="bottom", showarrow=False
    )
    drawing.update_xaxes(tickangle=-60, showgrid=False, dtick=1)
    return drawing.update_yaxes(autorange="reversed", showgrid=False)


def _mark_goals_(drawing: go.Figure, budget: Budget | None) -> None:
    if budget is None:
        return
    goals = ((1, budget.forget_em, COLOURS["memorized"]), (1, budget.longest_run, COLOURS["partly"]))
    goals += ((2, budget.forget_nll, COLOURS["memorized"]), (3, budget.retain_kl, COLOURS["control"]))
    for row, value, colour in goals:
        if value is not None and math.isfinite(value):
            drawing.add_hline(y=value, line={"dash": "dot", "color": colour, "width": 1.5}, row=row, col=1)  # pyright: ignore[reportArgumentType]
    drawing.add_scatter(
        x=[None], y=[None], name="goal or limit", mode="lines", line={"dash": "dot", "color": "#555"}, row=1, col=1
    )


def _panels(table: xr.Dataset) -> dict[str, list[int]]:
    """The rows of each panel, what is forgotten first."""
    about = table["about"].values.tolist()
    found: dict[str, list[int]] = {name: [] for _, name in _PANELS}
    for row in sorted(range(len(about)), key=lambda row: _ABOUT.index(about[row])):
        unit = str(table["unit"].values[row])
        found[next(name for start, name in _PANELS if unit.startswith(start))].append(row)
    return {name: rows for name, rows in found.items() if rows}


def _add_panel_(drawing: go.Figure, table: xr.Dataset, rows: list[int], place: int) -> None:
    own = table.isel(row=rows)
    y = np.arange(len(rows))[::-1]
    for before, after, at in zip(own["before"].values, own["after"].values, y, strict=True):
        drawing.add_scatter(
            x=[before, after], y=[at, at], mode="lines", line={"color": "#ccc", "width": 3}, showlegend=False,
            hoverinfo="skip", row=place, col=1,
        )  # fmt: skip
    looks = (
        ("twin", "#666666", "diamond-open", 0.0),
        ("before", _BEFORE, "circle", 0.14),
        ("after", _AFTER, "circle", -0.14),
    )
    for name, colour, symbol, above in looks:
        mean, low, high = (own[f"{name}{end}"].values for end in ("", "_low", "_high"))
        if np.isnan(mean).all() and name == "twin":
            continue
        drawing.add_scatter(
            x=mean,
            y=y + above * (name != "twin"),
            name="a twin that never read it" if name == "twin" else name,
            legendgroup=name,
            showlegend=place == 1,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 12 if name == "twin" else 9},
            error_x={"array": high - mean, "arrayminus": mean - low, "color": colour, "thickness": 1.5, "width": 3},
            customdata=own["row"].values,
            hovertemplate=f"%{{customdata}}, {name}: %{{x:.4g}}<extra></extra>",
            row=place,
            col=1,
        )
    drawing.update_yaxes(tickvals=y, ticktext=own["row"].values.tolist(), range=[-0.7, len(rows) - 0.3], row=place)


def _shares(model: HookedModel, mask: WeightMask) -> np.ndarray:
    """Share of each component's weights in the mask, over layer and component."""
    mask.unbound().check(model)
    chosen = {}
    for name, weight in component_parameters(model).items():
        flat = torch.zeros(weight.numel(), dtype=torch.bool)
        flat[mask.of(name).long()] = True
        chosen[name] = flat.view(weight.shape)
    shares = [float(head_view(chosen[cell.parameter_name], cell).double().mean()) for cell in components(model)]
    return np.array(shares).reshape(model.cfg.n_layers, -1)
