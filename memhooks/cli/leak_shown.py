"""What `memhooks leak` shows: what leaked, level by level and step by step, in 100 columns, and its figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, rows_of, shown, stacked, write_page

if TYPE_CHECKING:
    from memhooks.truth.leak.leak import Leak

_LEVEL = 0.05


def tables(found: "Leak", *, queries: int, seed: int) -> dict[str, Any]:
    """Verdict, onset of each level, every level at every step, and held-out text, as JSON has them."""
    from memhooks.truth.leak.tables import held_out_by_step, leak_onset, leak_table

    onset = rows_of(leak_onset(found, queries=queries, seed=seed), name="what")
    held = None
    if found.held_out.sizes.get("paragraph"):
        by_step = held_out_by_step(found, seed=seed)
        columns = {
            name: stacked(*(by_step[f"{name}{end}"].values for end in ("", "_low", "_high")))
            for name in ("nll", "change")
        }
        steps = by_step["step"].values.tolist()
        held = [
            dict(zip(("step", *columns), cells, strict=True)) for cells in zip(steps, *columns.values(), strict=True)
        ]
    return {
        "verdict": verdict(onset, queries),
        "queries": queries,
        "levels": onset,
        "steps": rows_of(leak_table(found, queries=queries, seed=seed), name="what"),
        "held_out": held,
    }


def verdict(onset: list[Row], queries: int) -> list[str]:
    """From which repetition on text leaks, beside the paragraphs that were never read, in words."""
    rows: list[Mapping[str, Any]] = list(onset)
    before, n = (sum(int(row[name]) for row in rows) for name in ("before", "n"))
    said = [f"Recited or extractable before any reading, and left out: {before} of {n} paragraphs."]
    said += [
        _onset(rows, name, words)
        for name, words in (("recited", "recited in full"), ("extractable", f"extractable with {queries} samples"))
    ]
    moved = [row for row in rows[1:] if row["p_all"] is not None and row["p_all"] <= _LEVEL]
    for way, sign in (("more", -1), ("less", 1)):
        levels = [str(row["level"]) for row in moved if row["difference"][0] * sign > 0]
        said.append(f"NLL falls {way} than without reading (p, all levels, <= .05) at: {', '.join(levels) or 'none'}.")
    return said


def _onset(rows: list[Mapping[str, Any]], name: str, words: str) -> str:
    """From which level on more comes out than at level 0."""
    never = f"never read (control): {shown(rows[0][f'ever_{name}'], '.0%')}."
    told = "than never read (Fisher's exact test, all levels, p <= .05)"
    above = [row for row in rows[1:] if row[f"p_ever_all_{name}"] <= _LEVEL]
    if not above:
        most = max(rows[1:], key=lambda row: row[f"ever_{name}"][0] or 0)
        return f"No level became {words} more often {told}; most: {_most(most, name)}; {never}"
    first, half = above[0], next((row for row in above if row[f"ever_{name}"][0] >= 0.5), None)
    return (
        f"More often {words} {told}: first at {first['level']} repetitions, {shown(first[f'ever_{name}'], '.0%')} "
        f"(from step {_whole(first[f'first_step_{name}'])}, after {_whole(first[f'first_read_{name}'])} readings); "
        f"half of the paragraphs: {'at ' + str(half['level']) if half else 'at no level'}; {never}"
    )


def _most(row: Mapping[str, Any], name: str) -> str:
    return f"{shown(row[f'ever_{name}'], '.0%')} at {row['level']}"


def print_tables(about: str, found: Mapping[str, Any]) -> None:
    """Print levels, steps, held-out text and the verdict."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; [95 % interval]; extractable: among {found['queries']} samples with probability 1/2")
    say("shares and onset are of paragraphs that did not come out before any reading")
    print_table("Share that comes out, by repetitions", [_share(row) for row in found["levels"]], box=SIMPLE_HEAD)
    print_table("When, for how long, and what reading does", [_when(row) for row in found["levels"]], box=SIMPLE_HEAD)
    for name, words, form in (
        ("recited", "Recited in full", ".0%"),
        ("extractable", "Extractable", ".0%"),
        ("nll", "NLL, nats per token", ".2f"),
    ):
        print_table(f"{words}, by step", _steps(found, name, form), box=SIMPLE_HEAD)
    if found["held_out"]:
        last = found["held_out"][-1]
        say(f"Held-out text, nats per token: {shown(last['nll'], '.3f')}, change {shown(last['change'], '+.3f')}")
    for line in found["verdict"]:
        say(line)


def _share(row: Mapping[str, Any]) -> Row:
    return Row(
        {
            "repetitions": row["level"],
            "n": row["n"],
            "ever recited": shown(row["ever_recited"], ".0%"),
            "at the end": shown(row["end_recited"], ".0%"),
            "ever extractable": shown(row["ever_extractable"], ".0%"),
            "at the end ": shown(row["end_extractable"], ".0%"),
        }
    )


def _when(row: Mapping[str, Any]) -> Row:
    return Row(
        {
            "repetitions": row["level"],
            "first step\nrecited": _whole(row["first_step_recited"]),
            "after\nreadings": _whole(row["first_read_recited"]),
            "first step\nextract.": _whole(row["first_step_extractable"]),
            "kept,\nrecited": "-" if row["kept_recited"] is None else f"{row['kept_recited']:.0%}",
            "longest since\nreading": _whole(row["longest_recited"]),
            "NLL change\nminus level 0": shown(row["difference"]).replace("?", "-"),
            "p, all": "-" if row["p_all"] is None else f"{row['p_all']:.2g}",
        }
    )


def _steps(found: Mapping[str, Any], name: str, form: str) -> list[Row]:
    rows: dict[int, Row] = {}
    for row in found["steps"]:
        line = rows.setdefault(row["step"], Row(step=row["step"]))
        line[f"{row['level']} x"] = f"{row[name][0]:{form}}"
    if found["held_out"] and name == "nll":
        for one in found["held_out"]:
            rows[one["step"]]["held out"] = f"{one['nll'][0]:.2f}"
    return list(rows.values())


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def draw(path: Path | None, about: str, found: "Leak", *, queries: int, seed: int) -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.leak_plots import plot_leak
    from memhooks.report.page import Section
    from memhooks.truth.leak.tables import held_out_by_step, leak_table

    held = held_out_by_step(found, seed=seed) if found.held_out.sizes.get("paragraph") else None
    drawing = plot_leak(leak_table(found, queries=queries, seed=seed), held)
    words = tables(found, queries=queries, seed=seed)["verdict"]
    write_page(path, "memhooks leak", about, [Section("What leaks?", words, figures=[drawing])])
