"""`memhooks extract`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import MODELS, Model
from memhooks.cli.sets import Control, Seed, Twin, load_set, load_sets, load_twin, twin_name
from memhooks.cli.tables import check_outputs, save_tree, sources

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

_REFERENCES = ("B", "C", "held_out", "licence_never", "licence_once")


@dataclass
class Found:
    """What the command computed, by set."""

    curves: "dict[str, xr.Dataset]"
    lengths: "dict[str, xr.Dataset]"
    near: "dict[str, xr.Dataset]"
    logs: "dict[str, xr.Dataset]"
    kinds: "dict[str, xr.Dataset]"
    rows: "dict[str, Paragraphs]"
    least: float


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
    model: Model = "organism",
    twin: Twin = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Paragraphs drawn from each set.")] = 96,
    seed: Seed = 0,
    figure: Annotated[Path | None, typer.Option(help="Write the figures to this .html file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the labelled results to this .nc file, a tree.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """What can be extracted: with how many queries, how much prefix, how nearly verbatim, and is it recalled?

    Queries: one pass gives the probability that a sample is the whole continuation, and so the share of paragraphs
    that are among n samples with probability p, n from 1 to a million, for four samplers. Nothing is sampled.

    Prefix: the last 5, 10, ... tokens of the prefix alone, raw. Near-verbatim: what the model says greedily against the
    text by edits, at any alignment; another paragraph's text is the chance level.

    Recalled or predictable: a continuation counts as said if its tokens have on average at least the probability 1/e.
    It is recalled if that is above what the twin and a trigram of other text give by more than for 99 % of the
    never-read control, and else predictable. Where the twin read the text, too (natural duplicates), the trigram
    alone stands for those who did not.

    Controls: text that nobody read, and the paragraphs under the twin. Caveats: teacher-forced probabilities are exact
    for one continuation; a paraphrase counts as nothing. A trigram is a weak prior, so "recalled" against it alone is
    a weak claim. The threshold is of half of the control, false positives are counted on the other half.

    Examples: `memhooks extract --figure extract.html`;
    `memhooks extract --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --twin path/to/base`
    """
    other = twin_name(twin, model, paragraphs)
    recurring = ("natural" if model in MODELS else "none") if natural is None else natural
    check_outputs({".html": [figure], ".nc": [out]})

    from memhooks.cli.extract_shown import as_tables, draw, print_tables
    from memhooks.cli.sets import check_set

    check_set(recurring, model)
    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=True)
    conditions = {name: (loaded, rows) for name, rows in sets.items()}
    against = None if other is None else load_twin(other, loaded, sets["memorized"])
    if against is not None:
        conditions["twin"] = (against, sets["memorized"])
    if recurring != "none":
        conditions["natural"] = (loaded, load_set(loaded, recurring).sample(n, seed=seed))
    names = [paragraphs, control] if model not in MODELS else list(_REFERENCES)
    references = [load_set(loaded, name) for name in names if name not in ("none", paragraphs)]
    found = _measured(conditions, against, references or [sets["memorized"]], seed=seed)
    about = sources(model, {"memorized": paragraphs, "control": control}, sets)
    about += (f"; twin: {other}" if other else "") + (f"; natural: {recurring}" if recurring != "none" else "")
    groups = {"curves": found.curves, "lengths": found.lengths, "near": found.near, "logs": found.logs}
    save_tree(out, {f"{name}/{kind}": one for kind, each in groups.items() for name, one in each.items()})
    tables = as_tables(found, seed=seed)
    draw(figure, about, found)
    if as_json:
        sys.stdout.write(json.dumps(tables) + "\n")
    else:
        print_tables(about, tables)


def _measured(
    conditions: "dict[str, tuple[HookedModel, Paragraphs]]",
    twin: "HookedModel | None",
    references: "list[Paragraphs]",
    *,
    seed: int,
) -> Found:
    from memhooks.truth.extraction.near_verbatim import near_verbatim
    from memhooks.truth.extraction.prefix_length import prefix_length_curve
    from memhooks.truth.extraction.queries import extraction_curves
    from memhooks.truth.extraction.recalled import classified, fitted_prior, least_gap, log_probabilities

    rows = {name: one for name, (_, one) in conditions.items()}
    loaded = conditions["memorized"][0]
    curves = {name: extraction_curves(*pair, seed=seed) for name, pair in conditions.items()}
    lengths = {name: prefix_length_curve(*pair, seed=seed) for name, pair in conditions.items()}
    near = {name: near_verbatim(*pair, seed=seed) for name, pair in conditions.items() if len(pair[1]) > 1}
    prior = fitted_prior(references, d_vocab=loaded.cfg.d_vocab, without=list(rows.values()))
    logs = {}
    for name, (one, some) in conditions.items():
        # The twin is judged against the prior alone: the model, which read the text, is nobody's counterfactual.
        unread = twin if name in ("memorized", "control") else None
        logs[name] = log_probabilities(one, some, prior=prior, twin=unread)
    # The threshold comes from half of the control; without one there is no null, and any surplus counts.
    least, alone = 0.0, 0.0
    if "control" in logs:
        chosen = logs["control"].isel(paragraph=slice(None, None, 2))
        least = least_gap(chosen)
        alone = least_gap(chosen.assign(gap=chosen["model"] - chosen["prior"]))
        logs["control"] = logs["control"].isel(paragraph=slice(1, None, 2))
    kinds = {name: classified(one, least=least if "twin" in one else alone) for name, one in logs.items()}
    return Found(curves, lengths, near, logs, kinds, rows, least)
