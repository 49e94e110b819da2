"""What `memhooks perturb` shows: its tables in 80 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memhooks.cli.perturb_found import OWN, Results
from memhooks.cli.tables import Row, shown, write_page

_FORMS = {"mean drop": "+.3f", "positions": ".1f", "share": ".0%"}  # of the statistics that are no correlations
_SHORT = {  # the order in which correlations are printed
    "Spearman of drop with position": "position",
    "Spearman of drop with position, token count partialled out": "  given count",
    "Spearman of drop with token count": "token count",
    "the same, position partialled out": "  given position",
    "mean drop per replaced token": "mean drop, nats per token",
    "positions that hold half of the drop": "positions with half of it",
    "share of the drop held by the 5 worst positions": "share of the 5 worst",
}


def print_tables(about: str, found: Mapping[str, Any], *, counted: bool) -> None:
    """Print the tables, and what is left out without corpus counts."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    if "cumulative" in found:
        n = len(found["cumulative"])
        some = [row for row in found["cumulative"] if row["replaced"] in (1, 2, 5, n) or row["replaced"] % 10 == 0]
        print_table(
            "NLL rise by number of tokens replaced from the start",
            [_printable(row) for row in some],
            box=SIMPLE_HEAD,
        )
        return
    print_table(
        "Rank correlation of the drop (NLL rise of one replaced token) with ...",
        _correlations(found["statistics"]),
        box=SIMPLE_HEAD,
    )
    if not counted:
        say("Without corpus counts of this model, correlations with token count are left out; see --counts.")
    spread = [_spread(row) for row in found["statistics"] if row["statistic"].startswith(tuple(_FORMS))]
    print_table("How large the drop is, and over how many tokens it is spread", spread, box=SIMPLE_HEAD)
    print_table(
        "NLL rise (nats per token) by replaced position, worst first",
        [_printable(row) for row in found["positions"]],
        box=SIMPLE_HEAD,
    )
    print_table(
        "Memorized paragraphs that lose most from one token",
        [row | {name: repr(row[name]) for name in ("token", "replaced by")} for row in found["worst"]],
        box=SIMPLE_HEAD,
    )
    if "decoded" in found:
        rows = [
            {key.replace(OWN, "control, own words"): _cell(value, ".0%") for key, value in row.items()}
            for row in found["decoded"]
        ]
        print_table("What the model writes after each paragraph's worst replacement", rows, box=SIMPLE_HEAD)


def _cell(value: object, form: str) -> object:
    return shown(value, form) if isinstance(value, list) else value


def _printable(row: Row) -> Row:
    return {key: f"{value:+.3f}" if isinstance(value, float) else _cell(value, "+.3f") for key, value in row.items()}


def _correlations(rows: Sequence[Row]) -> list[Row]:
    """The correlations, in few words and with p behind each."""
    by_name = {str(row["statistic"]): row for row in rows}
    lines = []
    for name in (name for name in _SHORT if name in by_name and not name.startswith(tuple(_FORMS))):
        line, row = Row({"": _SHORT[name]}), by_name[name]
        for condition in (one for one in ("memorized", "control") if one in row):
            p = row[f"p {condition}"]
            line[condition] = f"{_cell(row[condition], '+.2f')}{'' if p is None else f' p={p:.2g}'}"
        lines.append(line)
    return lines


def _spread(row: Row) -> Row:
    """The row of a statistic that is no correlation, in few words."""
    name, chance = str(row["statistic"]), row["by chance"]
    form = next(form for start, form in _FORMS.items() if name.startswith(start))
    line: Row = {"": _SHORT.get(name, name)}
    line |= {condition: _cell(row[condition], form) for condition in ("memorized", "control") if condition in row}
    return line | {"if all alike": f"{chance:{form}}" if isinstance(chance, float) else ""}


def draw(path: Path | None, about: str, profiles: Results, rarity: Results, *, cumulative: bool) -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.page import Section
    from memhooks.report.perturbation_plots import plot_position_profile, plot_rarity

    rise = (
        "By how much the continuation's NLL rises, with 95 % intervals over paragraphs (bands). The control is text "
        "that the model does not recite: what looks the same there is how the model predicts any text. "
    )
    shuffled = "Dotted lines: where 95 % of means lie if the drops within each paragraph are put in random order."
    by_position = plot_position_profile(profiles)
    if cumulative:
        by_position.update_layout(title="Replacing all prefix tokens up to a position")
        by_position.update_xaxes(title_text="last replaced prefix position")
    heading = "How many tokens must go?" if cumulative else "Which positions carry the continuation?"
    sections = [Section(heading, [rise if cumulative else rise + shuffled], figures=[by_position])]
    if rarity:
        words = "Tokens of each prefix, sorted by how often they occur in the corpus. " + shuffled
        sections.append(Section("Do rare tokens carry more?", [words], figures=[plot_rarity(rarity)]))
    write_page(path, "memhooks perturb", about, sections)
