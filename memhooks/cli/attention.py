"""`memhooks attention`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Twin,
    check_ending,
)
from memhooks.cli.sets import load_set, load_sets, load_twin, twin_name
from memhooks.cli.tables import check_outputs, save_tree, sources, token_texts
from memhooks.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from memhooks.localize.attention_probe import Asked
    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs

_OWN = "own"


def attention(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    twin: Twin = None,
    n: Size = 100,
    seed: Seed = 0,
    threads: Threads = 0,
    any_rows: AnyRows = False,
    counts: Annotated[
        str | None,
        typer.Option(
            help="Corpus count of every token id: a .npy array, or `own`, counted over all rows of --paragraphs and "
            "--control. By default bundled models bring theirs, planted copies left out; for others it is `own`."
        ),
    ] = None,
    query: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The position that looks, from 0; by default the last of the prefix, which predicts what follows.",
        ),
    ] = None,
    skip_first: Annotated[
        bool, typer.Option("--skip-first", help="Leave out token 0, where heads with nothing to do look.")
    ] = False,
    n_rarest: Annotated[int, typer.Option(min=1, help="How many of a prefix's tokens are its rarest.")] = 5,
    confirm: Annotated[
        bool,
        typer.Option(help="Ablate the candidates, if there are any, on both sets: does only recitation need them?"),
    ] = True,
    paragraph: Annotated[
        str | None,
        typer.Option(help="Also draw where the heads look in this paragraph of either set: its id, as A300."),
    ] = None,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Does a head look at rare tokens, more so in recited text?

    One position's attention to the prefix tokens it can see is compared, paragraph by paragraph, with how often these
    occur in the corpus: Spearman's rank correlation, averaged. Below 0: rare tokens get more. Uniform attention gives
    0. What is near is looked at anyway, so the same stands there with the rank of distance taken out.

    p is over token types: each has one mean rank of attention, and p is how often the most negative of all heads is as
    negative when counts are permuted among the types. "p within" shuffles them in each paragraph, and takes a head's
    taste for a token for new evidence every time it occurs. A rare-token head has both at most 0.05, and an interval
    without distance below 0. It is a memorization-head candidate if it is, distance taken out, also more negative than
    in text that the model does not recite and than under a twin that never read the paragraphs ("p >"). It is
    confirmed if its ablation costs recited text more than the control. Often there is none.

    Caveats: the published statistic sums attention over paragraphs by rarity rank. Few paragraphs have high ranks,
    so uniform attention can be far from 0 by it, too, and stands beside it. Counts that include many copies of
    the paragraphs make their rare tokens common; `own` counts are coarse, for most tokens occur once or twice.

    Examples:
    - `memhooks attention --paragraph A300 --figure attention.html`
    - `memhooks attention --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --counts counts.npy`
    """
    other = twin_name(twin, model, paragraphs)
    _check_options(counts, paragraph, figure)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.cli.attention_found import measured, tables
    from memhooks.cli.attention_shown import draw, print_tables

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    names = {"memorized": paragraphs, "control": control}
    whole = [load_set(loaded, name) for name in names.values() if name != "none"]
    one = None if paragraph is None else _find(paragraph, whole, names)
    known, origin = _counts(counts, model, loaded, whole)
    conditions = {name: (loaded, rows) for name, rows in sets.items()}
    if other is not None:
        conditions["twin"] = (load_twin(other, loaded, sets["memorized"]), sets["memorized"])
    asked: Asked = {"queries": None if query is None else [query], "skip_first": skip_first, "n_rarest": n_rarest}
    found = measured(conditions, known, asked, one, confirm=confirm, seed=seed)
    about = sources(model, names, sets) + (f"; twin: {other}" if other else "") + f"; counts: {origin}"
    save_tree(out, found.groups)
    tokens = None if one is None else token_texts(loaded, one.tokens[0].tolist())
    draw(figure, about, found, {name: rows for name, (_, rows) in conditions.items()}, tokens)
    if as_json:
        sys.stdout.write(json.dumps(tables(found)) + "\n")
    else:
        print_tables(about, tables(found))


def _check_options(counts: str | None, paragraph: str | None, figure: Path | None) -> None:
    """Refuse what cannot be used, before torch is loaded.

    Raises:
        InputError: no such file of counts, or a paragraph to draw and no figure to draw it in.
    """
    if counts not in (None, _OWN):
        if not Path(counts).is_file():
            raise InputError(f"no counts file at {counts}; give a .npy file or `{_OWN}`")
        check_ending(Path(counts), ".npy")
    if paragraph is not None and figure is None:
        raise InputError(f"--paragraph {paragraph} is drawn in the figure; give --figure FILE.html, too")


def _find(identifier: str, sets: "list[Paragraphs]", names: Mapping[str, str]) -> "Paragraphs":
    """The paragraph of that id, of the first set that has it.

    Raises:
        InputError: none has.
    """
    for rows in sets:
        if identifier in rows.ids:
            return rows.select([rows.ids.index(identifier)])
    ranges = ", ".join(
        f"{name}: {rows.ids[0]} to {rows.ids[-1]}" for name, rows in zip(names.values(), sets, strict=False)
    )
    raise InputError(f"no paragraph {identifier!r} among those given ({ranges})")


def _counts(counts: str | None, model: str, loaded: "HookedModel", sets: "list[Paragraphs]") -> "tuple[Tensor, str]":
    """The counts, and in words where they come from."""
    from memhooks.organism.paragraphs import load_unigram_counts
    from memhooks.paragraphs.counts import load_counts, unigram_counts

    size = loaded.cfg.d_vocab
    if counts is None and model in MODELS:
        return load_unigram_counts(size), "training text without planted copies"
    if counts in (None, _OWN):
        own = unigram_counts([rows.tokens for rows in sets], d_vocab=size)
        return own, f"the {int(own.sum())} tokens of the sets themselves"
    return load_counts(counts, d_vocab=size), counts
