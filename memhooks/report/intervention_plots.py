"""Figures of patching and ablation: which layers and heads carry a memorized paragraph, beside its controls."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.localize.patch_result import GAPS, patch_interval
from memhooks.report.theme import COLOURS, NAMES, TEMPLATE, add_line_

Results = Mapping[str, xr.Dataset]
_SEED = 0  # of the intervals drawn
_MOST_NUMBERS = 13  # columns of a map whose cells have room for a number


def plot_patch_layers(results: Results, *, variable: str = "effect") -> go.Figure:
    """Results of `patch` at each paragraph's own position: by layer, one panel per site."""
    some = next(iter(results.values()))
    sites = some["site"].values.tolist()
    drawing = make_subplots(1, len(sites), subplot_titles=sites, shared_yaxes=True, horizontal_spacing=0.03)
    for column, site in enumerate(sites, start=1):
        for condition, result in results.items():
            ends = patch_interval(result, result[variable].sel(site=site), seed=_SEED)
            add_line_(drawing, condition, result["layer"].values.tolist(), *ends, column=column)
    drawing.update_layout(template=TEMPLATE, height=440, title=_patch_title(some, "at the replaced token"))
    drawing.update_xaxes(title_text="layer")
    return drawing.update_yaxes(title_text=_share(some, variable), col=1)


def plot_patch_map(results: Results, *, variable: str = "effect") -> go.Figure:
    """Results of `patch` over positions: layer by position, a row per site and a column per condition."""
    drawing = _maps(results, variable, across="pos")
    drawing.update_xaxes(title_text="patched position", row=len(next(iter(results.values()))["site"]))
    return drawing.update_layout(title=_patch_title(next(iter(results.values())), "at one prefix position"))


def plot_patch_heads(results: Results, *, variable: str = "effect") -> go.Figure:
    """Results of `patch` head by head (without positions): layer by head, a row per site and a column per condition."""
    drawing = _maps(results, variable, across="head")
    return drawing.update_layout(title=_patch_title(next(iter(results.values())), "one head at a time"))


