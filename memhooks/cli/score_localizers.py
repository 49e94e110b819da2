"""`memhooks score-localizers`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import FIGURES, MODELS, Figure, Json, Model, Out
from memhooks.cli.sets import check_set
from memhooks.cli.tables import check_outputs, save_tree
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.truth.injection.bench import Plan

_REGIONS = ("random", "neurons", "head", "decoy", "easy", "natural")


def score_localizers(
    model: Model = "organism",
    paragraphs: Annotated[
        str | None,
        typer.Option(help="Text that the model never read, to be written into it: a bundled set or a file; C if not."),
    ] = None,
    others: Annotated[
        str | None,
        typer.Option(help="Text that it recites, which deletion should spare: a bundled set or a file; A if not."),
    ] = None,
    regions: Annotated[
        str, typer.Option(help=f"Where to write, separated by commas, of: {', '.join(_REGIONS)}.")
    ] = ",".join(_REGIONS),
    n_injections: Annotated[int, typer.Option(min=1, help="Injections in each region.")] = 20,
    full: Annotated[
        bool, typer.Option("--full", help="40 injections in each region, 20 in checks, learned masks on all: hours.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where trials are kept; a killed run goes on there.")] = Path(
        "runs/score-localizers"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the texts, the weights written and everything random.")] = 0,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Do localizers find the weights that a text was written to?

    INJ: a paragraph that the model never read is written into a few chosen weights, and nowhere else, until it is
    recited. Every localizer then names as many weights as were written; recall is the share that it gets right.
    Beside it stand chance (0.001 where 0.1 % of all weights were written) and a random mask of as many weights in each
    matrix. Two moments: `early`, when the NLL has come below 1 nat a token, and `solved`, when the text is
    recited in full at below 0.1; there little gradient is left, and which weights have it is a matter of rounding.

    DEL: what a localizer names is set to zero. Selectivity is the NLL that the target gains, less what other recited
    text has gained since before the writing; if it has lost, nothing is added. `natural` are paragraphs that the model
    recites by itself, where nobody knows what was written.

    Regions: `random` weights, `neurons` of one layer, one `head`; `decoy`: another paragraph was written into other
    weights before, so that who finds anything written finds it as often; `easy`: the weights are made outliers first,
    and must be found. References, not localizers: `weight_change` knows the model before, `weight_outlier` sees which
    weights stand out but no text, `random_scores` is blind. Below 6 injections there is no p.

    Caveats: writing into few weights is not how text is learned in training; nothing holds other text meanwhile, so
    the injection itself costs it (shown), and to delete it gives that back (not counted). Few weights that had to move
    far stand out by size alone. Localizers that rank MLP weights alone do not apply to a head.

    Examples:
    - `memhooks score-localizers --figure truth.html`
    - `memhooks score-localizers --regions head --n-injections 5 --folder runs/heads`
    - `memhooks score-localizers --model path/to/gpt-neo --paragraphs unread.jsonl --others recited.jsonl`
    """
    unread, recited = _texts(model, paragraphs, others)
    _check_regions(regions)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.cli.score_localizers_shown import as_plain, draw, print_tables
    from memhooks.truth.injection.bench import Plan
    from memhooks.truth.injection.scoring import Scoring
    from memhooks.truth.injection.sources import Sources
    from memhooks.truth.injection.tables import deletion_table, recall_table

    plan = Plan(regions=tuple(regions.split(",")), n_injections=n_injections, seed=seed)
    plan = _fully(plan) if full else plan
    rows = Scoring(folder, Sources(model, unread, recited, plan), n_workers=workers).run()
    found = {"deletion": deletion_table(rows, seed=seed)}
    if set(plan.regions) != {"natural"}:
        found = {"recall": recall_table(rows, seed=seed)} | found
    about = f"{model}; written: {unread}; recited besides: {recited}"
    save_tree(out, found)
    draw(figure, about, found)
    if as_json:
        sys.stdout.write(json.dumps(as_plain(found)) + "\n")
    else:
        print_tables(about, found)


def _texts(model: str, unread: str | None, recited: str | None) -> tuple[str, str]:
    """The names of both texts, before torch is loaded.

    Raises:
        InputError: a model of one's own without texts, or no such text.
    """
    if model not in MODELS and (unread is None or recited is None):
        raise InputError(
            f"{model} needs --paragraphs FILE of text that it never read and --others FILE of text that it recites"
        )
    names = unread or "C", recited or ("B" if model == "organism-twin" else "A")
    for name in names:
        check_set(name, model)
    return names


def _check_regions(regions: str) -> None:
    """Refuse what is no region, and doubles.

    Raises:
        InputError: one is not, or is named twice.
    """
    names = regions.split(",")
    for name in names:
        if name not in _REGIONS:
            raise InputError(f"regions are {', '.join(_REGIONS)}, separated by commas without spaces, got {name!r}")
        if names.count(name) > 1:
            raise InputError(f"each region can be asked for once, got {name!r} {names.count(name)} times")


def _fully(plan: "Plan") -> "Plan":
    """The plan with more of everything."""
    from dataclasses import replace

    n = max(40, plan.n_injections)
    return replace(plan, n_injections=n, n_checks=20, n_learned=n, n_natural=16)
