"""What `memhooks forks` shows: its verdict, tables in 90 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.tables import Row, plain, rows_of, shown, write_page

if TYPE_CHECKING:
    import xarray as xr

    Results = Mapping[str, xr.Dataset]

_SHOWN = {"layer": 8, "attention": 2, "mlp": 2, "head": 3, "matrix": 3, "kind": 7, "rest": 3, "all": 1}
"""How many parts of each kind the table shows, those that remove most."""


def tables(found: "Results") -> dict[str, Any]:
    """All results as JSON has them."""
    made: dict[str, Any] = {"verdict": verdict(found), "interpretable": bool(found["line"].attrs["interpretable"])}
    made["barrier"] = plain([float(found["line"][f"barrier{end}"]) for end in ("", "_low", "_high")])
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
    made["threshold"] = plain([float(found["counterfactual"]["threshold"])])[0]
    made["n_null"] = int(found["counterfactual"]["n_null"])
    return made


def _by_row(result: "xr.Dataset") -> "xr.Dataset":
    return result[[str(name) for name in result if result[name].dims == ("row",)]]


def verdict(found: "Results") -> list[str]:
    """All sentences: the line, the parts, every localizer."""
    return [one for said in _said(found) for one in said]


def _said(found: "Results") -> tuple[list[str], list[str], list[str]]:
    """What the line, the parts and the localizers say; parts and localizers nothing where the line is not smooth."""
    from memhooks.truth.forks.verdict import localizer_verdict, parts_verdict

    about, curves = found["line"].attrs, found["curves"]
    gate = {"interpretable": bool(about["interpretable"]), "tolerance": float(about["tolerance"])}
    parts = parts_verdict(found["parts"], **gate)
    named = localizer_verdict(curves, found["agreement"], fraction=_middle(curves), **gate)
    return [str(about["verdict"])], parts, named


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
    say(
        "losses: Spearman with what a part removes (sensitivity), gains: with what it brings (storage); size out: size "
        "taken out. p: one-sided, parts permuted within kinds, largest of all localizers."
    )
    print_table(
        "Counterfactual memorization, nats per token, by readings",
        [_read(row) for row in made["counterfactual"]],
        box=SIMPLE_HEAD,
    )
    say(_above(made["threshold"], made["n_null"]))
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
    cut = {"attention and MLP": "blocks"}.get(str(row["cut"]), row["cut"])
    cells = Row({"parts": f"{cut} ({row['n_parts']})", "localizer": row["localizer"]})
    for words, suffix in (("losses", ""), ("gains", "_brings")):
        cells[words] = "?" if row[f"spearman{suffix}"][0] is None else f"{_first(row[f'spearman{suffix}']):+.2f}"  # pyright: ignore
        cells[f"{words}\nsize out"] = shown(row[f"partial{suffix}"])  # pyright: ignore[reportArgumentType]
        cells[f"p\n{words}"] = "?" if row[f"p_partial{suffix}"] is None else f"{row[f'p_partial{suffix}']:.2g}"
    return cells


def _above(threshold: float | None, n: int) -> str:
    if threshold is None:
        return f"above: not told, for that takes 39 never-read paragraphs (no near-duplicates), here {n}."
    return f"above: share above {threshold:+.2f}, the 97.5 % conformal threshold of never-read text; one model a side."


def _read(row: Row) -> Row:
    cells = Row({"set": row["set"], "n": row["n"], "NLL difference": shown(row["mean"])})  # pyright: ignore[reportArgumentType]
    return cells | {
        "EM difference": f"{row['em']:+.1f}",
        "above": "" if row["above"] is None else f"{row['above']:.0%}",
    }


def draw(path: Path | None, about: str, found: "Results") -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report import fork_plots as plots
    from memhooks.report.page import Section

    line, parts, named = _said(found)
    sections = [
        Section("Is there a hill between the forks?", line, figures=[plots.plot_line(found["line"])]),
        Section("What does each part carry?", parts, figures=plots.plot_swaps(found["parts"])),
        Section("Do localizers point there?", named, figures=[plots.plot_agreement(found["curves"])]),
        Section("What is owed to having read it?", figures=[plots.plot_counterfactual(found["counterfactual"])]),
    ]
    write_page(path, "memhooks forks", about, sections)