def plot_early_prefix(results: Results, *, site: str = "resid_pre", variable: str = "effect") -> go.Figure:
    """Results of `patch` over positions: by position at the first, the middle and the last layer."""
    some = next(iter(results.values()))
    layers = some["layer"].values.tolist()
    depths = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    titles = [f"{site} of layer {layer}" for layer in depths]
    drawing = make_subplots(1, len(depths), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    for column, layer in enumerate(depths, start=1):
        for condition, result in results.items():
            ends = patch_interval(result, result[variable].sel(site=site, layer=layer), seed=_SEED)
            add_line_(drawing, condition, result["pos"].values.tolist(), *ends, column=column)
    drawing.update_layout(template=TEMPLATE, height=440, title=_patch_title(some, "along the prefix, by depth"))
    drawing.update_xaxes(title_text="patched position")
    return drawing.update_yaxes(title_text=_share(some, variable), col=1)


def plot_ablation(results: Results) -> go.Figure:
    """What the loss of each head costs each set, from `silence_heads`, and how much more the first than the second."""
    means = {name: one["nll_rise"].mean("paragraph").transpose("layer", "head") for name, one in results.items()}
    maps = {_name(condition): one for condition, one in means.items()}
    memorized, *controls = means
    for control in controls[:1]:
        maps[f"{_name(memorized)} minus {_name(control)}"] = means[memorized] - means[control]
    drawing = make_subplots(
        (len(maps) + 1) // 2,
        min(2, len(maps)),
        subplot_titles=list(maps),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.09,
    )
    bound = _bound(list(maps.values()))
    for number, one in enumerate(maps.values()):
        _add_map_(
            drawing, one, (number // 2 + 1, number % 2 + 1), bound=bound, first=number == 0, unit="nats per token"
        )
    height = 120 + 300 * ((len(maps) + 1) // 2)
    return drawing.update_layout(template=TEMPLATE, height=height, title="NLL rise when one head is ablated")


def plot_specificity(table: xr.Dataset, n: int = 12) -> go.Figure:
    """The parts of a `specificity` table that memorized text needs most, beside what controls lose without them."""
    memorized = str(table.attrs["memorized"])
    means = [str(name) for name in table if f"{name}_low" in table and not str(name).startswith("more_than_")]
    chosen = table.isel(row=np.argsort(-table[memorized].values, kind="stable")[:n])
    drawing = go.Figure(layout={"template": TEMPLATE, "height": 150 + (14 * len(means) + 10) * chosen.sizes["row"]})
    for name in means:
        mean, low, high = (chosen[f"{name}{end}"].values for end in ("", "_low", "_high"))
        drawing.add_bar(
            x=mean,
            y=chosen["row"].values.tolist(),
            orientation="h",
            name=_name(name),
            marker_color=_colour(name),
            error_x={"array": high - mean, "arrayminus": mean - low, "thickness": 1, "width": 3},
        )
    drawing.update_layout(
        title=f"What each set loses without it: the {chosen.sizes['row']} parts that memorized text needs most",
        barmode="group",
        legend={"y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"t": 90},
    )
    drawing.update_yaxes(autorange="reversed", type="category")
    return drawing.update_xaxes(title_text="NLL rise without the part, nats per continuation token")


def plot_cumulative(table: xr.Dataset) -> go.Figure:
    """EM by number of heads ablated, from `ablate_cumulatively`; dashed: as many random heads."""
    drawing = go.Figure(layout={"template": TEMPLATE, "height": 440})
    sets = [str(name).removesuffix("_em") for name in table if str(name).endswith("_em")]
    for name in sets:
        for ending, dash, what in (("", "solid", "best first"), ("_random", "dash", "random heads")):
            drawing.add_scatter(
                x=table["row"].values.tolist(),
                y=table[f"{name}_em{ending}"].values,
                mode="lines+markers",
                name=f"{_name(name)}, {what}",
                line={"color": _colour(name), "dash": dash},
            )
    drawing.update_layout(title="Ablating heads together: how much is still recited?")
    drawing.update_xaxes(title_text="heads ablated", dtick=max(1, round(table.sizes["row"] / 12)))
    return drawing.update_yaxes(title_text="exact match, tokens (mean)", rangemode="tozero")


def _maps(results: Results, variable: str, *, across: str) -> go.Figure:
    """Means over paragraphs as maps of layer by `across`, on one scale around zero."""
    sites = next(iter(results.values()))["site"].values.tolist()
    rows = len(sites)
    drawing = make_subplots(
        rows,
        len(results),
        column_titles=[_name(condition).replace(", ", ",<br>") for condition in results],
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.08 if rows < 4 else 0.05,
    )
    means = [result[variable].mean("paragraph").transpose("site", "layer", across) for result in results.values()]
    bound, unit = _bound(means), _share(next(iter(results.values())), variable)
    for column, one in enumerate(means, start=1):
        for row, site in enumerate(sites, start=1):
            first = row == column == 1
            _add_map_(drawing, one.sel(site=site), (row, column), bound=bound, first=first, unit=unit)
    for row, site in enumerate(sites, start=1):
        drawing.update_yaxes(title_text=site, row=row, col=1)
    return drawing.update_layout(template=TEMPLATE, height=150 + 260 * rows, margin={"t": 90})


def _add_map_(
    drawing: go.Figure, one: xr.DataArray, place: tuple[int, int], *, bound: float, first: bool, unit: str
) -> None:
    """Add one map, layers upwards, with numbers in its cells where these fit."""
    layer, across = map(str, one.dims)
    labels = [f"{'H' if across == 'head' else ''}{label}" for label in one[across].values]
    words = "%{y} %{x}" if across == "head" else "%{y}, position %{x}"
    drawing.add_heatmap(
        z=one.values,
        x=labels if across == "head" else one[across].values.tolist(),
        y=[f"L{label}" for label in one[layer].values],
        zmin=-bound,
        zmax=bound,
        colorscale="RdBu_r",
        showscale=first,
        colorbar={"title": {"text": unit, "side": "right"}},
        texttemplate="%{z:.2f}" if len(labels) <= _MOST_NUMBERS else None,
        textfont={"size": 9},
        hovertemplate=f"{words}: %{{z:.3f}} {unit}<extra></extra>",
        row=place[0],
        col=place[1],
    )


def _bound(maps: Sequence[xr.DataArray]) -> float:
    """The largest size of a mean, or 1 where all are zero."""
    return max(float(np.abs(one).max()) for one in maps) or 1.0


def _name(condition: str) -> str:
    return NAMES.get(condition, condition)


def _colour(condition: str) -> str:
    return COLOURS.get(condition, "#000000")


def _noising(result: xr.Dataset) -> bool:
    return result.attrs.get("direction") == "noising"


def _patch_title(result: xr.Dataset, where: str) -> str:
    what = "Putting the perturbed run's activation in" if _noising(result) else "Restoring the clean activation"
    return f"{what} {where}"


def _share(result: xr.Dataset, variable: str) -> str:
    if variable not in GAPS:
        return str(result[variable].attrs["units"])
    return f"share of the damage {'done' if _noising(result) else 'undone'}"
