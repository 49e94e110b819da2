"""The run behind `memhooks unlearn`: draw the sets, measure, choose the weights, unlearn, measure again."""

# Heavy imports stay inside the functions, as in the other commands.
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memhooks.cli.sets import load_twin
from memhooks.cli.unlearn_sets import Asked, Drawn, draw_sets
from memhooks.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from memhooks.localize.masks.weight_mask import WeightMask
    from memhooks.model.loading import HookedModel
    from memhooks.unlearn.delta import Delta
    from memhooks.unlearn.evaluation import Untouched
    from memhooks.unlearn.recipe import Budget, Recipe
    from memhooks.unlearn.record import UnlearningStep
    from memhooks.unlearn.unlearning import Unlearned


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        model: its name.
        twin: its name, if there is one.
        sets: which paragraphs.
        localizer: that chooses the weights; `all` or `random` choose without one.
        fraction: of all weights.
        recipe: arguments of `Recipe`.
        goal_em: of `Budget`.
        goal_run: of `Budget`.
        goal_nll: None = half of the twin's, or of never-seen text's; 0 = none.
        most_kl: of `Budget`.
        measures: `core` or `all`.
        checkpoint: a file with which a killed run goes on.
    """

    model: str
    twin: str | None
    sets: Asked
    localizer: str
    fraction: float
    recipe: Mapping[str, Any]
    goal_em: float
    goal_run: float
    goal_nll: float | None
    most_kl: float | None
    measures: Literal["core", "all"]
    checkpoint: Path | None


@dataclass(frozen=True)
class Run:
    """Everything there is to say about a run.

    Attributes:
        wanted: what was asked for.
        model: as it was.
        sets: the paragraphs.
        mask: the chosen weights.
        budget: the goals.
        whence: where the goal of the NLL comes from.
        change: of the weights.
        records: of the steps.
        tree: the evaluation.
    """

    wanted: Wanted
    model: "HookedModel"
    sets: Drawn
    mask: "WeightMask"
    budget: "Budget"
    whence: str
    change: "Delta"
    records: "list[UnlearningStep]"
    tree: "xr.DataTree"

    @property
    def kept(self) -> Mapping[str, Any]:
        """The record of the step whose weights were kept."""
        record: Any = self.change.about["record"]
        return record


def run_unlearning(wanted: Wanted) -> Run:
    """Do it; the model in memory is bit for bit as before, and the change is in the result.

    Raises:
        InputError: sets that cannot be drawn, a twin that cannot stand beside the model, a checkpoint of another run,
            or a step size with which the loss is no longer a number.
    """
    from memhooks.model.loading import load_model
    from memhooks.unlearn.evaluation import evaluate, untouched
    from memhooks.unlearn.recipe import Budget, Recipe

    model = load_model(wanted.model)
    sets = draw_sets(model, wanted.sets)
    before = untouched(
        model,
        sets.forget,
        others=sets.others,
        held_out=sets.held_out,
        twin=None if wanted.twin is None else load_twin(wanted.twin, model, sets.forget),
        seed=wanted.sets.seed,
        measures=wanted.measures,
        allow_shared=wanted.sets.allow_shared,
    )
    nll, whence = _goal_nll(wanted.goal_nll, before)
    most_kl = math.inf if wanted.most_kl is None else wanted.most_kl
    budget = Budget(forget_em=wanted.goal_em, longest_run=wanted.goal_run, forget_nll=nll, retain_kl=most_kl)
    mask = _mask(model, wanted, sets)
    change, records = _unlearned(model, sets, mask, Recipe(**wanted.recipe), budget, wanted)
    with change.applied(model):
        tree = evaluate(model, before)
    return Run(wanted, model, sets, mask, budget, whence, change, records, tree)


def _goal_nll(asked: float | None, before: "Untouched") -> tuple[float | None, str]:
    """The NLL to reach, None where nobody asks, and where it comes from."""
    if asked is not None:
        return asked or None, "as asked"
    if before.twin:
        return float(before.twin["forget"]["nll"].mean()) / 2, "half of the twin's"
    return float(before.before["held_out"]["nll"].mean()) / 2, "half of never-seen text's"


def _mask(model: "HookedModel", wanted: Wanted, sets: Drawn) -> "WeightMask":
    from memhooks.localize.localizers import LOCALIZERS
    from memhooks.localize.masks.blocks import block
    from memhooks.localize.masks.random_anywhere import random_weights
    from memhooks.localize.masks.top import top_weights
    from memhooks.model.components import components

    if wanted.localizer == "all":
        return block(model, components(model))
    seed = wanted.sets.seed
    if wanted.localizer == "random":
        return random_weights(model, fraction=wanted.fraction, seed=seed)
    score = next(one for one in LOCALIZERS if getattr(one, "__name__", "") == wanted.localizer)
    return top_weights(score(model, sets.forget, sets.retain, seed=seed), fraction=wanted.fraction, model=model)


def _unlearned(
    model: "HookedModel", sets: Drawn, mask: "WeightMask", recipe: "Recipe", budget: "Budget", wanted: Wanted
) -> "Unlearned":
    from memhooks.unlearn.run import NotFiniteError
    from memhooks.unlearn.unlearning import unlearning_delta

    try:
        return unlearning_delta(
            model,
            sets.forget,
            sets.retain,
            mask,
            recipe=recipe,
            budget=budget,
            checkpoint=wanted.checkpoint,
            allow_shared=wanted.sets.allow_shared,
        )
    except NotFiniteError as error:
        raise InputError(str(error).replace("a smaller lr", "a smaller --lr")) from error  # a step size is input, too
