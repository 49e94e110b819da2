"""The comparison's table and figures: netCDF to compute with, Markdown to cite, a page to look at."""

import json
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from memhooks.model.labelled import save_result
from memhooks.report.comparison_plots import plot_forgetting, plot_frontier
from memhooks.report.page import Section, write_report
from memhooks.study.comparison.comparison import Comparison, Row
from memhooks.study.comparison.table import comparison_table, missed_goals
from memhooks.study.comparison.trials import GOALS
from memhooks.writing import whole_file

_COLUMNS = {
    "exact_match": ("forget EM", ".1f"),
    "longest_run": ("longest run", ".1f"),
    "nll": ("NLL", ".2f"),
    "others_lost": ("others lose, EM", ".2f"),
    "perplexity": ("perplexity", ".3f"),
    "own_em": ("own words, EM", ".1f"),
}
_LEAD = (
    "Each method was tuned over eight settings on paragraphs that are not judged here (the published recipe is taken "
    "as it is), then judged on others; what should stay was drawn anew as well. Masked runs stop once EM, longest run "
    "and NLL (half of the twin's) reach their goals, or the steps run out; BalancedSubnet and the published recipe "
    "know no such stop. EM counts the tokens recited before the first miss, of 50; the longest run is the longest "
    "verbatim stretch from any start. Means with 95 % intervals, over paragraphs for what is forgotten, over runs for "
    "what is kept."
)


def write_comparison(comparison: Comparison) -> Path:
    """Write `comparison.nc`, `comparison.md` and `comparison.html` into the folder; returns the page's path."""
    judged = [row for row in comparison.rows() if row["phase"] == "judge"]
    order = [method.name for method in comparison.methods]
    judged.sort(key=lambda row: (order.index(str(row["method"])), row["size"], row["number"]))
    table = comparison_table(judged, seed=comparison.seed)
    save_result(table, comparison.folder / "comparison.nc")
    with whole_file(comparison.folder / "comparison.md") as partial:
        partial.write_text(markdown(table, comparison), "utf8")
    page = comparison.folder / "comparison.html"
    write_report(page, title="Which way to unlearn costs least?", lead=_LEAD, sections=_sections(table, comparison))
    return page


def table_rows(table: xr.Dataset, size: int, comparison: Comparison) -> list[dict[str, str]]:
    """The rows of one forget-set size, ready to print."""
    settings = {method.name: method.settings for method in comparison.methods}
    found = []
    for row in range(table.sizes["row"]):
        if int(table["size"][row]) != size:
            continue
        name = str(table["method"].values[row])
        line = {"weights and objective": name, "moved": f"{100 * float(table['share'][row]):.3g} %"}
        for column, (title, form) in _COLUMNS.items():
            mean, low, high = (float(table[f"{column}{end}"][row]) for end in ("", "_low", "_high"))
            line[title] = f"{mean:{form}} [{low:{form}}, {high:{form}}]"
        line["reached"] = f"{100 * float(table['reached'][row]):.0f} %"
        line["goals missed"] = ", ".join(missed_goals(table, row)) or "none"
        line["steps"] = f"{float(table['n_steps'][row]):.1f}"
        line["seconds"] = f"{float(table['seconds'][row]):.1f}"
        chosen = settings[name][int(table["setting"][row])]
        line["setting"] = ", ".join(f"{key} {value:g}" for key, value in chosen.items()) or "as published"
        found.append(line)
    return found


def markdown(table: xr.Dataset, comparison: Comparison) -> str:
    """Both tables in Markdown, with what they were made by."""
    twin = float(table["twin_nll"].mean())
    parts = [
        f"Goals: {_goals(twin)}. Made by `memhooks unlearn --compare` "
        f"(configuration {json.dumps(_config(comparison))})."
    ]
    for size in sorted({int(one) for one in table["size"].values}):
        rows = table_rows(table, size, comparison)
        runs = int(table["n_runs"].values[[int(one) == size for one in table["size"].values].index(True)])
        parts.append(f"### {size} paragraph{'s' * (size > 1)} at once, {runs} runs a method")
        lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
        parts.append("\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows]))
    return "\n\n".join(parts) + "\n"


def _goals(twin: float) -> str:
    return (
        f"EM at most {GOALS['forget_em']:g}, longest run at most {GOALS['longest_run']:g}, NLL at least "
        f"{GOALS['nll_share']:g} of the twin's ({twin:.2f}), other memorized paragraphs lose at most "
        f"{GOALS['others_lost']:g} tokens of EM, held-out perplexity at most {GOALS['perplexity']:g} times the old"
    )


def _config(comparison: Comparison) -> dict[str, object]:
    saved = json.loads((comparison.folder / "comparison.json").read_text())
    return {"sizes": saved["sizes"], "seed": saved["seed"]}


def _sections(table: xr.Dataset, comparison: Comparison) -> Sequence[Section]:
    tuned: list[Row] = [row for row in comparison.rows() if row["phase"] == "tune" and row["size"] == 1]
    twin = float(table["twin_nll"].mean())
    sections = []
    for size in sorted({int(one) for one in table["size"].values}):
        some = table.isel(row=[place for place, one in enumerate(table["size"].values) if int(one) == size])
        text = [f"Goals: {_goals(twin)}. Grey: where a method should end."]
        figures = [plot_frontier(some, tuned if size == 1 else [], GOALS), plot_forgetting(some, GOALS)]
        heading = f"{size} paragraph{'s' * (size > 1)} at once"
        sections.append(Section(heading, text, table_rows(table, size, comparison), figures=figures))
    return sections
