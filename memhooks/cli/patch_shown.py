"""What `memhooks patch` shows: its tables in 80 columns, and its page of figures."""

# Heavy imports stay inside the functions, as in the commands.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.patch_found import HEAD_SITES, Setting
from memhooks.cli.tables import Row, shown, write_page

if TYPE_CHECKING:
    import xarray as xr

_N_CELLS = 5  # printed per site


def print_tables(about: str, found: Mapping[str, Any], setting: Setting) -> None:
    """Print each set's damage, and the cells of every site that matter most to memorized text."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    for row in found["damage"]:
        dropped = f"; {row['unchanged']} dropped, as nothing they say changes" if row["unchanged"] else ""
        say(
            f"{spelt(row['set'])}: NLL per token {shown(row['NLL clean'], '.2f')} after the own prefix, "
            f"{shown(row['NLL perturbed'], '.2f')} after the perturbed one{dropped}"
        )
    done = "undone" if setting.direction == "denoising" else "done"
    what = "the fall of the logit difference at the impact token" if setting.impact else "the rise in NLL"
    say(f"Share of the damage ({what}) {done} by patching one cell, largest for memorized text first:")
    for site in setting.sites:
        cells = [cell for cell in found["cells"] if cell["site"] == site]
        rows = [_printable(cell) for cell in cells[:_N_CELLS]]
        print_table(f"{site}: share of the damage {done}", rows, box=SIMPLE_HEAD)
    if "resid_pre" in setting.sites and setting.at == "perturbed":
        say("resid_pre of layer 0 is the replaced token itself: all of the damage by construction.")


def spelt(name: str) -> str:
    """The name of a set as it is printed."""
    return "control, own words" if name == "control_own" else name


def _printable(cell: Row) -> Row:
    place = f"L{cell['layer']}" + (f"H{cell['head']}" if "head" in cell else "")
    where = f", position {cell['pos']}" if "pos" in cell else ""
    return Row(cell=place + where) | {
        spelt(name): shown(ends, "+.1%") for name, ends in cell.items() if isinstance(ends, Sequence) and name != "site"
    }


def draw(path: Path | None, about: str, results: "Mapping[str, xr.Dataset]", setting: Setting) -> None:
    """Write the page, if there is a path."""
    if path is None:
        return
    from memhooks.report.intervention_plots import (
        plot_early_prefix,
        plot_patch_heads,
        plot_patch_layers,
        plot_patch_map,
    )
    from memhooks.report.page import Section

    how = (
        "One activation of the clean run is put into the perturbed run: what is undone shows what it was enough for."
        if setting.direction == "denoising"
        else "One activation of the perturbed run is put into the clean run: what is done shows what it was needed for."
    )
    scored = (
        "Damage is the logit difference at the impact token, the first that the replacement changes."
        if setting.impact
        else "Damage is the rise of the continuation's NLL."
    )
    text = [f"{how} {scored} Each set's effect is a share of its own mean damage: 0 = none, 1 = all of it."]
    variable = setting.variable
    if setting.at == "prefix":
        figures = [plot_patch_map(results, variable=variable)]
        figures += [plot_early_prefix(results, site=site, variable=variable) for site in setting.sites]
    elif setting.sites[0] in HEAD_SITES:
        figures = [plot_patch_heads(results, variable=variable)]
    else:
        figures = [plot_patch_layers(results, variable=variable)]
    title = "Which layers and heads carry the information from the replaced token?"
    write_page(path, "memhooks patch", about, [Section(title, text, figures=figures)])
