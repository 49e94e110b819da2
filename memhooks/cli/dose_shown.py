"""What `memhooks dose` shows: curves, tests and thresholds in 100 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, rows_of, shown, stacked, write_page

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.truth.dose.response import DoseResponse

_LEVEL = 0.05


def tables(found: "DoseResponse") -> dict[str, Any]:
    """Verdict, curves, tests, thresholds and gaps as JSON has them."""
    from memhooks.truth.dose.curves import gap_overlap

    table = found.tables["memorized"]
    timed = not table["gap"].isnull().any()
    curves = found.curves
    ends = stacked(*(curves[name].values for name in ("mean", "low", "high")))
    columns = {name: curves[name].values.tolist() for name in ("condition", "measure", "k", "n", "unit")}
    overlap = gap_overlap(table) if timed else None
    return {
        "verdict": verdict(found),
        "head": table.attrs.get("head"),
        "curves": [
            dict(zip((*columns, "mean"), cells, strict=True)) for cells in zip(*columns.values(), ends, strict=True)
        ],
        "statistics": rows_of(found.statistics, name="asked"),
        "thresholds": [_finite(row) for row in rows_of(found.thresholds, name="asked")],
        "gaps": None if overlap is None else rows_of(overlap, name="k"),
        "spearman_k_gap": None if overlap is None else overlap.attrs["spearman"],
    }


def verdict(found: "DoseResponse") -> list[str]:
    """What holds against all measures asked, beside the control, in words."""
    rows = found.statistics
    condition = "difference" if "twin" in found.tables else "memorized"
    said = []
    for question, words in (
        ("dose", "Goes with k"),
        ("dose, same gap", "Goes with k at the same gap"),
        ("gap, same dose", "Goes with the gap at the same k"),
        ("dose, same loss", "Goes with k at the same loss"),
    ):
        if not (rows["question"].values == question).any():
            continue
        named = _significant(rows, condition, question)
        few = _unasked(rows, condition, question)
        told = "p max <= .05, model minus twin" if condition == "difference" else "p max <= .05; NO TWIN, no control"
        said.append(
            f"{words} ({told}): {', '.join(named) or 'nothing'}."
            + (f" Not asked, too few paragraphs: {', '.join(few)}." if few else "")
        )
    if "twin" in found.tables:
        false = _significant(rows, "twin", None)
        said.append(f"Control, the same under the twin that read none of them: {', '.join(false) or 'nothing'}.")
    return said


def _significant(rows: "xr.Dataset", condition: str, question: str | None) -> list[str]:
    from memhooks.truth.dose.measures import MEASURES

    chosen = (rows["condition"].values == condition) & (rows["p_max"].values <= _LEVEL)
    if question is not None:
        chosen &= rows["question"].values == question
    found = rows.isel(row=chosen)
    return [
        f"{MEASURES[str(name)].words} ({'+' if above > 0 else '-'}{'' if question else f', {asked}'})"
        for name, asked, above in zip(
            found["measure"].values,
            found["question"].values,
            found["correlation"].values - found["shuffled"].values,
            strict=True,
        )
    ]


def _unasked(rows: "xr.Dataset", condition: str, question: str) -> list[str]:
    from memhooks.truth.dose.measures import MEASURES

    there = (rows["condition"].values == condition) & (rows["question"].values == question)
    return [MEASURES[str(name)].words for name in rows["measure"].values[there & rows["too_few"].values]]


def _finite(row: Row) -> Row:
    """Infinite numbers, which JSON has not, as text."""
    return {name: _in_words(value) for name, value in row.items()}


def _in_words(value: object) -> object:
    if isinstance(value, list):
        return [_in_words(one) for one in value]
    return "inf" if value == float("inf") else value


def print_tables(about: str, found: "DoseResponse") -> None:
    """Print curves, tests, thresholds and the verdict."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say
    from memhooks.truth.dose.statistics import QUESTIONS

    summary = tables(found)
    say(f"{about}; mean by k; [95 % interval]; p: k dealt anew; p max: of the largest of all measures")
    if summary["head"]:
        say(f"rare-token head: {summary['head']}, found on never-seen text")
    for condition in found.tables:
        print_table(f"Means by k: {condition}", _by_level(found.curves, condition), box=SIMPLE_HEAD)
    for question in QUESTIONS:
        rows = _tested(found.statistics, question)
        if rows:
            print_table(f"Rank correlation: {question}", rows, box=SIMPLE_HEAD)
            along = "1 + gap" if question.startswith("gap") else "k"
            print_table(
                f"Change per doubling of {along}: {question}", _slopes(found.statistics, question), box=SIMPLE_HEAD
            )
    thresholds = [
        Row(
            {"half of the paragraphs": f"{row['condition']}, {row['outcome']}", "k": _reads(row["threshold"][0])}
            | {"95 %": f"[{_reads(row['threshold'][1])}, {_reads(row['threshold'][2])}]"}
            | {"between levels": f"{_reads(row['below'])} and {_reads(row['above'])}"}
        )
        for row in rows_of(found.thresholds, name="asked")
        if isinstance(row["threshold"], list)
    ]
    print_table("At which k do half of the paragraphs come out?", thresholds, box=SIMPLE_HEAD)
    if summary["gaps"]:
        gaps = [
            {
                "k": row["k"],
                "median": f"{row['gap_median']:.0f}",
                "range": f"{row['gap_least']:.0f} to {row['gap_most']:.0f}",
            }
            | {
                "shared with another level": f"{row['shared']:.0%}",
                "4 times as high or low": f"{row['shared_far']:.0%}",
            }
            for row in summary["gaps"]
        ]
        print_table("Updates since the last reading", gaps, box=SIMPLE_HEAD)
        say(f"k and gap are correlated by construction: Spearman {summary['spearman_k_gap']:+.2f}")
    for line in summary["verdict"]:
        say(line)


