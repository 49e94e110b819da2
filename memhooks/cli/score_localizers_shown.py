"""What `memhooks score-localizers` shows: tables in 100 columns, a verdict, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memhooks.cli.tables import Row, rows_of, shown, write_page

if TYPE_CHECKING:
    import xarray as xr

_REFERENCES = ("weight_change", "random_scores", "written, to zero", "written, put back", "the injection itself")


def as_plain(found: "Mapping[str, xr.Dataset]") -> dict[str, object]:
    """Both tables as JSON has them, with the verdict."""
    return {**{name: rows_of(table, name="row") for name, table in found.items()}, "verdict": verdict(found)}


def print_tables(about: str, found: "Mapping[str, xr.Dataset]") -> None:
    """Print recall by region, what deletion costs, and the verdict."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over injections]")
    plain = {name: rows_of(table, name="row") for name, table in found.items()}
    for region in _regions(plain.get("recall", [])):
        rows = [row for row in plain["recall"] if row["region"] == region]
        title = f"{region}: recall of the weights written, {rows[0]['k']:.0f}; chance {rows[0]['chance']:.4f}"
        print_table(title, _recalls(rows), box=SIMPLE_HEAD)
    if plain.get("recall"):
        say("random: as many weights of each matrix, drawn blindly. p: against it, of the best of all localizers.")
        say(f"failed injections, left out: {found['recall'].attrs['failed']}")
    for region in _regions(plain["deletion"]):
        rows = [row for row in plain["deletion"] if row["region"] == region]
        title = f"{region}: NLL rise (nats per token) without what is named, solved moment"
        print_table(title, [_deletion(row) for row in rows], box=SIMPLE_HEAD)
    say("selectivity: target minus other recited text; p: against a random mask. EM and all intervals: --json, --out.")
    for line in verdict(found):
        say(line)


def verdict(found: "Mapping[str, xr.Dataset]") -> list[str]:
    """Per region: who finds the written weights, at which moment, and whether deletion agrees; with its control."""
    plain = {name: rows_of(table, name="row") for name, table in found.items()}
    lines = []
    for region in _regions(plain["deletion"]):
        words = []
        for moment in ("early", "solved"):
            rows = [row for row in plain.get("recall", []) if (row["region"], row["moment"]) == (region, moment)]
            words += [f"{moment}: {_best(rows, 'recall', 'random_recall', '.3f')}"] if rows else []
        dropped = [row for row in plain["deletion"] if row["region"] == region]
        words.append(f"deletion: {_best(dropped, 'selectivity', 'random_selectivity', '+.2f')}")
        lines.append(f"{region}: " + "; ".join(words))
    return lines


def _best(rows: Sequence[Row], name: str, control: str, form: str) -> str:
    usable = [row for row in rows if row["localizer"] not in _REFERENCES and _mean(row, name) is not None]
    if not usable:
        return "no localizer applies"
    found = [row for row in usable if _p(row) <= 0.05 and (_mean(row, "difference") or 0.0) > 0]
    if not found:
        first = max(usable, key=lambda row: _mean(row, name) or 0.0)
        size = shown(first[name], form)  # pyright: ignore[reportArgumentType]
        n = int(float(str(first["n"])))
        return f"none beats a random mask at p 0.05; first is {first['localizer']}, {size}, p {_p(first):.2g}, n {n}"
    best = max(found, key=lambda row: _mean(row, name) or 0.0)
    return (
        f"{best['localizer']} first, {shown(best[name], form)}, random mask {_mean(best, control):{form}}, "  # pyright: ignore[reportArgumentType]
        f"p {_p(best):.2g}; {len(found)} of {len(usable)} beat theirs"
    )


def _recalls(rows: Sequence[Row]) -> list[Row]:
    """One row for each localizer, the moments side by side."""
    lines: dict[str, Row] = {}
    for row in rows:
        line = lines.setdefault(str(row["localizer"]), {"localizer": row["localizer"]})
        applies = _mean(row, "recall") is not None
        line[str(row["moment"])] = shown(row["recall"], ".3f") if applies else "n/a"  # pyright: ignore[reportArgumentType]
        if row["moment"] == "solved":
            line["random"] = f"{_mean(row, 'random_recall'):.3f}" if applies else "n/a"
            if isinstance(row["decoy_recall"], float):
                line["decoy"] = f"{row['decoy_recall']:.3f}"
        if row["localizer"] not in _REFERENCES:
            line[f"p {row['moment']}"] = f"{_p(row):.2g}" if applies else ""
        else:
            line[f"p {row['moment']}"] = ""
        line["s"] = f"{row['seconds']:.2f}"
        line["n"] = int(float(str(row["n"])))
    order = ("localizer", "early", "p early", "solved", "p solved", "random", "decoy", "s", "n")
    return [{name: line[name] for name in order if name in line} for line in lines.values()]


def _deletion(row: Row) -> Row:
    ends = {name: _mean(row, f"{name}_nll_rise") for name in ("target", "others", "language")}
    return (
        Row(named_by=row["localizer"])
        | {name: "" if one is None else f"{one:+.2f}" for name, one in ends.items()}
        | {"selectivity": shown(row["selectivity"]), "random": _or_nothing(_mean(row, "random_selectivity"))}  # pyright: ignore[reportArgumentType]
        | {"p": "" if row["p"] is None or row["localizer"] in _REFERENCES else f"{_p(row):.2g}"}
        | {"n": int(float(str(row["n"])))}
    )


def _or_nothing(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _mean(row: Row, name: str) -> float | None:
    return row[name][0]  # pyright: ignore[reportIndexIssue]


def _p(row: Row) -> float:
    return 1.0 if row["p"] is None else float(str(row["p"]))


def _regions(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(row["region"]) for row in rows))


def draw(path: Path | None, about: str, found: "Mapping[str, xr.Dataset]") -> None:
    """Write the page of figures, if there is a path."""
    if path is None:
        return
    from memhooks.report.injection_plots import plot_deletion, plot_recall
    from memhooks.report.page import Section

    sections = []
    if "recall" in found:
        sections.append(Section("Who finds the written weights?", figures=[plot_recall(found["recall"])]))
    sections.append(Section("What is lost without what they name?", figures=[plot_deletion(found["deletion"])]))
    sections.append(Section("In words", text=verdict(found)))
    write_page(path, "Localizers against ground truth", about, sections)
