"""What the command line prints: tables in which corpus text is text, never markup."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import HEAVY_HEAD, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from memhooks.inspection import Inspection


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which ends quietly.

        Raises:
            BrokenPipeError: always; a reader like `head` has read enough.
        """
        raise BrokenPipeError


console = _Console()


def say(line: str) -> None:
    """Print one line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, rows: Sequence[Mapping[str, object]], *, box: Box = HEAVY_HEAD) -> None:
    """Print rows of equal keys as a table; long ones read better in a `SIMPLE` box."""
    table = Table(
        title=Text(title), title_justify="left", box=box, padding=(0, 1) if box is HEAVY_HEAD else (0, 1, 0, 0)
    )
    for number, name in enumerate(rows[0]):
        table.add_column(Text(name), overflow="fold", no_wrap=number == 0 and box is not HEAVY_HEAD)
    for row in rows:
        cells = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values())
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)


def printable(text: str) -> str:
    """The text without control characters, which could steer the terminal; line breaks and tabs stay."""
    return "".join(one if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cf") else "\ufffd" for one in text)


def print_inspection(found: "Inspection") -> None:
    """Print one paragraph's recitation, heads and tokens."""
    n_continuation = len(found.tokens) - found.n_prefix
    nll = found.recited["nll"].values[0][-n_continuation:]
    em = int(found.recited["exact_match"][0])
    say(f"exact match {em} of {n_continuation}; NLL of the continuation {nll.mean():.2f} nats per token")
    prefix = printable("".join(found.tokens[: found.n_prefix]))
    console.print(Text(prefix, style="dim"), Text(printable(found.continuation)), sep="")
    heads = [{"head": head, "NLL rise, nats": f"{rise:+.3f}"} for head, rise in found.heads]
    print_table("Heads whose silencing hurts most", heads)
    tokens = [
        {"position": pos, "token": repr(t), "NLL rise, nats": f"{rise:+.3f}"} for pos, t, rise in found.prefix_tokens
    ]
    print_table("Prefix tokens whose replacement hurts most", tokens)
    hardest = [
        {
            "position": int(pos) + found.n_prefix,
            "token": repr(found.tokens[int(pos) + found.n_prefix]),
            "NLL, nats": float(nll[pos]),
        }
        for pos in nll.argsort()[::-1][:5]
    ]
    print_table("Most surprising continuation tokens", hardest)
