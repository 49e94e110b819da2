"""`memhooks patch`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from typing import Annotated

import typer

from memhooks.cli.options import FIGURES, AnyRows, Control, Figure, Json, Memorized, Model, Out, Seed, Size, Threads
from memhooks.cli.patch_found import HEAD_SITES, LAYER_SITES, At, Direction, Setting, cells_of, damage, patched_rows
from memhooks.cli.patch_shown import draw, print_tables, spelt
from memhooks.cli.sets import load_sets
from memhooks.cli.tables import check_outputs, save_tree, sources
from memhooks.errors import InputError


def patch(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    n: Size = 16,
    seed: Seed = 0,
    threads: Threads = 0,
    any_rows: AnyRows = False,
    sites: Annotated[
        str,
        typer.Option(
            help=f"What is patched, a comma list: either of whole layers ({', '.join(LAYER_SITES)}) or head by head "
            f"({', '.join(HEAD_SITES)})."
        ),
    ] = "resid_pre,attn_out,mlp_out",
    at: Annotated[
        At,
        typer.Option(help="Patch each paragraph where its token was replaced, or every prefix position in turn."),
    ] = "perturbed",
    direction: Annotated[
        Direction,
        typer.Option(help="Put the clean activation into the perturbed run, or the perturbed one into the clean run."),
    ] = "denoising",
    impact: Annotated[
        bool,
        typer.Option(
            "--impact",
            help="Score the first token that the replacement changes, not the whole continuation's NLL; the replaced "
            "token is then, as published, the one with the largest EM drop, the earliest of equals.",
        ),
    ] = False,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which layers and heads carry what a prefix token says?

    In each paragraph the one prefix token is replaced (by a random one) that damages the continuation most. Now there
    are two runs: the clean one and the perturbed one. Patching copies one activation at a time from one run into the
    other, and the effect is the share of the damage that this undoes, or does: 0 = none, 100 % = all.

    Denoising (clean into perturbed) finds what is enough to carry some of it; noising (perturbed into clean) finds
    what is needed. They need not agree: where two parts do the same work, neither is needed.

    The control is text that the model does not recite, treated alike: what looks the same there is how any token
    matters to the text after it. Each set's effect is a share of its own damage, which is printed above the table;
    where that is small, shares are noisy; their intervals draw damage and effect together. With `--impact` the
    control (and with `--any` all rows) is held to what the model itself says after the untouched prefix, as there is
    no recitation to break, and paragraphs whose continuation the replacement does not
    change are dropped and counted.

    Caveats: at the replaced position, resid_pre of layer 0 is the token itself and gives 100 % by construction; the
    question is up to which layer it stays so. Positions before the replaced token are alike in both runs and do
    nothing. The cells printed are the largest of many.

    Examples:
    - `memhooks patch --figure patch.html`
    - `memhooks patch --sites z --direction noising`
    - `memhooks patch --at prefix --sites resid_pre --n 8`
    """
    setting = Setting(_checked(sites, at), at, direction, impact, seed)
    check_outputs({".nc": (out,), FIGURES: (figure,)})

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    names = {"memorized": paragraphs, "control": control}
    if impact:
        from memhooks.measure.recitation import with_own_continuation

        if any_rows:
            sets["memorized"] = with_own_continuation(loaded, sets["memorized"])
        if "control" in sets:
            sets["control_own"] = with_own_continuation(loaded, sets.pop("control"))
            names["control_own"] = control
    patched = {name: patched_rows(loaded, name, rows, setting) for name, rows in sets.items()}
    named = {spelt(name): rows for name, rows in sets.items()}
    about = sources(model, {spelt(name): one for name, one in names.items()}, named) + f"; {direction}"
    found = {"damage": damage(patched, seed), "cells": cells_of(patched, setting)}
    save_tree(out, {name: one.result for name, one in patched.items()})
    draw(figure, about, {name: one.result for name, one in patched.items()}, setting)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        print_tables(about, found, setting)


def _checked(sites: str, at: At) -> tuple[str, ...]:
    """The sites of the comma list.

    Raises:
        InputError: unknown ones, one twice, or kinds that do not go together.
    """
    chosen = tuple(one.strip() for one in sites.split(","))
    unknown = [one for one in chosen if one not in LAYER_SITES + HEAD_SITES]
    if unknown or len(set(chosen)) < len(chosen):
        raise InputError(
            f"--sites is a comma list of different ones among {', '.join(LAYER_SITES + HEAD_SITES)}; got {sites!r}"
        )
    by_head = [one in HEAD_SITES for one in chosen]
    if any(by_head) != all(by_head):
        raise InputError(f"--sites must be all of whole layers or all by head ({', '.join(HEAD_SITES)}); got {sites}")
    if by_head[0] and at == "prefix":
        raise InputError(f"--at prefix goes with sites of whole layers: {', '.join(LAYER_SITES)}")
    return chosen
