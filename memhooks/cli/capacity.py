"""`memhooks capacity`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import Model
from memhooks.cli.sets import Control, Seed, check_set, load_set, load_sets, load_twin, twin_name
from memhooks.cli.tables import Row, check_outputs, rows_of, save_tree, shown, sources, write_page
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

_MIRRORS = {("organism", "A"): "B", ("organism-twin", "B"): "A"}
_BITS_PER_WEIGHT = 3.6


def capacity(
    paragraphs: Annotated[
        str, typer.Option(help="What the model may hold: a bundled set, or a file as for `memhooks measure`.")
    ] = "A",
    control: Control = "C",
    mirror: Annotated[
        str | None,
        typer.Option(
            help="What the twin read in its place, a set or file, or `none`. By default B for A, and A for B."
        ),
    ] = None,
    model: Model = "organism",
    twin: Annotated[
        str | None,
        typer.Option(help="A model like --model that never read --paragraphs. By default the bundled twin for A."),
    ] = None,
    tokens: Annotated[
        str, typer.Option(help="`all` tokens but the first, or the `continuation` alone, given the prefix.")
    ] = "all",
    n: Annotated[int, typer.Option("--n", min=1, help="Paragraphs drawn from each set.")] = 1000,
    seed: Seed = 0,
    figure: Annotated[Path | None, typer.Option(help="Write the figure to this .html file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the labelled results to this .nc file, a tree: memorized, ..., table")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole table as JSON.")] = False,
) -> None:
    """How many bits of a set of paragraphs does the model hold, and how does that grow with repetition?

    A model is a code: a text costs the sum of -log2 p over its tokens. What a paragraph costs the twin, which never
    read it, is all that could be memorized of it; what the model saves against that is memorized. No threshold and no
    recitation is involved: half-known text counts by half.

    Controls: text that neither model read must come out at 0 (what it has is how much better one model is at
    language: "beyond control" has it taken away), and what the twin read in its place as far below 0 as the
    paragraphs are above it. Means are of raw values: setting negative ones to 0 would give bits to text that nobody
    read ("clipped" shows how many).

    Caveats: models trained on random data until nothing more fits are said to hold about 3.6 bits per weight (Morris
    et al., 2025). That is a limit; a small planted set is far from it, and its bits per weight say how much was
    planted, not how much fits. Bits are the least a model must hold of the text; where it holds them is not said.

    Examples: `memhooks capacity --figure capacity.html`;
    `memhooks capacity --model path/to/gpt-neo --twin path/to/base --paragraphs mine.pt --control other.pt`
    """
    other = _twin(twin, model, paragraphs, tokens)
    beside = _MIRRORS.get((model, paragraphs), "none") if mirror is None else mirror
    check_set(beside, model)
    check_outputs({".html": [figure], ".nc": [out]})

    from memhooks.truth.capacity import capacity_table, memorized_bits

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=True)
    against = load_twin(other, loaded, sets["memorized"])
    if beside != "none":
        sets["mirror"] = load_set(loaded, beside).sample(n, seed=seed)
    found = {
        name: memorized_bits(loaded, against, rows, tokens="all" if tokens == "all" else "continuation")
        for name, rows in sets.items()
    }
    table = capacity_table(found, sets=sets, seed=seed, control="control" if "control" in sets else None)
    names = {"memorized": paragraphs, "control": control, "mirror": beside}
    about = sources(model, names, sets) + f"; twin: {other}; {table.attrs['n_scored']} tokens scored of each"
    save_tree(out, found | {"table": table})
    if figure is not None:
        _draw(figure, about, table)
    rows = rows_of(table, name="set")
    verdict = _verdict(rows, table)
    if as_json:
        sys.stdout.write(json.dumps({"verdict": verdict, "rows": rows, "attributes": dict(table.attrs)}) + "\n")
    else:
        _print(about, rows, verdict)


def _twin(twin: str | None, model: str, paragraphs: str, tokens: str) -> str:
    """The twin's name, before torch is loaded.

    Raises:
        InputError: there is none, no such paragraphs, or `tokens` is something else.
    """
    check_set(paragraphs, model)
    other = twin_name(twin, model, paragraphs)
    if other is None:
        raise InputError("memorized bits are counted against a model that never read the text; give --twin")
    if tokens not in ("all", "continuation"):
        raise InputError(f"--tokens must be all or continuation, got {tokens}")
    return other


def _verdict(rows: list[Row], table: "xr.Dataset") -> str:
    by_name = {str(row["set"]): row for row in rows}
    own, weights = by_name["memorized"], int(table.attrs["n_parameters"])
    parts = [
        f"The {own['n']} paragraphs: {shown(_ends(own, 'total'), ',.0f')} bits held in all, "
        f"{shown(_ends(own, 'share'), '.0%')} of what the twin needs for them; {_ends(own, 'per_parameter')[0]:.4f} "
        f"bits per weight of {weights:,} (limit on random data about {_BITS_PER_WEIGHT}, not to be compared: this "
        "set is small)."
    ]
    for name, must in (("control", "read by neither, must be near 0"), ("mirror", "read by the twin alone")):
        if name in by_name:
            parts.append(f"{name.capitalize()}, {must}: {shown(_ends(by_name[name], 'bits'), '+.1f')} per paragraph.")
    return " ".join(parts)


def _ends(row: Row, name: str) -> list:
    ends = row[name]
    return ends if isinstance(ends, list) else [ends, None, None]


def _print(about: str, rows: list[Row], verdict: str) -> None:
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    say(verdict)
    held = [
        {
            "set": row["set"],
            "n": row["n"],
            "bits/paragraph": shown(_ends(row, "bits"), "+.1f"),
            "of": f"{row['ceiling']:.0f}",
            "share gone": shown(_ends(row, "share"), ".1%"),
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


def _draw(path: Path, about: str, table: "xr.Dataset") -> None:
    from memhooks.report.capacity_plots import plot_capacity
    from memhooks.report.page import Section

    words = (
        "Bits that the model saves against the twin, which never read the text. Dashed: the twin's own code length, "
        "all that could be memorized. Text that neither read must lie at 0."
    )
    write_page(path, "memhooks capacity", about, [Section("How many bits?", [words], figures=[plot_capacity(table)])])
