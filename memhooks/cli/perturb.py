"""`memhooks perturb`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memhooks.cli.options import (
    FIGURES,
    MODELS,
    AnyRows,
    Control,
    Figure,
    Json,
    Memorized,
    Model,
    Out,
    Seed,
    Size,
    Threads,
    check_ending,
)
from memhooks.cli.sets import load_sets
from memhooks.cli.tables import check_outputs, save_tree, sources
from memhooks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from torch import Tensor

    from memhooks.measure.replacements import Replacement
    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

Kind = Literal["uniform", "first2sec", "frequency", "control"]


def perturb(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    n: Size = 16,
    seed: Seed = 0,
    threads: Threads = 0,
    any_rows: AnyRows = False,
    replace: Annotated[
        Kind,
        typer.Option(
            help="What is put there: any other token; the model's own best guess (`first2sec`); a token of similar "
            "corpus frequency; or the one that another control paragraph has at this position."
        ),
    ] = "uniform",
    draws: Annotated[int, typer.Option(min=1, help="Replacements per position, averaged.")] = 1,
    cumulative: Annotated[
        bool, typer.Option("--cumulative", help="Replace all tokens up to the position, not it alone.")
    ] = False,
    decode: Annotated[
        bool, typer.Option("--decode", help="Also let the model write on after each paragraph's worst replacement.")
    ] = False,
    counts: Annotated[
        Path | None,
        typer.Option(
            help="Corpus count of every token id, a .npy array. Bundled models bring theirs; without any, what "
            "needs counts is left out."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Save the memorized paragraphs beside their perturbed twins (MP/PMP) to this .nc file, to be read by "
            "`memhooks.measure.pairs.load_pairs`. As published, the position is that of the largest EM drop, the "
            "earliest of equals: not always the one whose NLL rises most, which the tables show."
        ),
    ] = None,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which prefix tokens carry the continuation?

    Each prefix token in turn is replaced, and the same continuation is scored again, the true tokens before the
    model's eyes at every step. The drop of a token is by how much the continuation's NLL rises (nats per token;
    0 = it does not matter). A drop that goes with position means that late or early tokens carry more; one that
    goes with token count, that rare or common ones do; "given" one of them, its ranks are regressed out first.
    p compares with drops in random order within each paragraph, and the spread with tokens that all matter alike.
    "By chance up to": below it lie 97.5 % of the memorized means at a position if drops are in random order
    (position by position: of fifty, one or two exceed it by chance).

    The control is text that the model does not recite: any text is predicted from some tokens more than from
    others, and only what differs from the control tells of recitation.

    Caveats: the worst of many replacements is chosen on the same numbers that are then shown. Exact match (EM)
    is decided by the first broken token, so it may fall to 0 while all later tokens are still right; NLL does not
    have this fault. `--decode` shows what the model says instead: recitation dies if under a fifth of the tokens
    stand where the original has them, and resumes if a fifth of the text comes again in a row, at any offset; text
    that only lost its place does both. There the control is held to what the model itself says after the
    untouched prefix. A uniformly random token is mostly an absurd one; see `--replace`.

    Examples:
    - `memhooks perturb --decode --figure perturb.html`
    - `memhooks perturb --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --counts counts.npy`
    """
    _check_options(replace, control, model, counts, one_at_a_time=decode or pairs is not None, cumulative=cumulative)
    check_ending(counts, ".npy")
    check_outputs({".nc": (out, pairs), FIGURES: (figure,)})

    from memhooks.cli.perturb_found import analysed, decoded_texts, shares
    from memhooks.cli.perturb_shown import draw, print_tables
    from memhooks.measure import perturbation

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    known = _counts(model, counts, loaded)
    put = _replacement(replace, known, sets)

    def replaced(rows: "Paragraphs") -> "xr.Dataset":
        return perturbation.perturb(loaded, rows, seed=seed, replace=put, n_draws=draws, cumulative=cumulative)

    effects = {name: replaced(rows) for name, rows in sets.items()}
    found, profiles, results = analysed(loaded, sets, effects, known, seed)
    if decode:
        results["decoded"] = decoded_texts(loaded, sets, effects, replaced)
        found["decoded"] = shares(results["decoded"], sets, seed)
    about = f"{sources(model, {'memorized': paragraphs, 'control': control}, sets)}; replacement: {replace}"
    _save_pairs(pairs, loaded, sets, effects)
    save_tree(out, {f"{name}/{kind}": one for kind, ones in results.items() for name, one in ones.items()})
    draw(figure, about, profiles, results.get("by_rarity", {}), cumulative=cumulative)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        print_tables(about, found, counted=known is not None)


def _check_options(
    replace: Kind, control: str, model: str, counts: Path | None, *, one_at_a_time: bool, cumulative: bool
) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: as said, or there is no file of counts.
    """
    if cumulative and one_at_a_time:
        raise InputError("--decode and --pairs need one replaced token at a time; leave --cumulative away")
    if replace == "control" and control == "none":
        raise InputError("--replace control takes tokens from the control; --control none leaves it without any")
    if replace == "frequency" and counts is None and model not in MODELS:
        raise InputError(f"--replace frequency needs --counts FILE.npy: the corpus counts of {model} are not known")
    if counts is not None and not counts.is_file():
        raise InputError(f"no counts file at {counts}")


def _counts(model: str, path: Path | None, loaded: "HookedModel") -> "Tensor | None":
    from memhooks.organism.paragraphs import load_unigram_counts
    from memhooks.paragraphs.counts import load_counts

    if path is not None:
        return load_counts(path, d_vocab=loaded.cfg.d_vocab)
    return load_unigram_counts(loaded.cfg.d_vocab) if model in MODELS else None


def _replacement(kind: Kind, counts: "Tensor | None", sets: "Mapping[str, Paragraphs]") -> "Replacement":
    from memhooks.measure import replacements

    if kind == "frequency" and counts is not None:
        return replacements.frequency_matched(counts)
    if kind == "control":
        return replacements.from_paragraphs(sets["control"])
    return replacements.first2sec if kind == "first2sec" else replacements.uniform


def _save_pairs(
    path: Path | None, model: "HookedModel", sets: "Mapping[str, Paragraphs]", effects: "Mapping[str, xr.Dataset]"
) -> None:
    if path is None:
        return
    from memhooks.measure.pairs import make_pairs, save_pairs

    made = make_pairs(model, sets["memorized"], effects["memorized"])
    save_pairs(made, path)
    sys.stderr.write(f"written: {path} ({int(made.changed.sum())} of {len(made)} pairs with another continuation)\n")
