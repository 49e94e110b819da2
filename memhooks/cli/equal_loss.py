"""`memhooks equal-loss`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memhooks.cli.options import FIGURES, Figure, Json, Model, Out, Seed, Size, Threads, Twin
from memhooks.cli.sets import check_set, load_set, load_twin, twin_name
from memhooks.cli.tables import check_outputs, rows_of, save_tree, shown, write_page
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.paragraphs.paragraphs import Paragraphs


_READ = {("organism", "A"), ("organism-twin", "B")}


def equal_loss(
    paragraphs: Annotated[
        str,
        typer.Option(
            help="Text that the model read seldom enough to be unsure of it: a bundled set or a file as for `measure`."
        ),
    ] = "A",
    times: Annotated[
        int | None,
        typer.Option(min=1, help="Only paragraphs read exactly so often (bundled sets and files with counts)."),
    ] = None,
    control: Annotated[str, typer.Option(help="Text that it never read, the same; the more, the nearer.")] = "C",
    model: Model = "organism",
    twin: Twin = None,
    n: Size = 24,
    seed: Seed = 0,
    threads: Threads = 0,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """At equal loss, does read text differ from unread text?

    Is it harder to corrupt and to unlearn, and do its gradients lie lower in the network?

    Recited text is nearly certain, never-read text is not: to compare them is to compare losses. Here the model
    continues prefixes that it read a few times and prefixes that it never read, so that it recites both in full, and
    pairs of equal loss are formed. Both sides have every prefix token replaced, are pushed away by gradient ascent on
    the 0.1 % of weights with their largest gradient, and have the layers of their gradients compared.

    p holds each row against the largest of all rows when the sides of pairs are swapped at random; `effect` is the
    difference in standard deviations. "Beyond twin" is the difference less that under a twin that read none of the
    prefixes, with the interval of this row alone. Of what is said after a read prefix only a part is remembered;
    "with remembered" is the rank correlation of a pair's difference with that share. Matching takes the least
    remembered of the read text and the most certain of the other: it may hide a difference as well as show one.

    Examples:
    - `memhooks equal-loss`
    - `memhooks equal-loss --times 4 --figure equal_loss.html`
    """
    for name in (paragraphs, control):
        check_set(name, model)
    other = twin_name(twin, model, paragraphs)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.model.loading import load_model
    from memhooks.truth.equal_loss import against_twin
    from memhooks.truth.equal_loss import equal_loss as compared
    from memhooks.truth.equal_loss_pairs import equal_loss_pairs

    loaded = load_model(model)
    asked = 8 if times is None and (model, paragraphs) in _READ else times
    read, unread = _of(load_set(loaded, paragraphs), asked, paragraphs), load_set(loaded, control)
    models = {"memorized": loaded}
    if other is not None:
        models["twin"] = load_twin(other, loaded, read)
    found = {
        name: compared(each, equal_loss_pairs(each, read, unread, n=n, seed=seed), seed=seed)
        for name, each in models.items()
    }
    beyond = against_twin(found["memorized"], found["twin"], seed=seed) if "twin" in found else None
    save_tree(out, found | ({} if beyond is None else {"beyond_twin": beyond}))
    about = f"{model}; {paragraphs}" + (f", read {asked} times" if asked else "") + f"; never read: {control}"
    _draw(figure, about, found, beyond)
    if as_json:
        more = {} if beyond is None else {"beyond_twin": rows_of(beyond, name="measure")}
        sys.stdout.write(json.dumps({name: _plain(one) for name, one in found.items()} | more) + "\n")
    else:
        _print(about, found, beyond)


def _of(rows: "Paragraphs", times: int | None, name: str) -> "Paragraphs":
    """The paragraphs that were read so often.

    Raises:
        InputError: the set has no counts, or none was.
    """
    if times is None:
        return rows
    if rows.counts is None:
        raise InputError(f"{name} has no counts, so that --times cannot choose; leave it out")
    chosen = [one == times for one in rows.counts]
    if not any(chosen):
        there = ", ".join(str(one) for one in sorted(set(rows.counts)))
        raise InputError(f"no paragraph of {name} was read {times} times; there are {there}")
    return rows.select(chosen)


def _plain(one: "xr.Dataset") -> dict[str, Any]:
    """The table of one model, and what its pairs are."""
    return {
        "pairs": one.sizes["paragraph"],
        "loss": [float(one[f"loss_{side}"].mean()) for side in ("read", "unread")],
        "remembered": float(one["remembered"].mean()),
        "rows": _rows(one),
    }


def _rows(one: "xr.Dataset") -> list[dict[str, Any]]:
    return rows_of(one.drop_dims("paragraph"), name="measure")


def _print(about: str, found: "Mapping[str, xr.Dataset]", beyond: "xr.Dataset | None") -> None:
    from memhooks.terminal import print_table, say

    for name, one in found.items():
        plain, who = _plain(one), "the model" if name == "memorized" else "the twin"
        loss = plain["loss"]
        say(
            f"Under {who}: {plain['pairs']} pairs, NLL {loss[0]:.2f} and {loss[1]:.2f}, "
            f"remembered {plain['remembered']:.0%} of the tokens"
        )
        lines = [
            {
                "measure": row["measure"],
                "read": f"{row['read'][0]:.3f}",
                "unread": f"{row['unread'][0]:.3f}",
                "difference": shown(row["difference"], "+.3f"),
                "effect": f"{row['effect'][0]:+.2f}",
                "p": f"{row['p']:.4f}",
                "with remembered": shown(row["with_remembered"]),
            }
            for row in _rows(one)
        ]
        print_table(about, lines)
    if beyond is not None:
        rows = rows_of(beyond, name="measure")
        lines = [{"measure": row["measure"], "difference beyond twin": _shown(row["more"])} for row in rows]
        print_table("The model's difference less the twin's", lines)
    say(verdict(found, beyond))


def _shown(ends: Any) -> str:  # noqa: ANN401 - a cell of rows_of
    return shown(ends, "+.3f")


def verdict(found: "Mapping[str, xr.Dataset]", beyond: "xr.Dataset | None") -> str:
    """Which measures differ at equal loss, and which of them more than under the twin."""
    own = [row["measure"] for row in _rows(found["memorized"]) if row["p"] <= 0.05]
    line = f"At equal loss, read text differs in: {'; '.join(own) or 'nothing that was measured'}."
    if beyond is None:
        return line + " No twin was given, so the prefixes themselves may differ."
    rows: list[dict[str, Any]] = list(rows_of(beyond, name="measure"))
    more = [row["measure"] for row in rows if row["measure"] in own and (row["more"][1] > 0 or row["more"][2] < 0)]
    return line + f" Of these, more than under the twin: {'; '.join(more) or 'none'}."


def _draw(path: Path | None, about: str, found: "Mapping[str, xr.Dataset]", beyond: "xr.Dataset | None") -> None:
    if path is None:
        return
    from memhooks.report.equal_loss_plots import plot_equal_loss
    from memhooks.report.page import Section

    section = Section(
        "Read beside never read, at equal loss", text=[verdict(found, beyond)], figures=[plot_equal_loss(found)]
    )
    write_page(path, "At equal loss", about, [section])
