"""What `memhooks score-localizers` shows: tables that fit 80 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memhooks.cli.score_localizers_verdict import REFERENCES, ends, few, mean, p_of, regions_of, verdict
from memhooks.cli.tables import Row, rows_of, shown, write_page

if TYPE_CHECKING:
    import xarray as xr

_MOMENTS = ("early", "solved")


def as_plain(found: "Mapping[str, xr.Dataset]") -> dict[str, object]:
    """Both tables as JSON has them, with the verdict."""
    plain = {name: rows_of(table, name="row") for name, table in found.items()}
    return {**plain, "verdict": verdict(plain)}


def print_tables(about: str, found: "Mapping[str, xr.Dataset]") -> None:
    """Print recall by region, what deletion costs, and the verdict."""
    from memhooks.terminal import say

    plain = {name: rows_of(table, name="row") for name, table in found.items()}
    say(f"{about}; means [95 % interval over injections]")
    if "recall" in plain:
        _print_recall(plain["recall"])
        say("random: as many weights of each matrix, drawn blindly, solved moment. p: recall against it, for the best")
        say("of all localizers; none below 6 injections. * No localizers: " + _references(plain["recall"]))
        say(f"Seconds of one thread: {_seconds(plain['recall'])}")
        say(f"failed injections, left out: {found['recall'].attrs['failed']}")
    _print_deletion(plain["deletion"])
    say("net: others' rise since before the writing. selectivity: target minus net, where that is a rise: to give back")
    say("what the writing took counts for nothing. p: against a random mask. EM and all intervals: --json, --out.")
    for line in verdict(plain):
        say(line)


def _print_recall(table: Sequence[Row]) -> None:
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table

    for region in regions_of(table):
        rows = [row for row in table if row["region"] == region]
        first = rows[0]
        title = f"{region}: recall of the weights written, {first['k']:.0f}; chance {first['chance']:.4f}; {_n(rows)}"
        print_table(title, _recalls(rows), box=SIMPLE_HEAD)
        for moment in _MOMENTS if mean(first, "over_decoy") is not None else ():
            title = f"{region}, {moment}: recall of the target's weights, of the decoy's, and the difference"
            print_table(title, [_decoy(row) for row in rows if row["moment"] == moment], box=SIMPLE_HEAD)


def _print_deletion(table: Sequence[Row]) -> None:
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table

    for region in regions_of(table):
        rows = [row for row in table if row["region"] == region]
        title = f"{region}: NLL rise (nats per token) without what is named, solved moment; {_n(rows)}"
        if mean(rows[0], "others_before_em_drop"):
            nll = shown(ends(rows[0], "others_before_nll_rise"), ".2f")
            em = shown(ends(rows[0], "others_before_em_drop"), ".1f")
            title += f"\nwriting alone cost others: NLL {nll}, EM {em} tokens"
        print_table(title, [_deletion(row) for row in rows], box=SIMPLE_HEAD)


def _recalls(rows: Sequence[Row]) -> list[Row]:
    """One row for each localizer, the moments side by side."""
    lines: dict[str, Row] = {}
    for row in rows:
        line = lines.setdefault(str(row["localizer"]), {"localizer": _label(row)})
        applies = mean(row, "recall") is not None
        line[str(row["moment"])] = _short(shown(ends(row, "recall"), ".3f")) if applies else "n/a"
        line[f"p\n{row['moment']}"] = _p_cell(row, "p") if applies else ""
        line["random"] = _short(f"{mean(row, 'random_recall'):.3f}") if applies else "n/a"
    order = ("localizer", "early", "p\nearly", "solved", "p\nsolved", "random")
    return [{name: line.get(name, "") for name in order} for line in lines.values()]


def _decoy(row: Row) -> Row:
    decoy = "" if row["decoy_recall"] is None else _short(f"{row['decoy_recall']:.3f}")
    target = Row(localizer=_label(row), target=_short(f"{mean(row, 'recall'):.3f}"), decoy=decoy)
    return target | {
        "target minus decoy": _short(shown(ends(row, "over_decoy"), "+.3f")),
        "p": _p_cell(row, "over_decoy_p"),
    }


def _deletion(row: Row) -> Row:
    names = {"target": "target_nll_rise", "others": "others_nll_rise", "net": "others_net_nll_rise"}
    names |= {"unread": "language_nll_rise"}
    cells = {short: _short(f"{mean(row, name):+.2f}") for short, name in names.items()}
    own, blind = mean(row, "selectivity"), mean(row, "random_selectivity")
    return (
        Row(named_by=_label(row))
        | cells
        | {"selectivity": "" if own is None else _short(shown(ends(row, "selectivity"), ".2f")).replace(" ", "\n")}
        | {"random": "" if blind is None else _short(f"{blind:+.2f}"), "p": "" if blind is None else _p_cell(row, "p")}
    )


def _label(row: Row) -> str:
    """A localizer's name, with a star where it is a reference."""
    return f"{row['localizer']}{' *' if row['localizer'] in REFERENCES else ''}"


def _p_cell(row: Row, name: str) -> str:
    """A p; how many pairs there are where these are too few for any; nothing for references."""
    if row["localizer"] in REFERENCES:
        return ""
    p = p_of(row, name)
    if p is None:
        return f"n {row['n']:.0f}" if few(row) else ""
    return _short(f"{p:.2g}")


def _n(rows: Sequence[Row]) -> str:
    """How many injections; a localizer asked on fewer says so in its column of p."""
    n = int(max(float(str(row["n"])) for row in rows))
    return f"n {n}" + (", too few for p" if few({"n": n}) else "")


def _short(text: str) -> str:
    """Numbers without the zero before the point."""
    return re.sub(r"\b1\.000\b", "1", re.sub(r"\b0\.", ".", text))


def _references(rows: Sequence[Row]) -> str:
    there = {str(row["localizer"]) for row in rows}
    return "; ".join(f"{name} {words}" for name, words in REFERENCES.items() if name in there)


def _seconds(rows: Sequence[Row]) -> str:
    times = {str(row["localizer"]): row["seconds"] for row in rows if row["localizer"] != "weight_change"}
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in times.items())


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
    words = verdict({name: rows_of(table, name="row") for name, table in found.items()})
    sections.append(Section("In words", text=words))
    write_page(path, "Localizers against ground truth", about, sections)
