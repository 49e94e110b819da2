"""The report's sections on interventions: what was replaced, patched, ablated, and what the stream says early."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import plotly.graph_objects as go
import xarray as xr

from memhooks.report.claim import PREFIX
from memhooks.report.findings import Results
from memhooks.report.intervention_plots import (
    plot_ablation,
    plot_cumulative,
    plot_patch_heads,
    plot_patch_layers,
    plot_patch_map,
    plot_specificity,
)
from memhooks.report.lens_plots import plot_direct_effects, plot_logit_lens
from memhooks.report.page import Section
from memhooks.report.perturbation_plots import plot_position_profile, plot_rarity
from memhooks.report.theme import name_of

Found = TypeVar("Found", bound=Mapping[str, xr.Dataset] | xr.Dataset)

_UNDONE = (
    "The token whose replacement hurts most stays replaced, and one clean activation at its position is put back "
    "(denoising): what is restored was enough to carry something. First the residual stream and what attention and "
    "MLP write, then single heads, then the stream at every prefix position."
)
_WORTH = (
    "Every head is silenced (zero) alone. It matters for recitation only if its loss costs memorized text more "
    "than other text; p is the share of all heads with as large a difference. The model's own continuation of "
    "C is what it says, as memorized text is, at a loss between that of A and C; losses are not matched. Then the "
    "worst heads together, chosen on one half of A and judged on the other, beside random heads (dashed)."
)
_LENS = (
    "Final norm and unembedding read the stream after each block. A token is decided at the depth from which on "
    "the model's final choice stays on top. Then what each part writes directly to the true token's logit."
)


def intervention_sections(results: Results) -> list[Section]:
    """Perturbation, patching, ablation and logit lens, as far as they were run."""
    made = [_perturbation(results), _patching(results), _ablation(results), _lens(results)]
    return [one for one in made if one.rows or one.figures]


def _perturbation(results: Results) -> Section:
    text = (
        "Each prefix token in turn is replaced by a random one; the original continuation is scored teacher-forced. "
        "Dotted: what drops dealt anew within each paragraph would give."
    )
    figures = [
        *_drawn(plot_position_profile, results.get("drop_by_position")),
        *_drawn(plot_rarity, results.get("drop_by_rarity")),
    ]
    return Section(PREFIX, [text], _drops(results), figures=figures)


def _patching(results: Results) -> Section:
    maps = {name: one for name, one in results.get("patching_map", {}).items() if name in ("memorized", "control")}
    figures = [
        *_drawn(plot_patch_layers, results.get("patching")),
        *_drawn(plot_patch_heads, results.get("patching_heads")),
        *_drawn(plot_patch_map, maps),
    ]
    return Section(
        "Through which layers and heads does the worst token's information flow?", [_UNDONE], figures=figures
    )


def _ablation(results: Results) -> Section:
    shown = ("memorized", "control", "twin")
    found, tables = results.get("ablation", {}), results.get("specificity", {})
    figures = [
        *_drawn(plot_ablation, {name: found[name] for name in shown if name in found}),
        *_drawn(plot_specificity, tables.get("layers")),
        *_drawn(plot_cumulative, results.get("cumulative", {}).get("all")),
    ]
    return Section("Which heads and layers does recitation need?", [_WORTH], _worth(results), figures=figures)


def _lens(results: Results) -> Section:
    figures = [
        *_drawn(plot_logit_lens, results.get("lens")),
        *_drawn(plot_direct_effects, results.get("direct_effects")),
    ]
    return Section("From which layer on is the next token decided?", [_LENS], figures=figures)


def _drawn(plot: Callable[[Found], go.Figure], found: Found | None) -> list[go.Figure]:
    """The figure of what was found, if it was."""
    return [] if found is None or not len(found) else [plot(found)]


def _drops(results: Results) -> list[dict[str, str]]:
    """The statistics of the NLL rise, one row each, by condition."""
    tables = results.get("drop_statistics", {})
    rows = []
    for name in next(iter(tables.values()))["row"].values if tables else ():
        row = {"statistic": str(name)}
        for condition, table in tables.items():
            if name not in table["row"].values:
                continue
            one = table.sel(row=name)
            p = "" if one["p"].isnull() else f", p {float(one['p']):.3f}"
            row[name_of(condition)] = (
                f"{float(one['estimate']):.3g} [{float(one['low']):.3g}, {float(one['high']):.3g}]{p}"
            )
        rows.append(row)
    return rows


def _worth(results: Results, *, n: int = 6) -> list[dict[str, str]]:
    """The heads whose loss costs A most, with their specificity."""
    table = results.get("specificity", {}).get("heads")
    if table is None:
        return []
    parts = table["row"].values[(-table["memorized"].values).argsort()[:n]]
    columns = {name: name_of(name) for name in ("memorized", "control", "control_own", "held_out") if name in table}
    columns |= {f"more_than_{name}": f"A minus {title}" for name, title in list(columns.items())[1:]}
    rows = []
    for part in parts:
        one = table.sel(row=part)
        row = {"NLL rise without": str(part)}
        for name, title in columns.items():
            row[title] = f"{float(one[name]):.2f} [{float(one[f'{name}_low']):.2f}, {float(one[f'{name}_high']):.2f}]"
        if "p_more_than_control" in table:
            row["p (A minus never seen)"] = f"{float(one['p_more_than_control']):.3f}"
        rows.append(row)
    return rows
