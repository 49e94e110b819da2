"""`memhooks extract`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from typing import Annotated

import typer

from memhooks.cli.options import FIGURES, MODELS, Control, Figure, Json, Model, Out, Seed, Threads, Twin
from memhooks.cli.sets import load_set, load_sets, load_twin, twin_name
from memhooks.cli.tables import check_outputs, save_tree, sources

_REFERENCES = ("B", "C", "held_out", "licence_never", "licence_once")


def extract(
    paragraphs: Annotated[
        str, typer.Option(help="What may be extracted: a bundled set, or a file as for `memhooks measure`.")
    ] = "A",
    control: Control = "C",
    natural: Annotated[
        str | None,
        typer.Option(
            help="Text that recurs by itself in the training text, so that a twin read it, too; a set or file, or "
            "`none`. By default `natural` for bundled models."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Other text to fit the trigram on: a set, a file, or `none`. By default other bundled sets for bundled"
            " models, and for others the rows of --control that are not drawn; where none are left, no trigram."
        ),
    ] = None,
    model: Model = "organism",
    twin: Twin = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Paragraphs drawn from each set.")] = 96,
    seed: Seed = 0,
    threads: Threads = 0,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """What can be extracted, and is it recalled or guessed?

    Asked four ways: with how many queries, how much prefix, how nearly verbatim, and against what others predict.

    Queries: one pass gives the probability that a sample is the whole continuation, and so the share of paragraphs
    that are among n samples with probability p, n from 1 to a million, for four samplers. Nothing is sampled.

    Prefix: the last 5, 10, ... tokens of the prefix alone, raw. These begin at position 0, so context is lost and
    positions move at once; "in place" are the same tokens at their own positions, after text of the control.
    Near-verbatim: what the model says greedily against the text by edits; another paragraph's text is the chance level.

    Recalled or predictable: a continuation counts as said if its tokens have on average at least the probability 1/e.
    It is recalled if that is above what the twin and a trigram of other text give by more than a threshold, and else
    predictable. The threshold is the 99 % quantile of half of the never-read control (of 48 paragraphs: about their
    largest); false positives are counted on the other half. Where the twin read the text, too (natural duplicates),
    the trigram alone stands for those who did not. With neither of them nothing is classified.

    Controls: text that nobody read, and the paragraphs under the twin. Caveats: teacher-forced probabilities are exact
    for one continuation; a paraphrase counts as nothing. A trigram is a weak prior, so "recalled" against it alone is
    a weak claim.

    Examples:
    - `memhooks extract --figure extract.html`
    - `memhooks extract --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --twin path/to/base
      --reference more.pt`
    """
    other = twin_name(twin, model, paragraphs)
    recurring = ("natural" if model in MODELS else "none") if natural is None else natural
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.cli.extract_found import fitted, halved, measured
    from memhooks.cli.extract_shown import draw, print_tables
    from memhooks.cli.extract_tables import as_tables
    from memhooks.cli.sets import check_set

    for name in (recurring, reference or "none"):
        check_set(name, model)
    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=True)
    conditions = {name: (loaded, rows) for name, rows in sets.items()}
    base = None if other is None else load_twin(other, loaded, sets["memorized"])
    if base is not None:
        conditions["twin"] = (base, sets["memorized"])
    if recurring != "none":
        conditions["natural"] = (loaded, load_set(loaded, recurring).sample(n, seed=seed))
    texts = {name: load_set(loaded, name) for name in _references(reference, model, control) if name != paragraphs}
    against = fitted(loaded, texts, conditions, twin=base, asked=reference is not None)
    found = measured(conditions, halved(sets, seed=seed), against, seed=seed)
    about = sources(model, {"memorized": paragraphs, "control": control}, sets)
    about += (f"; twin: {other}" if other else "") + (f"; natural: {recurring}" if recurring != "none" else "")
    about += f"; trigram: {against.source}"
    groups = {"curves": found.curves, "lengths": found.lengths, "near": found.near, "logs": found.logs}
    save_tree(out, {f"{name}/{kind}": one for kind, each in groups.items() for name, one in each.items()})
    tables = as_tables(found, seed=seed)
    draw(figure, about, found)
    if as_json:
        sys.stdout.write(json.dumps(tables) + "\n")
    else:
        print_tables(about, tables)


def _references(reference: str | None, model: str, control: str) -> list[str]:
    """Where other text for the trigram comes from."""
    usual = list(_REFERENCES) if model in MODELS else [control]
    return [name for name in (usual if reference is None else [reference]) if name != "none"]
