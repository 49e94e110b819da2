"""What `memhooks capacity` shows: its verdict, tables and figure."""

# Heavy imports stay inside the functions, as in the commands.
from pathlib import Path
from typing import TYPE_CHECKING

from memhooks.cli.tables import Row, shown, write_page

if TYPE_CHECKING:
    import xarray as xr

_BITS_PER_WEIGHT = 3.6


def verdict(rows: list[Row], table: "xr.Dataset") -> str:
    """Bits beyond the control first; without one, that they are not corrected."""
    by_name = {str(row["set"]): row for row in rows}
    own, weights = by_name["memorized"], int(table.attrs["n_parameters"])
    n, limit = int(table["n"].sel(row="memorized")), f"limit on random data about {_BITS_PER_WEIGHT}"
    share = f"{shown(_ends(own, 'share'), '.0%')} of what the twin needs for them"
    if "control" in by_name:
        above = _ends(own, "above_control")
        total = [None if one is None else one * n for one in above]
        weight = "?" if total[0] is None else f"{total[0] / weights:.4f}"
        parts = [
            f"The {n} paragraphs: {shown(above, '+.1f')} bits each beyond the control, {shown(total, ',.0f')} in all; "
            f"{weight} bits per weight of {weights:,} ({limit}, not to be compared: this set is small). With what the "
            f"control has left in: {shown(_ends(own, 'total'), ',.0f')}, {share}."
        ]
    else:
        parts = [
            f"The {n} paragraphs, without a control, so that what the model is better at language counts as held, too: "
            f"{shown(_ends(own, 'total'), ',.0f')} bits in all, {share}; {_ends(own, 'per_parameter')[0]:.4f} bits per "
            f"weight of {weights:,} ({limit}, not to be compared: this set is small)."
        ]
    for name, must in (("control", "read by neither, must be near 0"), ("mirror", "read by the twin alone")):
        if name in by_name:
            parts.append(f"{name.capitalize()}, {must}: {shown(_ends(by_name[name], 'bits'), '+.1f')} per paragraph.")
    return " ".join(parts)


def _ends(row: Row, name: str) -> list:
    ends = row[name]
    return ends if isinstance(ends, list) else [ends, None, None]


def print_rows(about: str, rows: list[Row], words: str) -> None:
    """Print the verdict and two tables."""
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    say(words)
    held = [
        {
            "set": row["set"],
            "n": row["n"],
            "bits/paragraph": shown(_ends(row, "bits"), "+.1f"),
            "of": f"{row['ceiling']:.0f}",
            # The twin knows the mirror by heart: what it needs for it is next to nothing, and no measure of a share.
            "share gone": "-" if row["set"] == "mirror" else shown(_ends(row, "share"), ".1%"),
            "bits/token": shown(_ends(row, "bits_per_token"), "+.2f"),
        }
        for row in rows
    ]
    print_table("Bits held beyond the twin; of: the twin's code length", held, box=SIMPLE_HEAD)
    more = [
        {
            "set": row["set"],
            "beyond control": shown(_ends(row, "above_control"), "+.1f"),
            "p": "?" if row["p_control"] is None else f"{row['p_control']:.2g}",
            "per doubling of k": shown(_ends(row, "growth"), "+.1f"),
            "total": f"{_ends(row, 'total')[0]:,.0f}",
            "clipped": f"{_ends(row, 'clipped')[0]:.1f}",
        }
        for row in rows
    ]
    print_table("Beyond the control, growth (bits per paragraph), and total bits", more, box=SIMPLE_HEAD)
    say("clipped: the mean with negative paragraphs set to 0; that it is above 0 for the control is its bias.")


def draw(path: Path, about: str, table: "xr.Dataset") -> None:
    """Write the page of the figure."""
    from memhooks.report.capacity_plots import plot_capacity
    from memhooks.report.page import Section

    words = (
        "Bits that the model saves against the twin, which never read the text. Dashed: the twin's own code length, "
        "all that could be memorized. Text that neither read must lie at 0."
    )
    write_page(path, "memhooks capacity", about, [Section("How many bits?", [words], figures=[plot_capacity(table)])])
