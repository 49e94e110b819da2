"""What `memhooks extract` shows: its tables, the verdict and the page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, intervals, shown, stacked, write_page

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.cli.extract import Found

_QUERIES = (1, 100, 10_000, 1_000_000)
_LENGTHS = (5, 10, 20, 30, 40, 50)


def as_tables(found: "Found", *, seed: int) -> dict[str, Any]:
    """Everything as JSON has it, and the verdict."""
    tables: dict[str, Any] = {
        "queries": [row for name, one in found.curves.items() for row in _queries(name, one)],
        "by_level": _by_level(found, seed),
        "prefix": [row for name, one in found.lengths.items() for row in _prefix(name, one)],
        "near_verbatim": [_near(name, one, found, seed) for name, one in found.near.items()],
        "recalled": [_recalled(name, found) for name in found.logs],
        "least_gap": found.least,
    }
    return tables | {"verdict": _verdict(tables)}


def _queries(name: str, one: "xr.Dataset") -> list[Row]:
    return [
        Row(set=name, sampler=sampler, p=p, n=n)
        | {"share": stacked(*(one[f"share{end}"].sel(site=sampler, draw=p, query=n) for end in ("", "_low", "_high")))}
        for sampler in one["site"].values.tolist()
        for p in one["draw"].values.tolist()
        for n in one["query"].values.tolist()
    ]


def _by_level(found: "Found", seed: int) -> list[Row]:
    """Temperature 1, p = 0.5, by how often the memorized paragraphs were planted."""
    import numpy as np

    from memhooks.measure.extractability import queries_needed

    counts = found.rows["memorized"].counts
    if counts is None:
        return []
    logs = found.curves["memorized"]["log_probability"].sel(site="temperature 1").values
    needed, rows = queries_needed(logs, p=0.5), []
    for k in sorted(set(counts)):
        at = np.array(counts) == k
        some = found.rows["memorized"].select(at)
        shares = {f"n={n:,}": intervals((needed[at] <= n).astype(float), some, seed) for n in _QUERIES}
        rows.append(Row(k=k, paragraphs=len(some)) | shares | {"queries, median": float(np.median(needed[at]))})
    return rows


def _prefix(name: str, one: "xr.Dataset") -> list[Row]:
    columns = ("full_match", "exact_match", "nll", "extractable")
    return [
        Row(set=name, m=m)
        | {key: stacked(*(one[f"{key}{end}"].sel(row=m) for end in ("", "_low", "_high"))) for key in columns}
        for m in one["row"].values.tolist()
    ]


def _near(name: str, one: "xr.Dataset", found: "Found", seed: int) -> Row:
    rows = found.rows[name]
    values = {
        "recited in full": one["exact_match"].values == one.attrs["n_continuation"],
        "similarity": one["similarity"].values,
        "chance": one["similarity_shuffled"].values,
        "above 0.8": one["similarity"].values > 0.8,
        "above 0.8, chance": one["similarity_shuffled"].values > 0.8,
        "shifted 0.9": one["shifted_9"].values,
        "shifted 0.8": one["shifted_8"].values,
        "common run": one["common_run"].values,
        "common run, chance": one["common_run_shuffled"].values,
    }
    return Row(set=name) | {key: intervals(value.astype(float), rows, seed) for key, value in values.items()}


def _recalled(name: str, found: "Found") -> Row:
    from memhooks.truth.extraction.recalled import CLASSES

    logs, kind = found.logs[name], found.kinds[name]
    means = {key: float(logs[key].mean()) for key in ("model", "twin", "prior") if key in logs}
    shares = {text: float((kind["kind"] == number).mean()) for number, text in enumerate(CLASSES)}
    above = float(kind["above_threshold"].mean())
    about = {"n": int(logs.sizes["paragraph"]), "least_gap": float(kind.attrs["least_gap"])}
    return Row(set=name) | about | means | shares | {"above threshold": above}


def _verdict(tables: Mapping[str, Any]) -> str:
    def share(name: str, n: int) -> str:
        found = [
            row["share"]
            for row in tables["queries"]
            if (row["set"], row["sampler"], row["p"], row["n"]) == (name, "temperature 1", 0.5, n)
        ]
        return shown(found[0], ".0%")

    sets = list(dict.fromkeys(row["set"] for row in tables["queries"]))
    words = [
        "Extractable at temperature 1, p = 0.5, with 1 and with a million queries: "
        + "; ".join(f"{name} {share(name, 1)} and {share(name, 1_000_000)}" for name in sets)
        + "."
    ]
    shifted = {row["set"]: row["shifted 0.8"][0] for row in tables["near_verbatim"]}
    listed = ", ".join(f"{name} {part:.1%}" for name, part in shifted.items())
    words.append(f"Similar by more than 0.8 though not recited in full: {listed}.")
    recalled = {row["set"]: row for row in tables["recalled"]}
    listed = ", ".join(f"{name} {row['recalled']:.0%}" for name, row in recalled.items())
    words.append(f"Recalled: {listed}.")
    if "control" in recalled:
        false = recalled["control"]["above threshold"]
        words.append(f"Above the threshold in the other half of the control (false positives): {false:.1%}.")
    return " ".join(words)


def print_tables(about: str, tables: Mapping[str, Any]) -> None:
    """Print the verdict and five short tables."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    say(tables["verdict"])
    by_cell: dict[tuple, Row] = {}
    for row in tables["queries"]:
        if row["p"] == 0.5 and row["n"] in _QUERIES:
            line = by_cell.setdefault((row["set"], row["sampler"]), Row(set=row["set"], sampler=row["sampler"]))
            line[f"n={row['n']:,}"] = shown(row["share"], ".0%")
    print_table("Share extractable with n queries, p = 0.5", list(by_cell.values()), box=SIMPLE_HEAD)
    if tables["by_level"]:
        levels = [
            Row(k=row["k"])
            | {key: shown(value, ".0%") for key, value in row.items() if key.startswith("n=")}
            | {"queries, median": f"{row['queries, median']:.3g}"}
            for row in tables["by_level"]
        ]
        print_table("Memorized, temperature 1, p = 0.5, by times planted", levels, box=SIMPLE_HEAD)
    lengths: dict[str, Row] = {}
    shown_lengths = {row["m"] for row in tables["prefix"]} & set(_LENGTHS) or {row["m"] for row in tables["prefix"]}
    for row in tables["prefix"]:
        if row["m"] in shown_lengths:
            line = lengths.setdefault(row["set"], Row(set=row["set"]))
            line[f"m={row['m']}"] = f"{row['full_match'][0]:.0%} {row['exact_match'][0]:.1f}"
    print_table("After the last m prefix tokens: recited in full, and EM", list(lengths.values()), box=SIMPLE_HEAD)
    near = [
        Row(set=row["set"])
        | {key: shown(row[key], ".2f") for key in ("similarity", "chance", "common run")}
        | {key: f"{row[key][0]:.1%}" for key in ("recited in full", "shifted 0.9", "shifted 0.8")}
        for row in tables["near_verbatim"]
    ]
    print_table("Near-verbatim (edit similarity; chance: another's text)", near, box=SIMPLE_HEAD)
    kinds = [
        Row(set=row["set"], n=row["n"])
        | {key: f"{row[key]:.2f}" if key in row else "-" for key in ("model", "twin", "prior")}
        | {key: f"{row[key]:.0%}" for key in ("not said", "predictable", "recalled")}
        | {"above": f"{row['above threshold']:.1%}", "than": f"{row['least_gap']:.2f}"}
        for row in tables["recalled"]
    ]
    print_table("Log-probability per token, and class", kinds, box=SIMPLE_HEAD)
    say("above: share whose surplus over twin and prior exceeds the control's threshold (than), said or not.")


def draw(path: Path | None, about: str, found: "Found") -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.extraction_plots import plot_extraction, plot_prefix_length, plot_recalled
    from memhooks.report.page import Section

    sections = [
        Section("How many queries?", figures=[plot_extraction(found.curves)]),
        Section("How much prefix?", figures=[plot_prefix_length(found.lengths)]),
        Section("Recalled, or predictable?", figures=[plot_recalled(found.logs)]),
    ]
    write_page(path, "memhooks extract", about, sections)
