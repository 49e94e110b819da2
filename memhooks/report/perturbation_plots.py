"""Figures of which prefix tokens carry the continuation, memorized beside its control."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import xarray as xr

from memhooks.report.theme import COLOURS, NAMES, add_line_, figure

Profiles = Mapping[str, xr.Dataset]


def plot_position_profile(profiles: Profiles) -> go.Figure:
    """NLL rise by replaced position, from `drop_by_position`; dotted: where means lie if position did not matter."""
    drawing = figure(
        title="Replacing one prefix token: how much less likely is the continuation?",
        x="replaced prefix position",
        y=_unit(profiles),
        height=460,
    )
    for condition, profile in profiles.items():
        _add_profile_(drawing, condition, profile, profile["pos"].values.tolist())
    return drawing


def plot_rarity(profiles: Profiles) -> go.Figure:
    """NLL rise by how rare the replaced token is, from `drop_by_rarity`."""
    drawing = figure(
        title="Do rare tokens carry more of the continuation than common ones?",
        x="tokens of each prefix by their count in the corpus",
        y=_unit(profiles),
        height=460,
    )
    for condition, profile in profiles.items():
        _add_profile_(drawing, condition, profile, profile["row"].values.tolist())
    return drawing.update_xaxes(type="category")


def _unit(profiles: Profiles) -> str:
    """Of the drop that was profiled."""
    some = next(iter(profiles.values()))
    return str(some["mean"].attrs.get("units", "")).replace(", 0 = no effect", "") + " lost"


def _add_profile_(drawing: go.Figure, condition: str, profile: xr.Dataset, x: Sequence) -> None:
    add_line_(drawing, condition, x, *(profile[end].values for end in ("mean", "low", "high")))
    if "shuffled_low" not in profile:
        return
    name = NAMES.get(condition, condition)
    for end in ("shuffled_low", "shuffled_high"):
        drawing.add_scatter(
            x=x,
            y=profile[end].values,
            mode="lines",
            name=f"{name}, drops shuffled: 95 % of means",
            legendgroup=f"{name} shuffled",
            showlegend=end == "shuffled_low",
            line={"color": COLOURS.get(condition, "#000000"), "width": 1, "dash": "dot"},
            opacity=0.7,
            hoverinfo="skip",
        )
