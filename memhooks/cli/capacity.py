"""`memhooks capacity`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from typing import Annotated

import typer

from memhooks.cli.options import FIGURES, Control, Figure, Json, Model, Out, Seed, Threads
from memhooks.cli.sets import check_set, cut, load_set, load_sets, load_twin, twin_name
from memhooks.cli.tables import check_outputs, rows_of, save_tree, sources
from memhooks.errors import InputError

_MIRRORS = {("organism", "A"): "B", ("organism-twin", "B"): "A"}


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
    threads: Threads = 0,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """How many bits of a text does the model hold?

    Counted for a set of paragraphs, and by how often each was read.

    A model is a code: a text costs the sum of -log2 p over its tokens. What a paragraph costs the twin, which never
    read it, is all that could be memorized of it; what the model saves against that is memorized. No threshold and no
    recitation is involved: half-known text counts by half.

    Controls: text that neither model read must come out at 0 (what it has is how much better one model is at
    language: "beyond control" has it taken away, and the verdict begins with that; p of levels are times their
    number), and what the twin read in its place as far below 0 as the paragraphs are above it. Means are of raw values:
    setting negative ones to 0 would give bits to text that nobody read ("clipped" shows how many).

    Caveats: models trained on random data until nothing more fits are said to hold about 3.6 bits per weight (Morris
    et al., 2025). That is a limit; a small planted set is far from it, and its bits per weight say how much was
    planted, not how much fits. Bits are the least a model must hold of the text; where it holds them is not said.

    Examples:
    - `memhooks capacity --figure capacity.html`
    - `memhooks capacity --model path/to/gpt-neo --twin path/to/base --paragraphs mine.pt --control other.pt`
    """
    other = _twin(twin, model, paragraphs, tokens)
    beside = _MIRRORS.get((model, paragraphs), "none") if mirror is None else mirror
    check_set(beside, model)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.cli.capacity_shown import draw, print_rows, verdict
    from memhooks.truth.capacity import capacity_table, memorized_bits

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=True)
    against = load_twin(other, loaded, sets["memorized"])
    if beside != "none":
        sets["mirror"] = cut(load_set(loaded, beside), sets["memorized"], beside).sample(n, seed=seed)
    found = {
        name: memorized_bits(loaded, against, rows, tokens="all" if tokens == "all" else "continuation")
        for name, rows in sets.items()
    }
    table = capacity_table(found, sets=sets, seed=seed, control="control" if "control" in sets else None)
    names = {"memorized": paragraphs, "control": control, "mirror": beside}
    about = sources(model, names, sets) + f"; twin: {other}; {table.attrs['n_scored']} tokens scored of each"
    save_tree(out, found | {"table": table})
    if figure is not None:
        draw(figure, about, table)
    rows = rows_of(table, name="set")
    words = verdict(rows, table)
    if as_json:
        sys.stdout.write(json.dumps({"verdict": words, "rows": rows, "attributes": dict(table.attrs)}) + "\n")
    else:
        print_rows(about, rows, words)


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
