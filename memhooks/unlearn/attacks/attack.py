"""Every attack on one unlearned model, in one table: does the text come back?

1. Rounding, noise and pruning are done to the untouched model (what does the attack itself destroy?) and to the
   unlearned one, and what is recited of the forgotten text is measured.
2. Relearning is done to both, and to a twin that never read the text: how much faster does the unlearned model learn?
3. The text came back if the mean exact match under the attack is at least half of the untouched model's.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast, get_args

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.progress import tracked
from memhooks.unlearn.attacks.damage import pruned, shaken
from memhooks.unlearn.attacks.measured import UNITS, measured
from memhooks.unlearn.attacks.relearning import LR, On, relearn
from memhooks.unlearn.attacks.rounding import Format, rounded, surviving_share
from memhooks.unlearn.attacks.table import curves, static_row, summary_table, trained_rows
from memhooks.unlearn.delta import Delta

Kind = Literal["relearning", "rounding", "noise", "pruning"]
ATTACKS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of attack."""

NOISE = (0.02, 0.05, 0.1)
"""Standard deviations of the noise, in those of each parameter."""

PRUNED = (0.01, 0.05, 0.1)
"""Shares of all matrix weights that are set to zero."""

N_DRAWS = 3
"""Samples of noise, over which the measures are averaged."""

Damage = Callable[[HookedModel], AbstractContextManager]


@dataclass(frozen=True)
class Static:
    """An attack without training: its row's label, kind and damage, one for each draw of what is random."""

    label: str
    kind: str
    damages: Sequence[Damage]


def attack(  # noqa: PLR0913 - a model, its change and its twin, two sets, and one word each on how
    model: HookedModel,
    delta: Delta,
    forget: Paragraphs,
    *,
    unrelated: Paragraphs,
    twin: HookedModel | None = None,
    seed: int = 0,
    attacks: Collection[str] = ATTACKS,
    n_steps: int = 40,
    lr: float = LR,
) -> xr.DataTree:
    """Attack a model from which a text was unlearned; all weights are put back bit for bit.

    Args:
        model: the untouched model, to which the delta is not applied.
        delta: what unlearning changed.
        forget: the text that was forgotten.
        unrelated: never-seen text for relearning.
        twin: a model that never read the text, which learns it afresh.
        seed: of noise, split and intervals.
        attacks: kinds of `ATTACKS`.
        n_steps: updates of each relearning.
        lr: their step size.

    Returns:
        Tree of three results. `summary`, over `row` (`no attack`, `rounding: int8`, `relearning on part: held out`,
        ...): `exact_match`, `longest_run` and `nll` of the `untouched`, `unlearned` and `twin` model under the attack
        (of relearning after its last step; NaN = not done), such as `exact_match_unlearned`, with the ends of their
        95 % intervals (`_low`, `_high`; NaN for one cluster); `came_back` (of relearning at any step), `recovered`
        (share of the exact match lost by unlearning that the attack brings back, 0 = none); `steps_unlearned`,
        `steps_twin` (updates to half of the old exact match, inf = not within `n_steps`), their `ratio` (1 = as if
        never seen) and `ratio_is` (`exact`, `at least`, `at most` or `unknown`); `area_unlearned`, `area_twin` (mean
        exact match over the steps); `surviving` (share of the moved weights that rounding leaves moved).
        `relearning`, over `row` and `step`: the same three measures at each step. `paragraphs`, over `row` (attacks
        without training) and `paragraph`: means over the draws of noise.

    Raises:
        InputError: an unknown attack or none, a delta of another model, text that the untouched model does not recite
            at all, hooks on a model, or what `relearn` refuses.
    """
    _check(model, twin, forget, attacks)
    models = _Models(model, delta, twin)
    with models("unlearned"):
        pass  # a delta of another model is refused before any work
    old = measured(model, forget)["exact_match"].mean()
    if old == 0:
        raise InputError("the untouched model recites nothing of the text to forget, so nothing could come back")
    static = list(_static(attacks, seed))
    ons = [on for on in get_args(On) if "relearning" in attacks]
    run = partial(relearn, forget=forget, unrelated=unrelated, old_em=float(old), lr=lr, n_steps=n_steps, seed=seed)
    jobs: list[Static | On] = [*static, *ons]
    done: list[dict[str, dict[str, np.ndarray]]] = []
    learned: dict[str, dict[str, xr.Dataset]] = {}
    for job in tracked(jobs, "attacks"):
        if isinstance(job, Static):
            done.append(_damaged(models, job, forget))
            continue
        learned[job] = {}
        for name in models.names:
            with models(name) as attacked:
                learned[job][name] = run(attacked, on=job)
    cluster = clusters(forget).numpy()
    surviving = {
        one.label: surviving_share(delta, model, cast(Format, one.label.split()[-1]))
        for one in static
        if one.kind == "rounding"
    }
    rows = [
        static_row(one.label, one.kind, found, done[0], cluster=cluster, seed=seed)
        | {"surviving": surviving.get(one.label, np.nan)}
        for one, found in zip(static, done, strict=True)
    ]
    rows += [row for on, found in learned.items() for row in trained_rows(on, found, seed=seed)]
    about = provenance(model, forget.tokens) | {"after": delta.after, "seed": seed, "n_steps": n_steps, "lr": lr}
    nodes = {"summary": summary_table(rows, about), "paragraphs": _by_paragraph(static, done, forget, about)}
    if learned:
        nodes["relearning"] = curves(learned, about, seed=seed)
    return xr.DataTree.from_dict(nodes)


