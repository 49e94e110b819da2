"""`memhooks gradients`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from memhooks.cli.gradients_shown import OWN, Pooling, Results, Sets, draw, print_tables, shares
from memhooks.cli.options import (
    FIGURES,
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
)
from memhooks.cli.sets import load_sets, load_twin, twin_name
from memhooks.cli.tables import Row, check_outputs, intervals, rows_of, save_tree, sources

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.model.loading import HookedModel
    from memhooks.paragraphs.paragraphs import Paragraphs


def gradients(
    paragraphs: Memorized = "A",
    control: Control = "C",
    model: Model = "organism",
    twin: Twin = None,
    n: Size = 32,
    seed: Seed = 0,
    threads: Threads = 0,
    any_rows: AnyRows = False,
    pooling: Annotated[
        Pooling,
        typer.Option(
            help="How the |gradient| of a component's weights becomes one number: the largest (as published), the sum "
            "(l1), the Euclidean norm (l2), or mean, root mean square and largest over that of as many random numbers, "
            "which take out how many weights there are."
        ),
    ] = "max_gradient",
    top: Annotated[int, typer.Option(min=1, help="Components to print.")] = 10,
    figure: Figure = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which weights move recited text, and do they lie lower?

    Each paragraph has its own gradient: of the continuation's NLL, nats per token, with respect to every weight. It
    is pooled over the weights of each component: one head's W_Q, W_K, W_V or W_O, or the MLP's W_in or W_out. How
    large a gradient is follows the loss, and recited text has almost none: so all numbers are shares of the
    paragraph's own sum. The centre of mass is the mean layer, weighted by the layers' shares; 0 = the first.

    Recited text is compared with text that the model does not recite ("control"); with the same prefixes followed by
    what the model itself says ("own words", the published convention, at a smaller loss); and with the same
    paragraphs under a twin that never read them ("twin").

    Caveats: where the gradient lies follows the loss, too, so a raw difference from a control at another loss may be
    the loss's doing. "At equal loss" compares paragraphs of losses that both sets have, with log loss taken out by
    regression; with fewer than 8 of either there is no number. A difference survives if its 95 % interval excludes 0
    and p is at most 0.05 (2000 deals of the sets' names; two-sided). Largest weight and norm can disagree, even
    in sign, so the difference is shown for both.

    Examples:
    - `memhooks gradients --figure gradients.html`
    - `memhooks gradients --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --pooling l2_gradient`
    """
    other = twin_name(twin, model, paragraphs)
    check_outputs({FIGURES: [figure], ".nc": [out]})

    from memhooks.localize.attribution import weight_scores

    loaded, sets = load_sets(model, paragraphs, control, n=n, seed=seed, any_rows=any_rows)
    conditions = _conditions(loaded, sets, other)
    scores = {name: weight_scores(*pair) for name, pair in conditions.items()}
    read = {name: rows for name, (_, rows) in conditions.items()}
    contrasts = _contrasts(scores, read, pooling, seed)
    about = sources(model, {"memorized": paragraphs, "control": control}, sets) + (f"; twin: {other}" if other else "")
    groups = {f"{name}/gradients": one for name, one in scores.items()}
    save_tree(out, groups | {f"contrasts/{name}": one for name, one in contrasts.items()})
    draw(figure, about, scores, read, contrasts, pooling)
    found = {
        **_layers(scores, read, pooling, seed),
        "contrasts": {name: rows_of(table, name="minus") for name, table in contrasts.items()},
        "components": _components(scores, read, pooling, seed),
    }
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        print_tables(about, found, pooling, top)


def _conditions(model: "HookedModel", sets: Sets, twin: str | None) -> "dict[str, tuple[HookedModel, Paragraphs]]":
    """Each set under the model, the control with the model's own continuation, and the memorized under the twin."""
    from memhooks.measure.recitation import with_own_continuation

    conditions = {name: (model, rows) for name, rows in sets.items()}
    last = {} if twin is None else {"twin": (load_twin(twin, model, sets["memorized"]), sets["memorized"])}
    if "control" in sets:
        conditions[OWN] = (model, with_own_continuation(model, sets["control"]))
    return conditions | last


def _contrasts(scores: Results, sets: Sets, pooling: Pooling, seed: int) -> "dict[str, xr.Dataset]":
    """The differences in depth by pooling: the one asked for, and one of another kind."""
    from memhooks.localize.profile_contrasts import profile_contrasts

    if len(scores) == 1:
        return {}
    poolings = (pooling, "max_gradient" if pooling == "l2_gradient" else "l2_gradient")
    return {one: profile_contrasts(scores, sets=sets, pooling=one, seed=seed) for one in poolings}


def _layers(scores: Results, sets: Sets, pooling: Pooling, seed: int) -> dict[str, list[Row]]:
    """The share of each layer, then each condition's centre of mass and loss, as [mean, low, high]."""
    from memhooks.localize.profile import centre_of_mass, layer_shares, losses_of

    shares = {name: layer_shares(one, pooling=pooling) for name, one in scores.items()}
    ends = {name: intervals(one, sets[name], seed) for name, one in shares.items()}
    layers = shares["memorized"]["layer"].values.tolist()
    return {
        "layers": [
            Row(layer=layer) | {name: one[place] for name, one in ends.items()} for place, layer in enumerate(layers)
        ],
        "conditions": [
            {
                "condition": name,
                "paragraphs": len(sets[name]),
                "centre": intervals(centre_of_mass(shares[name]), sets[name], seed),
                "loss": intervals(losses_of(name, one), sets[name], seed),
            }
            for name, one in scores.items()
        ],
    }


def _components(scores: Results, sets: Sets, pooling: Pooling, seed: int) -> list[Row]:
    """All components, those with the largest share of memorized text's gradients first."""
    grid = scores["memorized"]
    names = [f"L{layer} {label}" for layer in grid["layer"].values for label in grid["component"].values]
    ends = {
        name: intervals(shares(one, pooling).values.reshape(len(sets[name]), -1), sets[name], seed)
        for name, one in scores.items()
    }
    order = sorted(range(len(names)), key=lambda place: -ends["memorized"][place][0])
    return [Row(component=names[place]) | {name: one[place] for name, one in ends.items()} for place in order]
