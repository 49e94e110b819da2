"""`memhooks unlearn`."""

# Heavy imports stay inside the functions, so that --help answers at once.
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memhooks.cli.options import Model, check_ending
from memhooks.cli.sets import Control, Memorized, Seed, Twin, check_set, load_twin, twin_name
from memhooks.cli.tables import check_outputs, save_tree
from memhooks.cli.unlearn_sets import Asked, Drawn, draw_sets
from memhooks.errors import InputError

if TYPE_CHECKING:
    from memhooks.localize.masks.weight_mask import WeightMask
    from memhooks.model.loading import HookedModel
    from memhooks.unlearn.evaluation import Untouched
    from memhooks.unlearn.recipe import Budget, Recipe
    from memhooks.unlearn.unlearning import Unlearned

# The names of LOCALIZERS, OBJECTIVES and RETAIN, which would load torch.
Localizer = Literal[
    "gradient",
    "gradient_times_weight",
    "activation_norm",
    "balanced_subnet",
    "fisher_ratio",
    "consistency",
    "all",
    "random",
]
Objective = Literal[
    "gradient_ascent",
    "gradient_difference",
    "paper_unlearn",
    "paper_edit",
    "paper_edit_misaligned",
    "npo",
    "simnpo",
    "dpo",
    "weighted_ascent",
    "bounded_ascent",
]
RETAIN_WEIGHTS = {"kl": 100.0, "nll": 1.0, "none": 0.0}
"""Of each retain term: a KL grows from nothing, an NLL pulls from the first step on."""


