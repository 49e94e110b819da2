"""Figures of localizers against written weights: what they find, and what is lost without what they name."""

import json
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.report.theme import COLOURS, TEMPLATE

_MOMENTS = {"early": ("circle-open", COLOURS["control_own"], 0.2), "solved": ("circle", COLOURS["memorized"], 0.0)}
_SETS = {
    "target": (COLOURS["memorized"], "the target", 0.22),
    "others_net": (COLOURS["natural"], "other recited text, since before the writing", 0.0),
    "language": (COLOURS["held_out"], "never-read text", -0.22),
}
_ROW, _AROUND = 26, 240  # pixels of one localizer, and of title, axes and legend


def plot_recall(table: xr.Dataset) -> go.Figure:
    """Recall of every localizer with 95 % intervals, a panel per region, both moments, beside a matched random mask.

    Where there is a decoy, its recall stands beside: who finds it as often does not find the text.

    Args:
        table: of `recall_table`.
    """
    regions, names = _unique(table, "region"), _unique(table, "localizer")
    drawing = _panels(regions)
    for column, region in enumerate(regions, start=1):
        for moment, (symbol, colour, lift) in _MOMENTS.items():
            some = _some(table, region, moment)
            places = [names.index(name) for name in map(str, some["localizer"].values)]
            drawing.add_scatter(
                x=some["recall"].values,
                y=np.array(places) + lift,
                error_x=_bars(some, "recall", colour),
                mode="markers",
                marker={"symbol": symbol, "color": colour, "size": 9},
                name=moment,
                legendgroup=moment,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        blind = _some(table, region, "solved")
        places = [names.index(name) for name in map(str, blind["localizer"].values)]
        drawing.add_scatter(
            x=blind["random_recall"].where(~np.isnan(blind["recall"])).values,
            y=np.array(places) - 0.2,
            mode="markers",
            marker={"symbol": "x-thin", "line": {"color": "#555", "width": 1.5}, "size": 7},
            name="matched random mask",
            legendgroup="random",
            showlegend=column == 1,
            row=1,
            col=column,
        )
        if not np.isnan(blind["decoy_recall"]).all():
            drawing.add_scatter(
                x=blind["decoy_recall"].values,
                y=np.array(places) - 0.2,
                mode="markers",
                marker={"symbol": "diamond-open", "color": COLOURS["natural"], "size": 8},
                name="the decoy's weights, solved",
                row=1,
                col=column,
            )
        asked = {str(one) for one in _some(table, region, "solved")["localizer"].values}
        for name in set(names) - set(_applies(table, region)):
            drawing.add_annotation(
                x=0.5,
                y=names.index(name),
                text="n/a" if name in asked else "not asked",
                showarrow=False,
                font={"color": "#888"},
                row=1,
                col=column,
            )
        chance = float(table["chance"].values[table["region"].values == region].mean())
        drawing.add_vline(x=chance, line={"dash": "dot", "color": "#888", "width": 1}, row=1, col=column)  # pyright: ignore[reportArgumentType]
    drawing.update_xaxes(range=[-0.03, 1.05], title_text="recall@k")
    title = "Do localizers find the written weights? (dotted: chance; *: no localizer)"
    return _finished(drawing, _starred(table, names), title)


def plot_deletion(table: xr.Dataset) -> go.Figure:
    """NLL rise of target, other recited text and never-read text without what each localizer names, by region.

    Other text's is since before the writing, which had its cost (dotted); what stands left of 0 was not harmed.

    Args:
        table: of `deletion_table`.
    """
    regions, names = _unique(table, "region"), _unique(table, "localizer")
    drawing = _panels(regions)
    for column, region in enumerate(regions, start=1):
        some = _some(table, region, "solved")
        places = np.array([names.index(name) for name in map(str, some["localizer"].values)])
        for name, (colour, words, lift) in _SETS.items():
            drawing.add_scatter(
                x=some[f"{name}_nll_rise"].values,
                y=places + lift,
                error_x=_bars(some, f"{name}_nll_rise", colour),
                mode="markers",
                marker={"color": colour, "size": 8},
                name=words,
                legendgroup=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        paid = float(some["others_before_nll_rise"].values[0])
        drawing.add_vline(x=paid, line={"dash": "dot", "color": COLOURS["natural"], "width": 1}, row=1, col=column)  # pyright: ignore[reportArgumentType]
    drawing.update_xaxes(title_text="NLL rise,<br>nats per token")
    title = "What is lost when what they name is set to zero? (dotted: what writing cost others; *: no localizer)"
    return _finished(drawing, _starred(table, names), title)


def _starred(table: xr.Dataset, names: list[str]) -> list[str]:
    """The names, with a star where they are references."""
    references = json.loads(table.attrs["not localizers"])
    return [f"{name} *" if name in references else name for name in names]


def _panels(regions: list[str]) -> go.Figure:
    titles = [escape(name) for name in regions]
    return make_subplots(1, len(regions), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=titles)


def _finished(drawing: go.Figure, names: list[str], title: str) -> go.Figure:
    ticks = [escape(name.replace("_", " ")) for name in names]
    drawing.update_yaxes(tickvals=list(range(len(names))), ticktext=ticks, range=[len(names) - 0.5, -0.5])
    height = _AROUND + _ROW * len(names)
    legend = {"orientation": "h", "y": -95 / (height - _AROUND), "yanchor": "top"}
    return drawing.update_layout(
        template=TEMPLATE, title=title, height=height, legend=legend, margin={"t": 90, "b": 150}
    )


def _some(table: xr.Dataset, region: str, moment: str) -> xr.Dataset:
    return table.isel(row=(table["region"].values == region) & (table["moment"].values == moment))


def _applies(table: xr.Dataset, region: str) -> list[str]:
    kept = (table["region"].values == region) & ~np.isnan(table["recall"].values)
    return list(map(str, table["localizer"].values[kept]))


def _unique(table: xr.Dataset, name: str) -> list[str]:
    return list(dict.fromkeys(map(str, table[name].values)))


def _bars(some: xr.Dataset, name: str, colour: str) -> dict[str, object]:
    mean, low, high = (some[f"{name}{end}"].values for end in ("", "_low", "_high"))
    return {
        "type": "data",
        "array": high - mean,
        "arrayminus": mean - low,
        "thickness": 1.5,
        "width": 2,
        "color": colour,
    }
