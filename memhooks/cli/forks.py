"""`memhooks forks`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.options import FIGURES, Figure, Json, Memorized, Model, Out, Seed, Threads
from memhooks.cli.sets import check_set
from memhooks.cli.tables import check_outputs, save_tree
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs


def forks(
    model: Model = "organism",
    other: Annotated[
        str, typer.Option(help="The fork: trained from the same trunk on other text. A name or folder as for --model.")
    ] = "organism-twin",
    paragraphs: Memorized = "A",
    other_paragraphs: Annotated[
        str, typer.Option(help="What --other recites and --model never read; as --paragraphs.")
    ] = "B",
    control: Annotated[str, typer.Option(help="Text that neither has read; as --paragraphs.")] = "C",
    n: Annotated[int, typer.Option("--n", min=2, help="Paragraphs of each set.")] = 10,
    seed: Seed = 0,
    threads: Threads = 0,
    fraction: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of the weights that each localizer names; may be repeated. By default .001, .01 and .1."
        ),
    ] = None,
    single: Annotated[
        int, typer.Option(min=0, help="Paragraphs that are localized and swapped one by one, too; 0 = none.")
    ] = 4,
    learned: Annotated[
        bool, typer.Option("--learned", help="Also BalancedSubnet, which learns its scores: minutes more.")
    ] = False,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which weights, moved between forks, move the text?

    --model and --other are forks of one trunk that differ in what they read: the difference of their weights holds
    all that makes --paragraphs recited in one and --other-paragraphs in the other. Layers, attentions, MLPs, heads
    and matrices are exchanged, and what of the gap in NLL between the forks vanishes is counted (0 = nothing, 1 =
    all of it): `removes` with the other's part in the model, `brings` with the model's part in the other. A blind
    change, as large as the forks' difference but in random order, tells what moving those weights does anyhow.

    Every localizer names as many single weights; these get the other's values. Beside it stand as many random
    weights of the same matrices, all weights but the named (complement), random scores, the oracle (weights that
    differ most), other recited text, and never-read text: what a swap costs that is damage.

    First comes the line between the forks: where never-read text is lost on the way, mixed weights are no model of
    anything, and swaps are not interpretable. The last table is counterfactual memorization: NLL without having read a
    paragraph minus with it, by readings; two models are one draw each.

    Caveats: removing is easy, for a chain breaks at any link: `removes` speaks of sensitivity, `brings` of storage.
    Other recited text is drawn with as many readings. Effects of single parts need not add up. Layer norms and
    embeddings are exchanged with `everything` alone, and for themselves.

    Examples:
    - `memhooks forks --figure forks.html --out forks.nc`
    - `memhooks forks --model path/one --other path/two --paragraphs one.pt --other-paragraphs two.pt
      --control neither.pt --n 8`
    """
    fractions = sorted(set(fraction or (0.001, 0.01, 0.1)))
    _check_options(model, other, (other_paragraphs, control), fractions)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.cli.forks_sets import load_forks, load_read
    from memhooks.cli.forks_shown import draw, print_tables, tables

    named = (paragraphs, other_paragraphs, control)
    loaded, fork, sets = load_forks(model, other, named, n, seed)
    read = load_read(loaded, named, n, seed)
    found = _measured(loaded, fork, sets, read, {"fractions": fractions, "seed": seed}, single, learned=learned)
    about = f"{model} and {other}; " + ", ".join(f"{name}: {len(rows)}" for name, rows in sets.items())
    save_tree(out, found)
    draw(figure, about, found)
    if as_json:
        sys.stdout.write(json.dumps(tables(found)) + "\n")
    else:
        print_tables(about, found)


def _check_options(model: str, other: str, named: tuple[str, str], fractions: list[float]) -> None:
    """Refuse what cannot be used, before torch is loaded.

    Raises:
        InputError: one model twice, sets that are not there, or a fraction out of range.
    """
    if model == other:
        raise InputError(f"--other must be another model than --model, its fork; got {other}")
    for name, whose in zip(named, (other, model), strict=True):
        if name == "none":
            raise InputError("forks need --other-paragraphs and --control; `none` is not possible here")
        check_set(name, whose)
    wrong = [one for one in fractions if not 0 < one < 1]
    if wrong:
        raise InputError(f"--fraction must lie between 0 and 1, got {wrong[0]:g}")


def _measured(
    model: "HookedModel",
    other: "HookedModel",
    sets: "dict[str, Paragraphs]",
    read: "dict[str, Paragraphs]",
    asked: dict,
    single: int,
    *,
    learned: bool,
) -> "dict[str, xr.Dataset]":
    from memhooks.localize.localizers import LOCALIZERS
    from memhooks.paragraphs.splits import clusters
    from memhooks.truth.forks.counterfactual import counterfactual_memorization
    from memhooks.truth.forks.curves import SETS, single_targets, swap_curves
    from memhooks.truth.forks.line import loss_along_line
    from memhooks.truth.forks.ranking import localizer_agreement
    from memhooks.truth.forks.scored import QUICK, localized
    from memhooks.truth.forks.sets import batch
    from memhooks.truth.forks.swap_parts import swap_parts

    seed, fractions = asked["seed"], asked["fractions"]
    triple = {name: sets[name] for name in ("memorized", "mirror", "control")}
    compared = {"target": sets["memorized"], "others": sets["others"], "control": sets["control"]}
    for one, names in ((triple, tuple(triple)), (compared, SETS)):
        batch(one, names)  # refuses text that is in two sets before anything is measured
    found = {"line": loss_along_line(model, other, triple, seed=seed)}
    found["parts"] = swap_parts(model, other, triple, seed=seed)
    target, retain = sets["memorized"], sets["retain"]
    scores = localized(model, other, target, retain, localizers=LOCALIZERS if learned else QUICK, seed=seed)
    found["curves"] = swap_curves(model, other, compared, scores, fractions=fractions, seed=seed)
    near = clusters(target).numpy()
    found["agreement"] = localizer_agreement(model, found["parts"], scores, clusters=near, seed=seed)
    del scores  # a copy of the weights for each localizer
    if single:
        few = compared | {"target": target.select(slice(0, single)), "others": sets["others"].select(slice(0, 8))}
        middle = fractions[len(fractions) // 2]
        found["single"] = single_targets(model, other, few, retain, fraction=middle, seed=seed)
    found["counterfactual"] = counterfactual_memorization(model, other, read, seed=seed)
    return found
