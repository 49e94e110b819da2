"""What `memhooks ablate` shows: its tables in 80 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.ablate_found import Found, Sets
from memhooks.cli.tables import shown, write_page

if TYPE_CHECKING:
    from memhooks.paragraphs.paragraphs import Paragraphs

_N_PARTS = 10  # printed


def print_tables(
    about: str, tables: Mapping[str, Any], sets: Sets, halves: "tuple[Paragraphs, Paragraphs] | None"
) -> None:
    """Print what each part is worth, what speaks for recitation, and the heads ablated together."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; NLL rise in nats per token, means [95 % interval over paragraphs]")
    controls = [name for name in sets if name != "memorized"]
    for kind, rows in tables["parts"].items():
        worth = [
            {"part": row["part"]} | {name: shown(row[name]) for name in ("memorized", *controls)}
            for row in rows[:_N_PARTS]
        ]
        print_table(f"{kind}: NLL rise without it", worth, box=SIMPLE_HEAD)
        first = f"more_than_{controls[0]}"
        more = sorted(rows, key=lambda row, first=first: -row[first][0])[: _N_PARTS // 2]
        differences = [
            {"part": row["part"]}
            | {
                f"minus {name}": f"{shown(row[f'more_than_{name}'])} p={row[f'p_more_than_{name}']:.2g}"
                for name in controls
            }
            for row in more
        ]
        print_table(f"{kind}: memorized minus control (p: largest of {len(rows)} {kind})", differences, box=SIMPLE_HEAD)
    if halves is None:
        return
    say(
        f"Heads ablated together: chosen on {len(halves[0])} memorized paragraphs, judged on the other "
        f"{len(halves[1])}; in brackets as many random heads. Means:"
    )
    for short, form, title in (
        ("em", ".1f", "EM, tokens before the first miss"),
        ("nll", ".2f", "NLL, nats per token"),
    ):
        together = [
            {"heads": row["heads"], "added": row["added"]}
            | {name: f"{row[f'{name}_{short}']:{form}} ({row[f'{name}_{short}_random']:{form}})" for name in sets}
            for row in tables["cumulative"]
        ]
        print_table(title, together, box=SIMPLE_HEAD)


def draw(path: Path | None, about: str, found: Found) -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.intervention_plots import plot_ablation, plot_cumulative, plot_specificity
    from memhooks.report.page import Section

    worth = (
        "Each part alone is taken out of action; its worth is by how much the continuation's NLL rises. Only what "
        "memorized text loses and the controls do not speaks for recitation. Bars: 95 % intervals over paragraphs."
    )
    judged = (
        "The order was chosen on one half of the memorized paragraphs; here is the other half. EM counts the tokens "
        "before the first miss. Dashed: as many random heads."
    )
    sections = []
    for kind, table in found.compared.items():
        figures = [plot_specificity(table)]
        if kind == "heads":
            figures.append(plot_ablation(found.results[kind]))
        sections.append(Section(f"Which {kind} does recitation need, and only recitation?", [worth], figures=figures))
    if found.cumulative is not None:
        sections.append(Section("How many heads must go?", [judged], figures=[plot_cumulative(found.cumulative)]))
    write_page(path, "memhooks ablate", about, sections)