def unlearn(
    model: Model = "organism",
    paragraphs: Memorized = "A",
    ids: Annotated[
        list[str] | None, typer.Option("--ids", metavar="ID", help="A paragraph to forget; may be given several times.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Or how many to draw; by default 1.")] = None,
    control: Control = "C",
    retained: Annotated[
        int,
        typer.Option(min=1, help="How many other recited paragraphs, and how many never-seen ones, hold the model."),
    ] = 12,
    others: Annotated[
        int, typer.Option(min=1, help="Further recited paragraphs, never used in training: do they stay?")
    ] = 16,
    held_out: Annotated[int, typer.Option(min=1, help="Further never-seen ones, to see what language lost.")] = 12,
    twin: Twin = None,
    localizer: Annotated[
        Localizer,
        typer.Option(help="Which weights may move: the top of these scores, `all` of them, or as many at `random`."),
    ] = "gradient",
    fraction: Annotated[float, typer.Option(help="Share of the weights of all layers, over 0 to 1.")] = 0.001,
    objective: Annotated[Objective, typer.Option(help="What is minimised to forget.")] = "gradient_ascent",
    retain: Annotated[
        Literal["kl", "nll", "none"],
        typer.Option(help="What holds the model: KL to the untouched one, NLL of the text to keep, or nothing."),
    ] = "kl",
    retain_weight: Annotated[
        float | None, typer.Option(help="Its weight beside the objective; by default 100 for kl, 1 for nll.")
    ] = None,
    optimizer: Annotated[Literal["adam", "adamw", "sgd"], typer.Option(help="Of the chosen weights alone.")] = "adam",
    lr: Annotated[float, typer.Option(help="Step size; all weights at once need about 1e-4.")] = 4e-3,
    steps: Annotated[int, typer.Option(min=1, help="Updates, at most.")] = 24,
    goal_em: Annotated[float, typer.Option(help="Stop where the mean EM is at most this, ...")] = 2.0,
    goal_run: Annotated[
        float, typer.Option(help="... and the mean longest verbatim run, from any start, too, ...")
    ] = 10.0,
    goal_nll: Annotated[
        float | None,
        typer.Option(
            help="... and the mean NLL at least this; by default half of the twin's, without a twin half of never-seen "
            "text's under the model; 0 = do not ask."
        ),
    ] = None,
    most_kl: Annotated[
        float | None,
        typer.Option(
            help="Stop, too, where KL on the step's retained text, nats per token, is more; no limit by default."
        ),
    ] = None,
    measures: Annotated[
        Literal["core", "all"],
        typer.Option(help="`all` also tries other prompts and sampling, lets the model speak, and attacks membership."),
    ] = "core",
    seed: Seed = 0,
    delta: Annotated[Path | None, typer.Option(help="Save the change to this .safetensors file.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A .safetensors file with which a killed run goes on where it was.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the labelled results to this .nc file, a tree.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the figures to this .html file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, with [mean, low, high].")] = False,
    allow_shared: Annotated[
        bool, typer.Option(help="Accept near-duplicates of the text to forget among the text to keep.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            help="Instead, compare ten ways to unlearn on the organism (about an hour); a killed one goes on."
        ),
    ] = False,
    runs_folder: Annotated[Path, typer.Option(help="Of --compare: where its trials and tables go.")] = Path(
        "runs/comparison"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Of --compare: processes, of one thread each.")] = 2,
) -> None:
    """Unlearn a few recited paragraphs by moving few weights, and measure what that cost.

    Four sets, which share no near-duplicates: the text to forget; text that holds the model while it forgets (other
    recited paragraphs and never-seen ones); other recited paragraphs and never-seen ones that took no part, on which
    the cost is measured. The chosen weights alone move: every other one is compared bit by bit. The run stops where
    all goals are met, and the best step is kept.

    EM counts the tokens recited before the first miss, so breaking one token meets it: the longest verbatim run from
    any start and the NLL stand beside it. "Twin" is a model that never read the text: what forgetting should end in.

    Caveats: a paragraph that is not recited may still be there; `memhooks attack` tries to bring it back. With one
    paragraph to forget there is no interval.

    Examples: `memhooks unlearn --delta change.safetensors --figure unlearn.html`;
    `memhooks unlearn --ids A300 --localizer random --lr 0.02`;
    `memhooks unlearn --model path/to/gpt-neo --paragraphs mine.pt --control other.pt --twin none`;
    `memhooks unlearn --compare`
    """
    if compare:
        _compare(runs_folder, workers)
        return
    goals = {"--goal-em": goal_em, "--goal-run": goal_run, "--goal-nll": goal_nll, "--most-kl": most_kl}
    _check(fraction, lr, {"--retain-weight": retain_weight, **goals}, ids=ids, n=n)
    other = _check_texts(model, paragraphs, control, twin)
    _check_files({".safetensors": [delta, checkpoint], ".nc": [out], ".html": [figure]})

    from memhooks.cli.unlearn_shown import Run, draw, print_run, step_table, to_json
    from memhooks.model.loading import load_model
    from memhooks.unlearn.delta import save_delta
    from memhooks.unlearn.evaluation import evaluate, untouched
    from memhooks.unlearn.recipe import Budget, Recipe

    loaded = load_model(model)
    asked = Asked(paragraphs, control, tuple(ids or ()), n or 1, retained, others, held_out, seed, allow_shared)
    sets = draw_sets(loaded, asked)
    before = untouched(
        loaded,
        sets.forget,
        others=sets.others,
        held_out=sets.held_out,
        twin=None if other is None else load_twin(other, loaded, sets.forget),
        seed=seed,
        measures=measures,
        allow_shared=allow_shared,
    )
    recipe = Recipe(
        objective=objective,
        retain=retain,
        retain_weight=RETAIN_WEIGHTS[retain] if retain_weight is None else retain_weight,
        optimizer=optimizer,
        lr=lr,
        n_steps=steps,
        seed=seed,
    )
    nll, whence = _goal_nll(goal_nll, before)
    budget = Budget(
        forget_em=goal_em, longest_run=goal_run, forget_nll=nll, retain_kl=math.inf if most_kl is None else most_kl
    )
    mask = _mask(loaded, localizer, fraction, sets, seed)
    change, records = _unlearned(
        loaded, sets, mask, recipe=recipe, budget=budget, checkpoint=checkpoint, allow_shared=allow_shared
    )
    with change.applied(loaded):
        tree = evaluate(loaded, before)
    if delta is not None:
        save_delta(change, delta)
        sys.stderr.write(f"written: {delta}\n")
    found = Run(model, other, localizer, loaded, sets, mask, budget, whence, change, records, tree, delta)
    save_tree(out, {name: one.to_dataset() for name, one in tree.children.items()} | {"steps": step_table(found)})
    draw(figure, found)
    if as_json:
        sys.stdout.write(json.dumps(to_json(found)) + "\n")
    else:
        print_run(found)


def _compare(folder: Path, workers: int) -> None:
    from memhooks.study.comparison.comparison import Comparison
    from memhooks.study.comparison.report import write_comparison

    comparison = Comparison(folder, n_workers=workers)
    comparison.run()
    sys.stdout.write(f"{write_comparison(comparison)}\n")


def _check(
    fraction: float, lr: float, least: Mapping[str, float | None], *, ids: list[str] | None, n: int | None
) -> None:
    """Refuse numbers out of range before torch is loaded.

    Raises:
        InputError: one is.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"--fraction must lie in (0, 1], got {fraction}")
    if not 0 < lr < math.inf:
        raise InputError(f"--lr must be positive, got {lr}")
    for name, value in least.items():
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{name} must be at least 0, got {value}")
    if ids and n is not None:
        raise InputError(f"give --ids to choose the paragraphs or --n to draw them, not both (--ids {ids[0]}, --n {n})")


def _check_texts(model: str, paragraphs: str, control: str, twin: str | None) -> str | None:
    """Which model is the twin; refuses sets and twins that cannot be, before torch is loaded.

    Raises:
        InputError: no such set or file, another model's, no control, or a model that is its own twin.
    """
    if "none" in (paragraphs, control):
        option = "--paragraphs" if paragraphs == "none" else "--control"
        raise InputError(
            f"{option} cannot be none: unlearning needs text to forget and never-seen text to be judged on"
        )
    if paragraphs == control:
        raise InputError(f"--paragraphs and --control must be different texts, got {control} for both")
    for name in (paragraphs, control):
        check_set(name, model)
    return twin_name(twin, model, paragraphs)


def _check_files(files: Mapping[str, list[Path | None]]) -> None:
    """Refuse files that cannot be written; by their names alone, before torch is loaded.

    Raises:
        InputError: another ending, one name for two files, or a place that cannot be written to.
    """
    for ending, paths in files.items():
        for path in paths:
            check_ending(path, ending)
    named = [path for paths in files.values() for path in paths if path is not None]
    if len(set(named)) < len(named):
        raise InputError(f"--delta and --checkpoint must be different files, got {named[0]} for both")
    check_outputs(files)


def _goal_nll(asked: float | None, before: "Untouched") -> tuple[float | None, str]:
    """The NLL to reach, None where nobody asks, and where it comes from."""
    if asked is not None:
        return asked or None, "as asked"
    if before.twin:
        return float(before.twin["forget"]["nll"].mean()) / 2, "half of the twin's"
    return float(before.before["held_out"]["nll"].mean()) / 2, "half of never-seen text's"


def _mask(model: "HookedModel", localizer: Localizer, fraction: float, sets: Drawn, seed: int) -> "WeightMask":
    from memhooks.localize.localizers import LOCALIZERS
    from memhooks.localize.masks.blocks import block
    from memhooks.localize.masks.random_anywhere import random_weights
    from memhooks.localize.masks.top import top_weights
    from memhooks.model.components import components

    if localizer == "all":
        return block(model, components(model))
    if localizer == "random":
        return random_weights(model, fraction=fraction, seed=seed)
    score = next(one for one in LOCALIZERS if getattr(one, "__name__", "") == localizer)
    return top_weights(score(model, sets.forget, sets.retain, seed=seed), fraction=fraction, model=model)


def _unlearned(
    model: "HookedModel",
    sets: Drawn,
    mask: "WeightMask",
    *,
    recipe: "Recipe",
    budget: "Budget",
    checkpoint: Path | None,
    allow_shared: bool,
) -> "Unlearned":
    """The run; a loss that is no longer a number is bad input, too: a step size.

    Raises:
        InputError: it is.
    """
    from memhooks.unlearn.unlearning import unlearn as run

    try:
        return run(
            model,
            sets.forget,
            sets.retain,
            mask,
            recipe=recipe,
            budget=budget,
            checkpoint=checkpoint,
            allow_shared=allow_shared,
        )
    except RuntimeError as error:
        if "not finite" not in str(error):
            raise
        raise InputError(str(error)) from error
