"""`memhooks ablate`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.ablate_found import How, What, filling_of, measured, parts_of, together_of
from memhooks.cli.ablate_shown import draw, print_tables
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
)
from memhooks.cli.sets import check_set, cut, load_set, load_sets
from memhooks.cli.tables import check_outputs, save_tree, sources
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs


def ablate(
    paragraphs: Memorized = "A",
    control: Control = "C",
    held_out: Annotated[
        str | None,
        typer.Option(
            help="More text that is not recited, of any kind, to judge language by: a set or a file, or `none`. By "
            "default held_out for bundled models, none for others."
        ),
    ] = None,
    model: Model = "organism",
    n: Size = 16,
    seed: Seed = 0,
    threads: Threads = 0,
    any_rows: AnyRows = False,
    what: Annotated[What, typer.Option(help="Single heads; whole attention layers and MLPs; or both.")] = "both",
    how: Annotated[
        How,
        typer.Option(
            help="What comes in place of a part's output: zero; its mean over other texts; or what it gives on another "
            "text. The texts are rows of --held-out (or of --control) that are not measured."
        ),
    ] = "zero",
    cumulative: Annotated[
        int, typer.Option(min=0, help="Also ablate so many heads together, best first; 0: do not.")
    ] = 3,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which heads and layers does recitation alone need?

    Each part alone is taken out of action, and the continuation scored without it: its worth is by how much NLL
    rises (nats per token). A part that any text needs is no store of a paragraph, so the same is measured on
    controls: text like the memorized that the model does not recite, and held-out prose. What speaks for recitation
    is memorized minus control; p is how often the largest difference of all parts is as large when the sets' names are
    dealt anew to the paragraphs (2000 deals), so that the best of many parts does not pass for special.

    Then heads are ablated together. Their order is chosen on one half of the memorized paragraphs and judged on
    the other half, beside as many random heads: an order that is judged where it was chosen always looks good.

    Caveats: zero ablation leaves what later layers ever saw, so that damage may be shock rather than loss of
    information; mean and resample stay closer. Two parts that do the same work both look worthless alone. EM, the
    number of tokens before the first miss, is decided by the first broken token. In the first tables parts are
    sorted by the numbers shown, so the top ones are flattered.

    Examples:
    - `memhooks ablate --figure ablate.html`
    - `memhooks ablate --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --held-out none --how mean`
    """
    prose = _prose(held_out, control, model)
    check_outputs({".nc": (out,), FIGURES: (figure,)})

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    names = {"memorized": paragraphs, "control": control, "held_out": prose}
    pools = _pools(loaded, {"control": control, "held_out": prose}, sets["memorized"])
    if "held_out" in pools:
        sets["held_out"] = pools["held_out"].sample(n, seed=seed)
    halves = None if what == "layers" or how == "resample" else _halves(loaded, sets["memorized"], cumulative, seed)
    filling = filling_of(loaded, how, seed, sets, pools)
    found = measured(loaded, sets, what, filling, halves, cumulative)
    about = sources(model, names, sets) + f"; ablation: {how}{filling.about}"
    save_tree(out, found.groups)
    draw(figure, about, found)
    tables = {
        "parts": {kind: parts_of(one) for kind, one in found.compared.items()},
        "cumulative": [] if found.cumulative is None else together_of(found.cumulative),
    }
    if as_json:
        sys.stdout.write(json.dumps(tables) + "\n")
    else:
        print_tables(about, tables, sets, halves)
        if how == "resample" and cumulative and what != "layers":
            from memhooks.terminal import say

            say("Heads are not ablated together with --how resample; pass --how mean or zero for that.")


def _prose(held_out: str | None, control: str, model: str) -> str:
    """The held-out set.

    Raises:
        InputError: there is no such set or file, or nothing to compare with.
    """
    prose = held_out or ("held_out" if model in MODELS else "none")
    if control == "none" and prose == "none":
        raise InputError("whether only recitation needs a part cannot be said without a control or --held-out text")
    check_set(prose, model)
    return prose


def _pools(model: "HookedModel", names: Mapping[str, str], like: "Paragraphs") -> "dict[str, Paragraphs]":
    """All rows of each control, cut to the memorized paragraphs' length.

    Raises:
        InputError: they are shorter.
    """
    return {kind: cut(load_set(model, name), like, name) for kind, name in names.items() if name != "none"}


def _halves(
    model: "HookedModel", rows: "Paragraphs", n_heads: int, seed: int
) -> "tuple[Paragraphs, Paragraphs] | None":
    """One half to choose heads on and one to judge them on; near-duplicates stay together.

    Raises:
        InputError: too many heads to have as many random ones beside them, or too few paragraphs.
    """
    from memhooks.paragraphs.splits import split

    if not n_heads:
        return None
    there = model.cfg.n_layers * model.cfg.n_heads
    if 2 * n_heads > there:
        raise InputError(
            f"--cumulative {n_heads} needs as many other heads beside it, and the model has {there}; "
            f"at most {there // 2}"
        )
    try:
        return split(rows, share=0.5, seed=seed)
    except InputError as error:
        raise InputError(f"heads are chosen on one half and judged on the other: {error}; or --cumulative 0") from error
