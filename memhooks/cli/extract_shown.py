"""What `memhooks extract` prints, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.extract_tables import IN_PLACE, QUERIES
from memhooks.cli.tables import Row, shown, write_page

if TYPE_CHECKING:
    from memhooks.cli.extract_found import Found

_LENGTHS = (5, 10, 20, 30, 40, 50)


def print_tables(about: str, tables: Mapping[str, Any]) -> None:
    """Print the verdict and five short tables."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    say(tables["verdict"])
    print_table("Share extractable with n queries, p = 0.5", _queries(tables), box=SIMPLE_HEAD)
    if tables["by_level"]:
        levels = [
            Row(k=row["k"])
            | {key: shown(value, ".0%") for key, value in row.items() if key.startswith("n=")}
            | {"queries, median": f"{row['queries, median']:.3g}"}
            for row in tables["by_level"]
        ]
        print_table("Memorized, temperature 1, p = 0.5, by times planted", levels, box=SIMPLE_HEAD)
    print_table("After the last m prefix tokens: recited in full, and EM", _lengths(tables), box=SIMPLE_HEAD)
    say("alone they begin at position 0: context is lost and positions move; in place: after text of the control")
    near = [
        Row(set=row["set"])
        | {key: shown(row[key], ".2f") for key in ("similarity", "chance", "common run")}
        | {key: shown(row[key], ".0%") for key in ("recited in full", "shifted 0.8")}
        for row in tables["near_verbatim"]
    ]
    print_table("Near-verbatim (edit similarity; chance: another's text)", near, box=SIMPLE_HEAD)
    if tables["recalled"]:
        print_table("Log-probability per token, and class", _kinds(tables), box=SIMPLE_HEAD)
        say("above: share whose surplus over twin and prior exceeds the control's threshold (than), said or not.")


def _queries(tables: Mapping[str, Any]) -> list[Row]:
    by_cell: dict[tuple, Row] = {}
    for row in tables["queries"]:
        if row["p"] == 0.5 and row["n"] in QUERIES:
            line = by_cell.setdefault((row["set"], row["sampler"]), Row(set=row["set"], sampler=row["sampler"]))
            line[f"n={row['n']:,}"] = shown(row["share"], ".0%")
    return list(by_cell.values())


def _lengths(tables: Mapping[str, Any]) -> list[Row]:
    lengths: dict[str, Row] = {}
    shown_lengths = {row["m"] for row in tables["prefix"]} & set(_LENGTHS) or {row["m"] for row in tables["prefix"]}
    for row in tables["prefix"]:
        if row["m"] in shown_lengths:
            for how, words in (("", ""), (IN_PLACE, ", in place")):
                if f"full_match{how}" in row:
                    line = lengths.setdefault(row["set"] + words, Row(set=row["set"] + words))
                    line[f"m={row['m']}"] = f"{row[f'full_match{how}'][0]:.0%} {row[f'exact_match{how}'][0]:.1f}"
    return list(lengths.values())


def _kinds(tables: Mapping[str, Any]) -> list[Row]:
    others = [key for key in ("model", "twin", "prior") if any(key in row for row in tables["recalled"])]
    return [
        Row(set=row["set"], n=row["n"])
        | {key: f"{row[key]:.2f}" if key in row else "-" for key in others}
        | {key: f"{row[key][0]:.0%}" for key in ("not said", "predictable")}
        | {"recalled": shown(row["recalled"], ".0%")}
        | {"above": shown(row["above threshold"], ".0%"), "than": f"{row['least_gap']:.2f}"}
        for row in tables["recalled"]
    ]


def draw(path: Path | None, about: str, found: "Found") -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.extraction_plots import plot_extraction, plot_prefix_length, plot_recalled
    from memhooks.report.page import Section

    sections = [
        Section("How many queries?", figures=[plot_extraction(found.curves)]),
        Section("How much prefix?", figures=[plot_prefix_length(found.lengths)]),
    ]
    if found.logs:
        sections.append(Section("Recalled, or predictable?", figures=[plot_recalled(found.logs)]))
    write_page(path, "memhooks extract", about, sections)
