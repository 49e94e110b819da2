"""Figures of where heads look: attention to rare tokens, memorized beside its controls and uniform attention."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from memhooks.errors import InputError
from memhooks.localize.rare_token_heads import of_query, rare_token_heads
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.report.theme import TEMPLATE, colour_of, figure, name_of

Results = Mapping[str, xr.Dataset]
_SEED = 0  # of the intervals drawn
_MOST_NUMBERS = 13  # columns of a map whose cells have room for a number
_WORDS = {
    "spearman": "Spearman",
    "kendall": "Kendall's tau-b",
    "pearson": "Pearson with log(1 + count)",
    "partial_spearman": "Spearman without distance",
}


def plot_rare_token_attention(results: Results, variable: str = "spearman", *, query: int | None = None) -> go.Figure:
    """Results of `rare_token_attention` as maps of layer by head, on one scale around 0; red = rare tokens attended.

    Args:
        results: by condition.
        variable: one of its correlations: `spearman`, `kendall`, `pearson`, `partial_spearman`.
        query: which position's attention; the first by default.

    Raises:
        InputError: no such correlation, or no such query.
    """
    if variable not in _WORDS:
        raise InputError(f"variable must be one of {', '.join(_WORDS)}, got {variable!r}")
    found = {name: of_query(one, query) for name, one in results.items()}
    maps = {name: one[variable].mean("paragraph").transpose("layer", "head").values for name, one in found.items()}
    drawing = _side_by_side(found)
    bound = max(float(np.abs(one).max()) for one in maps.values()) or 1.0
    for column, name in enumerate(maps, start=1):
        _add_map_(
            drawing, maps[name], found[name], column, unit=_WORDS[variable], zmin=-bound, zmax=bound, colorscale="RdBu"
        )
    return drawing.update_layout(
        title=f"Which heads look at rare tokens? Attention {_from(found)}; negative = rare tokens"
    )


def plot_entropy(results: Results, *, query: int | None = None) -> go.Figure:
    """Mean entropy of attention as a share of what uniform attention has: 0 = all on one token, 1 = uniform.

    Raises:
        InputError: no such query.
    """
    found = {name: of_query(one, query) for name, one in results.items()}
    drawing = _side_by_side(found)
    for column, (_, one) in enumerate(found.items(), start=1):
        share = one["entropy"].mean("paragraph") / one["uniform_entropy"]
        values = share.transpose("layer", "head").values
        _add_map_(drawing, values, one, column, unit="entropy / uniform", zmin=0, zmax=1, colorscale="Viridis")
    return drawing.update_layout(
        title=f"How spread out is attention {_from(found)}? Entropy as a share of uniform attention's"
    )


def plot_attention_by_rank(results: Results, head: tuple[int, int], *, query: int | None = None) -> go.Figure:
    """Mean attention per token of one head against rarity rank; dashed: uniform attention.

    Ranks that fewer than one paragraph in twenty has are left out.

    Raises:
        InputError: no such query, or no such head.
    """
    found = {name: of_query(one, query) for name, one in results.items()}
    layer, number = head
    drawing = figure(
        title=f"Does L{layer}H{number} look at rare tokens? Mean attention per token, {_from(found)}",
        x="rarity rank among the paragraph's prefix tokens (0 = rarest)",
        y="share of attention per token",
        height=440,
    )
    for place, (name, one) in enumerate(found.items()):
        if layer not in one["layer"].values or number not in one["head"].values:
            raise InputError(f"head must be a (layer, head) of the results, got {head}")
        tokens = one["tokens_at_rank"].sel(layer=layer).values
        drawn = tokens >= max(1, one.sizes["paragraph"] / 20)
        drawing.add_scatter(
            x=one["rank"].values[drawn],
            y=one["attention_by_rank"].sel(layer=layer, head=number).values[drawn],
            mode="lines+markers",
            name=name_of(name),
            line={"color": colour_of(name, place)},
            marker={"size": 5},
            customdata=tokens[drawn],
            hovertemplate="rank %{x}: %{y:.4f} per token, %{customdata} tokens<extra></extra>",
        )
    uniform = 1 / float(next(iter(found.values()))["reach"].sel(layer=layer))
    drawing.add_hline(y=uniform, line={"color": "#222", "dash": "dash", "width": 1})
    drawing.add_annotation(
        text=f"uniform attention, {uniform:.3f}",
        x=1,
        xref="paper",
        y=uniform,
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        font={"size": 11},
    )
    return drawing.update_yaxes(rangemode="tozero")


def plot_heads(
    results: Results,
    variable: str = "spearman",
    *,
    query: int | None = None,
    n: int = 12,
    sets: Mapping[str, Paragraphs] | None = None,
) -> go.Figure:
    """The heads that look at rare tokens most (by the first result), with 95 % intervals over paragraphs.

    Args:
        results: by condition, or of one condition by whose counts they were computed with.
        variable: which correlation.
        query: which position's attention; the first by default.
        n: how many heads.
        sets: their paragraphs, by the same names, where known; near-duplicates then count once in the intervals.

    Raises:
        InputError: no such correlation, no such query, or sets of other paragraphs.
    """
    if variable not in _WORDS:
        raise InputError(f"variable must be one of {', '.join(_WORDS)}, got {variable!r}")
    near = {name: clusters(rows) for name, rows in (sets or {}).items() if name in results}
    tables = {
        name: rare_token_heads(one, seed=_SEED, query=query, clusters=near.get(name)) for name, one in results.items()
    }
    first = next(iter(tables.values()))
    chosen = first["row"].values[np.argsort(first[variable].values, kind="stable")[:n]].tolist()
    drawing = figure(
        title=f"The {len(chosen)} heads that look at rare tokens most, {_words_of_query(first)}",
        x="",
        y=f"{_WORDS[variable]} (negative = rare)",
        height=440,
    )
    for place, (name, table) in enumerate(tables.items()):
        mean, low, high = (table[f"{variable}{end}"].sel(row=chosen).values for end in ("", "_low", "_high"))
        drawing.add_bar(
            x=chosen,
            y=mean,
            name=name_of(name),
            marker_color=colour_of(name, place),
            error_y={"array": high - mean, "arrayminus": mean - low, "thickness": 1, "width": 3},
        )
    return drawing.update_layout(barmode="group").update_xaxes(type="category")


def plot_attention_of(
    view: xr.Dataset, tokens: Sequence[str], *, layer: int | None = None, head: int | None = None
) -> go.Figure:
    """One position's attention on each token of its paragraph: all heads of one layer, or one head of every layer.

    Args:
        view: of `attention_of`.
        tokens: the paragraph's tokens as text.
        layer: whose heads are drawn; or
        head: which head is drawn in every layer.

    Raises:
        InputError: neither or both of layer and head, one that is not in the view, or fewer tokens than keys.
    """
    if (layer is None) == (head is None):
        raise InputError("give either layer, to see its heads, or head, to see it in every layer")
    axis, number = ("layer", layer) if head is None else ("head", head)
    if number not in view[axis].values:
        raise InputError(f"{axis} must be in 0..{view.sizes[axis] - 1}, got {number}")
    if len(tokens) < view.sizes["key"]:
        raise InputError(f"{view.sizes['key']} keys need as many tokens, got {len(tokens)}")
    one = view["attention"].sel({axis: number})
    other = "head" if axis == "layer" else "layer"
    labels = [
        f"{escape(repr(token), quote=False)} {key}" for key, token in zip(view["key"].values, tokens, strict=False)
    ]
    rows = [f"H{label}" for label in view["head"].values] if other == "head" else _layer_labels(view)
    who = f"do the heads of L{number}" if axis == "layer" else f"does H{number} of every layer"
    drawing = figure(
        title=f"Where {who} look from token {view.attrs['query']}? White: not seen",
        x="prefix token and its position",
        y=other,
        height=200 + 30 * len(rows),
    )
    drawing.add_heatmap(
        z=one.transpose(other, "key").values,
        x=labels,
        y=rows,
        zmin=0,
        colorscale="Viridis",
        colorbar={"title": {"text": "share of attention", "side": "right"}},
        hovertemplate="%{y} on %{x}: %{z:.3f}<extra></extra>",
    )
    return drawing.update_xaxes(tickangle=-70, tickfont={"size": 9}, showgrid=False).update_yaxes(showgrid=False)


def _side_by_side(found: Results) -> go.Figure:
    titles = [name_of(name).replace(", ", ",<br>") for name in found]
    drawing = make_subplots(1, len(found), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    n_layers = max(one.sizes["layer"] for one in found.values())
    drawing.update_layout(template=TEMPLATE, height=180 + 35 * n_layers, margin={"t": 90})
    return drawing.update_yaxes(title_text="layer", col=1)


def _add_map_(
    drawing: go.Figure, values: np.ndarray, one: xr.Dataset, column: int, *, unit: str, **scale: object
) -> None:
    drawing.add_heatmap(
        z=values,
        x=[f"H{head}" for head in one["head"].values],
        y=_layer_labels(one),
        showscale=column == 1,
        colorbar={"title": {"text": unit, "side": "right"}},
        texttemplate="%{z:.2f}" if values.shape[1] <= _MOST_NUMBERS else None,
        textfont={"size": 9},
        hovertemplate=f"%{{y}} %{{x}}: %{{z:.3f}} {unit}<extra></extra>",
        row=1,
        col=column,
        **scale,
    )


def _layer_labels(one: xr.Dataset) -> list[str]:
    pairs = zip(one["layer"].values, one["local"].values, strict=True)
    return [f"L{layer} local" if local else f"L{layer}" for layer, local in pairs]


def _from(found: Results) -> str:
    return _words_of_query(next(iter(found.values())))


def _words_of_query(one: xr.Dataset) -> str:
    query = int(one["query"]) if "query" in one.coords else int(one.attrs["query"])
    last = int(one.attrs["n_prefix"]) - 1
    return f"from token {query}" + (" (the last of the prefix)" if query == last else "")
