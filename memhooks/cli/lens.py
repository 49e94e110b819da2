"""`memhooks lens`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memhooks.cli.options import FIGURES, AnyRows, Control, Figure, Json, Memorized, Model, Out, Seed, Size, Threads
from memhooks.cli.sets import load_sets
from memhooks.cli.tables import Row, check_outputs, intervals, save_tree, shown, sources, write_page

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.paragraphs.paragraphs import Paragraphs

_N_WRITERS, _N_HEADS = 8, 5
Results = Mapping[str, "xr.Dataset"]


def lens(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    n: Size = 16,
    seed: Seed = 0,
    threads: Threads = 0,
    any_rows: AnyRows = False,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """From which layer on is each token decided, and by what?

    A logit lens ends the model early: final norm and unembedding read the residual stream after each block, as if
    no block followed. Where the true token's NLL falls, its prediction is being made. A token is decided at the
    depth from which on the model's final choice is on top at every later depth, too.

    The final logits are also split into what each head, MLP and bias adds to the true token directly, against
    the vocabulary's mean. A head that acts only through later ones writes nothing itself.

    The control is text that the model does not recite. Whatever looks the same there is how the model predicts any
    text, not how it recites.

    Examples:
    - `memhooks lens`
    - `memhooks lens --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --figure lens.html`
    """
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.localize.direct_effects import direct_effects
    from memhooks.localize.logit_lens import logit_lens

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    lenses = {name: logit_lens(loaded, rows) for name, rows in sets.items()}
    effects = {name: direct_effects(loaded, rows) for name, rows in sets.items()}
    about = sources(model, {"memorized": paragraphs, "control": control}, sets)
    kinds = {"lens": lenses, "direct_effects": effects}
    save_tree(out, {f"{name}/{kind}": result for kind, one in kinds.items() for name, result in one.items()})
    _draw(figure, about, lenses, effects)
    found = {
        "decided_after": {
            name: intervals(one["decided"].mean("pos"), sets[name], seed) for name, one in lenses.items()
        },
        "depths": _depths(lenses, sets, seed),
        **_writers(effects, sets, seed),
    }
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _print(about, found)


def _depths(lenses: Results, sets: "Mapping[str, Paragraphs]", seed: int) -> list[Row]:
    """By blocks run: NLL and share decided, as [mean, low, high] for each set."""
    from memhooks.localize.logit_lens import share_decided

    columns = {
        f"{what} {name}": intervals(values, sets[name], seed)
        for what, one in (("NLL", lambda result: result["nll"].mean("pos")), ("decided", share_decided))
        for name, values in ((name, one(result)) for name, result in lenses.items())
    }
    depths = lenses["memorized"]["layer"].values.tolist()
    return [{"blocks": depth} | {name: ends[depth] for name, ends in columns.items()} for depth in depths]


def _writers(effects: Results, sets: "Mapping[str, Paragraphs]", seed: int) -> dict[str, list[Row]]:
    """What writes most on memorized text, of all parts and of the heads, as [mean, low, high] for each set."""
    from memhooks.localize.direct_effects import by_part, strongest

    memorized = effects["memorized"]
    chosen = {
        "writers": [str(row["part"]) for row in strongest(memorized, n=_N_WRITERS)] + ["all parts"],
        "heads": [str(row["part"]) for row in strongest(memorized, n=_N_HEADS, among="heads")] + ["all heads"],
    }
    parts = {
        name: by_part(one) | {"all parts": one["total"].values, "all heads": one["heads"].sum(("layer", "head")).values}
        for name, one in effects.items()
    }
    return {
        kind: [
            Row(part=part) | {name: intervals(one[part], sets[name], seed) for name, one in parts.items()}
            for part in names
        ]
        for kind, names in chosen.items()
    }


def _print(about: str, found: "Mapping[str, Any]") -> None:
    from rich.box import SIMPLE_HEAD

    from memhooks.terminal import print_table, say

    say(f"{about}; means [95 % interval over paragraphs]")
    for name, ends in found["decided_after"].items():
        say(f"{name}: the final choice is decided after {shown(ends, '.2f')} blocks on average")
    titles = {
        "depths": "If the model ended after so many blocks (0 = embeddings alone)",
        "writers": "Strongest writers: logits added to the true token",
        "heads": "Strongest heads among the writers",
    }
    for table, title in titles.items():
        print_table(title, [_printable(row, table) for row in found[table]], box=SIMPLE_HEAD)


def _printable(row: Row, table: str) -> Row:
    return {
        key: value if not isinstance(value, list) else shown(value, _form(key, table)) for key, value in row.items()
    }


def _form(column: str, table: str) -> str:
    if column.startswith("decided"):
        return ".0%"
    return ".2f" if table == "depths" else "+.2f"


def _draw(path: Path | None, about: str, lenses: Results, effects: Results) -> None:
    if path is None:
        return
    from memhooks.report.lens_plots import plot_direct_effects, plot_logit_lens
    from memhooks.report.page import Section

    decided = (
        "Final norm and unembedding read the residual stream after each block, as if none followed. A token is "
        "decided from the depth on at which the model's final choice is on top and stays there. Bands: 95 % intervals "
        "over paragraphs."
    )
    written = (
        "What each head and MLP adds, past all later blocks, to the true token's logit against the vocabulary's mean. "
        "What looks the same in the control is how the model predicts any text. Means over paragraphs."
    )
    sections = [
        Section("From which layer on is the token decided?", [decided], figures=[plot_logit_lens(lenses)]),
        Section("Which parts write it?", [written], figures=[plot_direct_effects(effects)]),
    ]
    write_page(path, "memhooks lens", about, sections)