class _Models:
    """The models that are attacked, by name; each is as it was after its block."""

    def __init__(self, model: HookedModel, delta: Delta, twin: HookedModel | None) -> None:
        self._model, self._delta, self._twin = model, delta, twin
        self.names = ("untouched", "unlearned") + (() if twin is None else ("twin",))

    def __call__(self, name: str) -> AbstractContextManager[HookedModel]:
        if name == "unlearned":
            return self._delta.applied(self._model)
        return nullcontext(self._model if name == "untouched" or self._twin is None else self._twin)


def _static(attacks: Collection[str], seed: int) -> Iterator[Static]:
    yield Static("no attack", "none", [lambda _: nullcontext()])
    if "rounding" in attacks:
        for to in get_args(Format):
            yield Static(f"rounding: {to}", "rounding", [partial(rounded, to=to)])
    if "noise" in attacks:
        for factor in NOISE:
            damages = [partial(shaken, factor=factor, seed=[seed, draw]) for draw in range(N_DRAWS)]
            yield Static(f"noise: {factor:g} std", "noise", damages)
    if "pruning" in attacks:
        for share in PRUNED:
            yield Static(f"pruning: {100 * share:g} %", "pruning", [partial(pruned, share=share)])


def _damaged(models: _Models, one: Static, forget: Paragraphs) -> dict[str, dict[str, np.ndarray]]:
    """What is recited under an attack, by model; the twin is measured without one alone."""
    found = {}
    for name in models.names:
        if name == "twin" and one.kind != "none":
            continue
        draws = []
        for damage in one.damages:
            with ExitStack() as stack:
                attacked = stack.enter_context(models(name))
                stack.enter_context(damage(attacked))
                draws.append(measured(attacked, forget))
        found[name] = {measure: np.mean([draw[measure] for draw in draws], axis=0) for measure in UNITS}
    return found


def _by_paragraph(
    static: Sequence[Static],
    done: Sequence[Mapping[str, Mapping[str, np.ndarray]]],
    forget: Paragraphs,
    about: Mapping[str, object],
) -> xr.Dataset:
    labels = {"row": [one.label for one in static], "paragraph": forget.ids}
    variables = {
        f"{measure}_{name}": Variable(
            np.stack([found[name][measure] for found in done]), ("row", "paragraph"), unit, labels
        )
        for name in ("untouched", "unlearned")
        for measure, unit in UNITS.items()
    }
    return labelled(about, **variables)


def _check(model: HookedModel, twin: HookedModel | None, forget: Paragraphs, attacks: Collection[str]) -> None:
    unknown = [one for one in attacks if one not in ATTACKS]
    if unknown or not attacks or isinstance(attacks, str):
        raise InputError(f"attacks are one or more of {', '.join(ATTACKS)}, got {attacks if unknown else 'none'}")
    for one in (model, twin):
        if one is not None:
            refuse_hooks(one)
            forget.check(one)