def _reads(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and value != float("inf") else "never"


def _by_level(curves: "xr.Dataset", condition: str) -> list[Row]:
    from memhooks.truth.dose.measures import MEASURES
    from memhooks.truth.dose.thresholds import OUTCOMES

    words = {name: one.words for name, one in MEASURES.items()}
    words |= {name: said.removeprefix("that come ") for name, (said, _) in OUTCOMES.items()}
    own = curves.isel(row=curves["condition"].values == condition)
    each = sorted(set(own["k"].values.tolist()))
    rows: dict[str, Row] = {}
    for name, k, n, mean in zip(*(own[one].values.tolist() for one in ("measure", "k", "n", "mean")), strict=True):
        row = rows.setdefault(name, Row({"measure": words[name], "n": n} | {str(one): "-" for one in each}))
        row[str(k)] = f"{mean:.3g}" if abs(mean) >= 0.01 else f"{mean:.1g}"
    return list(rows.values())


def _tested(statistics: "xr.Dataset", question: str) -> list[Row]:
    """One row per measure: the model's correlation beside the twin's and that of the difference."""
    return [
        Row(measure=name, memorized=_asked(own["memorized"], "correlation"))
        | {"p max": _p(own["memorized"]["p_max"])}
        | ({"twin": shown(own["twin"]["correlation"]), "p": _p(own["twin"]["p"])} if "twin" in own else {})
        | ({"diff.": _point(own["difference"]["correlation"])} if "difference" in own else {})
        | ({"p max ": _p(own["difference"]["p_max"])} if "difference" in own else {})
        for name, own in _by_measure(statistics, question).items()
    ]


def _slopes(statistics: "xr.Dataset", question: str) -> list[Row]:
    """One row per measure: its change per doubling under each condition."""
    return [
        Row(measure=name) | {condition: _asked(one, "slope", "+.2g") for condition, one in own.items()}
        for name, own in _by_measure(statistics, question).items()
    ]


def _by_measure(statistics: "xr.Dataset", question: str) -> dict[str, dict[str, dict[str, Any]]]:
    from memhooks.truth.dose.measures import MEASURES

    asked = statistics.isel(row=statistics["question"].values == question)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows_of(asked, name="asked"):
        found.setdefault(MEASURES[str(row["measure"])].words, {})[str(row["condition"])] = row
    return found


def _asked(row: dict[str, Any], name: str, form: str = "+.2f") -> str:
    return "too few" if row["too_few"] else shown(row[name], form)


def _point(ends: list) -> str:
    return "?" if ends[0] is None else f"{ends[0]:+.2f}"


def _p(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else "?"


def draw(path: Path | None, about: str, found: "DoseResponse") -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.dose_plots import plot_dose_curves, plot_recency
    from memhooks.report.page import Section

    table = found.tables["memorized"]
    sections = [
        Section("How does it depend on k?", verdict(found), figures=[plot_dose_curves(found.curves)]),
    ]
    if not table["gap"].isnull().any():
        sections.append(Section("Or on how long ago it was read?", figures=[plot_recency(found.tables)]))
    write_page(path, "memhooks dose", about, sections)
