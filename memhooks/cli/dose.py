"""`memhooks dose`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import FIGURES, MODELS, Figure, Json, Model, Out, Seed, Threads, Twin
from memhooks.cli.sets import check_set, load_set, load_twin, twin_name
from memhooks.cli.tables import check_outputs, save_tree

if TYPE_CHECKING:
    from memhooks.model.loading import HookedModel
    from memhooks.truth.dose.table import RareHead


def dose(
    paragraphs: Annotated[
        str,
        typer.Option(
            help="Paragraphs whose counts are known: A (B for the twin), or a file with a `count` in each line."
        ),
    ] = "A",
    model: Model = "organism",
    twin: Twin = None,
    n: Annotated[
        int,
        typer.Option("--n", min=0, help="Paragraphs of each level that are perturbed and unlearned; 0 leaves it out."),
    ] = 4,
    seed: Seed = 0,
    threads: Threads = 0,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What depends on how often a text was read?

    Recitation, gradients, attention, robustness and the steps to unlearn it, by the number of readings.

    Each paragraph was read k times, by powers of two; most measures are of all paragraphs, those that take long
    (perturbed prefixes, steps to unlearn) of --n of each level. The control is the twin, which read none of them:
    there no measure may go with k, and "difference" is the model's number minus the twin's for the same paragraph.

    Each measure's rank correlation with k is asked for four times: as it is; among paragraphs read last at about the
    same time; with the gap since the last reading, among those read equally often; and with k among paragraphs of the
    same loss. p deals k anew, among neighbours in what is taken out (not asked of measures of under 15 paragraphs per
    level or 72 in all: "too few"); "p max" holds it against the largest of all measures. Slopes are per doubling.
    Thresholds: the k at which half of the paragraphs come out.

    Caveats: more readings mean a later last one (both are shown), and the step size fell to zero meanwhile, so that a
    late reading also was a small one. Two paragraphs of the same loss but another k differ in how hard their words
    are. Between two levels a threshold is interpolated. Steps of unlearning end at 32: a lower bound.

    Examples:
    - `memhooks dose --figure dose.html`
    - `memhooks dose --model path/to/gpt-neo --paragraphs counted.jsonl`
    """
    check_set(paragraphs, model)
    other = twin_name(twin, model, paragraphs)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.cli.dose_shown import draw, print_tables, tables
    from memhooks.model.loading import load_model
    from memhooks.truth.dose.levels import counts_of
    from memhooks.truth.dose.reading_times import planted_times
    from memhooks.truth.dose.response import dose_response
    from memhooks.truth.dose.table import DoseSettings

    loaded = load_model(model)
    rows = load_set(loaded, paragraphs)
    counts_of(rows)
    against = None if other is None else load_twin(other, loaded, rows)
    found = dose_response(
        loaded,
        against,
        rows,
        head=_head(loaded, model, seed),
        times=planted_times(rows) if paragraphs in ("A", "B") else None,
        settings=DoseSettings(n_per_level=n, seed=seed),
    )
    save_tree(out, found.groups)
    about = f"{model}; {len(rows)} paragraphs of {paragraphs}" + (f"; twin: {other}" if other else "; no twin")
    draw(figure, about, found)
    if as_json:
        sys.stdout.write(json.dumps(tables(found)) + "\n")
    else:
        print_tables(about, found)


def _head(loaded: "HookedModel", model: str, seed: int) -> "RareHead | None":
    """The head most given to rare tokens in never-seen text; None for models whose corpus counts are not known."""
    if model not in MODELS:
        return None
    from memhooks.organism.paragraphs import load_controls, load_unigram_counts
    from memhooks.truth.dose.table import rare_head

    return rare_head(loaded, load_controls("prose").sample(100, seed=seed), load_unigram_counts(loaded.cfg.d_vocab))
