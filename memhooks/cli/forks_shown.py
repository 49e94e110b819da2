"""What `memhooks forks` shows: its verdict, tables in 90 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, rows_of, shown, write_page

if TYPE_CHECKING:
    import xarray as xr

    Results = Mapping[str, xr.Dataset]

_SHOWN = {"layer": 8, "attention": 2, "mlp": 2, "head": 3, "matrix": 3, "kind": 7, "rest": 3, "all": 1}
"""How many parts of each kind the table shows, those that remove most."""


def tables(found: "Results") -> dict[str, Any]:
    """All results as JSON has them."""
    made: dict[str, Any] = {"verdict": verdict(found), "interpretable": bool(found["line"].attrs["interpretable"])}
    made["barrier"] = [float(found["line"][f"barrier{end}"]) for end in ("", "_low", "_high")]
    for name, label in (
        ("line", "share"),
        ("parts", "part"),
        ("curves", "mask"),
        ("agreement", "ranked"),
        ("single", "localizer"),
    ):
        if name in found:
            made[name] = rows_of(_by_row(found[name]), name=label)
    table = _by_row(found["counterfactual"])
    made["counterfactual"] = rows_of(table, name="set")
    made["threshold"] = float(found["counterfactual"]["threshold"])
    return made


def _by_row(result: "xr.Dataset") -> "xr.Dataset":
    return result[[str(name) for name in result if result[name].dims == ("row",)]]


def verdict(found: "Results") -> list[str]:
    """All sentences: the line, the parts, every localizer."""
    from memhooks.truth.forks.verdict import localizer_verdict, parts_verdict

    curves = found["curves"]
    said = [str(found["line"].attrs["verdict"]), *parts_verdict(found["parts"])]
    return said + localizer_verdict(curves, found["agreement"], fraction=_middle(curves))


def _middle(curves: "xr.Dataset") -> float:
    fractions = sorted(set(curves["fraction"].values.tolist()))
    return fractions[len(fractions) // 2]


def print_tables(about: str, found: "Results") -> None:
    """Print the line, the parts, the masks, the agreement, the counterfactuals and the verdict."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    made = tables(found)
    say(f"{about}; means [95 % interval over paragraphs]")
    print_table(
        "Along the line: NLL (nats per token) and EM at a share of the other's weights",
        [_line(row) for row in made["line"]],
        box=SIMPLE_HEAD,
    )
    say(made["verdict"][0])
    print_table(
        "Share of the gap that each part removes and brings",
        [_part(row) for row in _leading(made["parts"])],
        box=SIMPLE_HEAD,
    )
    say(
        "removes: the other's part in the model; brings: the model's part in the other; blind: a change as large, in "
        "random order; never read: NLL rise, nats."
    )
    print_table(
        "Share of the gap that vanishes with the weights that a localizer names",
        [_mask(row) for row in made["curves"]],
        box=SIMPLE_HEAD,
    )
    say("random: as many weights of the same matrices; all but: every other weight; never read: NLL rise, nats.")
    if "single" in made:
        print_table(
            "The same, one paragraph at a time ({n_targets} paragraphs, {fraction:g})".format(**found["single"].attrs),
            [_single(row) for row in made["single"]],
            box=SIMPLE_HEAD,
        )
    print_table(
        "Do localizers rank parts as swaps do? Spearman", [_ranked(row) for row in made["agreement"]], box=SIMPLE_HEAD
    )
    say("p: one-sided, of the largest of all localizers under permuted parts; at equal size: size taken out.")
    print_table(
        "Counterfactual memorization, nats per token, by readings",
        [_read(row) for row in made["counterfactual"]],
        box=SIMPLE_HEAD,
    )
    say(f"above: share above {made['threshold']:+.2f}, the 97.5 % quantile of never-read text; one model a side.")
    for sentence in made["verdict"]:
        say(sentence)


def _leading(rows: list[Row]) -> list[Row]:
    some = []
    for kind, n in _SHOWN.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        some += sorted(of_kind, key=lambda row: -_first(row["removes"]))[:n]
    return some + [row for row in rows if row["kind"] in ("bottom", "top")]


def _first(ends: Any) -> float:  # noqa: ANN401 - a cell of JSON
    return float(ends[0])


def _line(row: Row) -> Row:
    cells: Row = {"share": f"{row['share']:.2f}"}
    for name in ("memorized", "mirror", "control"):
        cells[name] = shown(row[f"nll_{name}"], ".2f")  # pyright: ignore[reportArgumentType]
    return cells | {f"EM {name}": f"{_first(row[f'em_{name}']):.1f}" for name in ("memorized", "mirror")}


def _part(row: Row) -> Row:
    shares = {name: shown(row[name], ".1%") for name in ("removes", "brings")}  # pyright: ignore[reportArgumentType]
    mirror = {f"{name}\nmirror": f"{_first(row[f'{name}_mirror']):.1%}" for name in ("removes", "brings")}
    blind = {"blind": "" if row["blind"][0] is None else f"{_first(row['blind']):.1%}"}  # pyright: ignore
    em = {"EM\nleft": f"{row['em_left']:.0f}", "EM\nbrought": f"{row['em_brought']:.0f}"}
    return Row(part=row["part"]) | shares | blind | mirror | em | {"never\nread": f"{_first(row['control_rise']):+.3f}"}


def _mask(row: Row) -> Row:
    cells = Row(localizer=row["localizer"], share=f"{row['fraction']:g}")
    cells |= {name: shown(row[name], ".1%") for name in ("target", "random")}  # pyright: ignore[reportArgumentType]
    cells |= {"others": f"{_first(row['others']):.1%}", "all but": f"{_first(row['complement']):.1%}"}
    return cells | {"EM": f"{row['em_left']:.0f}", "never\nread": f"{_first(row['control_rise']):+.3f}"}


def _single(row: Row) -> Row:
    names = ("target", "random", "others", "own")
    return Row(localizer=row["localizer"]) | {one: shown(row[one], ".1%") for one in names}  # pyright: ignore[reportArgumentType]


def _ranked(row: Row) -> Row:
    partial = "?" if row["partial"] is None else f"{row['partial']:+.2f}"
    return Row(
        {
            "parts": f"{row['cut']} ({row['n_parts']})",
            "localizer": row["localizer"],
            "Spearman": shown(row["spearman"]),  # pyright: ignore[reportArgumentType]
            "p": "?" if row["p"] is None else f"{row['p']:.2g}",
            "at equal size": partial,
            "p ": "?" if row["p_partial"] is None else f"{row['p_partial']:.2g}",
            "first (rank)": f"{row['first']} ({row['rank_of_first']})",
        }
    )


def _read(row: Row) -> Row:
    cells = Row({"set": row["set"], "n": row["n"], "NLL difference": shown(row["mean"])})  # pyright: ignore[reportArgumentType]
    return cells | {"EM difference": f"{row['em']:+.1f}", "above": f"{row['above']:.0%}"}


def draw(path: Path | None, about: str, found: "Results") -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report import fork_plots as plots
    from memhooks.report.page import Section

    sections = [
        Section("Is there a hill between the forks?", [verdict(found)[0]], figures=[plots.plot_line(found["line"])]),
        Section("What does each part carry?", verdict(found)[1:6], figures=plots.plot_swaps(found["parts"])),
        Section("Do localizers point there?", verdict(found)[6:], figures=[plots.plot_agreement(found["curves"])]),
        Section("What is owed to having read it?", figures=[plots.plot_counterfactual(found["counterfactual"])]),
    ]
    write_page(path, "memhooks forks", about, sections)
