"""Whole unlearning steps: against the official loop, and in budget mode against the bare arithmetic."""

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from statistics import median
from typing import cast

import psutil
import torch
from torch import Tensor

from benchmarks import official
from benchmarks.edited import LR, N_FORGET, editing, texts, timed, top_mask, warmed
from benchmarks.floor import Cost, measured, status
from benchmarks.outcome import Outcome, Peer
from benchmarks.setting import Setting, setting
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import component_parameters
from memhooks.unlearn.gradients import MaskedGradients
from memhooks.unlearn.optimizer import MaskedOptimizer
from memhooks.unlearn.recipe import Budget, Recipe
from memhooks.unlearn.retain_terms import RETAIN
from memhooks.unlearn.steps import Steps
from memhooks.unlearn.unlearning import unlearning_steps

N_RETAIN = 4
Run = tuple[list[float], list[float]]
"""Losses and seconds of steps, the first of which is there to warm up."""


def step(at: Setting) -> Outcome:
    """One step of the published objective: passes, masking, optimizer."""
    n_ours, n_peer = (2, 2) if at.quick else (6, 2 if at.shape == "125M" else 4)
    mask = top_mask(at)
    n_retain = _most_retained(at, mask)
    (expected, theirs), peer = measured(lambda: _official(at, mask, n_retain, 1 + n_peer), at.device)
    _put_back_(at)
    (losses, seconds), ours = measured(lambda: _memhooks(at, mask, n_retain, 1 + n_ours), at.device)
    # The peer's second update is the first with decay: from there on the losses part.
    away = max(abs(one - other) for one, other in zip(losses[:2], expected[:2], strict=True))
    share = "-" if ours.peak is None or peer.peak is None else f"{ours.peak / peer.peak:.0%}"
    return Outcome(
        f"a step: {N_FORGET} paragraph to forget, {n_retain} retained, {len(mask):,} weights",
        at.name,
        Cost(median(seconds[1:]), ours.peak),
        f"{n_ours} steps",
        at.rate(),
        _floor(at, N_FORGET + n_retain),
        [Peer("official loop", Cost(median(theirs[1:]), peer.peak), f"{n_peer} steps", 5.0)],
        f"losses {losses[0]:.4g}, then {losses[1]:.4g}, within {away:.0e}, aim 1e-05; peak {share}, aim 60 %",
    )


def budget(at: Setting) -> Outcome:
    """A step that is recorded and judged, against gradient and optimizer alone."""
    times, rounds = (2, 1) if at.quick else (6, 3)
    recipe, mask = _recipe(N_RETAIN, n_steps=times + 2), top_mask(at)
    never = Budget(forget_em=0.0, longest_run=0.0, forget_nll=1e9)
    judged, bare, peaks = [], [], []
    for _ in range(rounds):  # in turns, so that both meet the same machine
        steps = unlearning_steps(at.model, *texts(at, N_RETAIN), mask, recipe=recipe, budget=never)
        ours = measured(partial(_intervals, steps, times), at.device)
        theirs = measured(partial(_intervals, _bare(at, mask, recipe), times), at.device)
        judged, bare = judged + ours[0], bare + theirs[0]
        peaks.append((ours[1].peak, theirs[1].peak))
    return Outcome(
        f"a step in budget mode, {N_FORGET} + {N_RETAIN} paragraphs, recorded and judged",
        at.name,
        Cost(median(judged), peaks[0][0]),
        f"{len(judged)} steps",
        at.rate(),
        _floor(at, N_FORGET + N_RETAIN),
        [Peer("gradient and optimizer alone", Cost(median(bare), peaks[0][1]), f"{len(bare)} steps", 0.77)],
        f"overhead {median(judged) / median(bare) - 1:+.0%}, aim below 30 %",
    )


def _recipe(n_retain: int, *, n_steps: int) -> Recipe:
    return Recipe(objective="paper_unlearn", retain="kl", retain_weight=50.0, lr=LR, n_retain=n_retain, n_steps=n_steps)


def _memhooks(at: Setting, mask: WeightMask, n_retain: int, n_steps: int) -> Run:
    recipe, losses = _recipe(n_retain, n_steps=n_steps), []
    with editing(at) as parameters:
        steps = Steps(at.model, *texts(at, n_retain), mask, recipe, watch=False)
        entries = MaskedOptimizer(parameters, mask, recipe)

        def one(number: int) -> None:
            record, gradient = steps.at(number)
            entries.step_(gradient)
            losses.append(record.loss)

        return losses, [timed(one, number) for number in range(n_steps)]


def _official(at: Setting, mask: WeightMask, n_retain: int, n_steps: int) -> Run:
    losses = []
    with official.flags_on(at.model):
        steps = official.fine_tuning_steps(at.model, *texts(at, n_retain), mask, lr=LR)
        with closing(steps):
            return losses, [timed(lambda: losses.append(next(steps))) for _ in range(n_steps)]


def _most_retained(at: Setting, mask: WeightMask) -> int:
    """`N_RETAIN`, or as many as the official loop can hold, by what its first step takes with one."""
    before = status("VmRSS")
    _, cost = measured(lambda: _official(at, mask, 1, 1), at.device)
    _put_back_(at)
    if before is None or cost.peak is None:
        return N_RETAIN
    dense = 20e-9 * len(mask) / mask.fraction  # gradient, Adam's two averages, a mask of 64 bits
    each = max(cost.peak - before - dense, 0.01) / (N_FORGET + 2)  # a retained one is also in the references' graph
    room = 0.85 * psutil.virtual_memory().available / 1e9 - dense
    return max(1, min(N_RETAIN, int((room / each - N_FORGET) / 2)))


def _put_back_(at: Setting) -> None:
    """The weights as they were, without a copy in memory meanwhile."""
    at.model.load_state_dict(setting(at.shape, device=at.device, quick=at.quick).model.state_dict())


def _bare(at: Setting, mask: WeightMask, recipe: Recipe) -> Iterator[None]:
    """What no step can do without, the same way; without end."""
    forget, retain = texts(at, N_RETAIN)
    rows, n, weight = forget.joined(retain), len(forget), recipe.retaining[1]
    with editing(at) as parameters:
        term, held = recipe.forgetting(at.model, forget, seed=recipe.seed), RETAIN["kl"](at.model, retain)

        def losses(logits: Tensor) -> Tensor:
            return torch.cat([term.loss(logits[:n]) / n, weight * held.loss(logits[n:]) / len(retain)])

        gradients, entries = MaskedGradients(at.model, mask), MaskedOptimizer(parameters, mask, recipe)
        while True:
            _, gradient = gradients(rows, losses)
            yield
            entries.step_(gradient)


def _intervals(steps: Iterator[object], times: int) -> list[float]:
    """Seconds of an update and of what leads to the next, so many times; what is built before the first is left out."""
    with closing(cast(Generator, steps)):
        next(steps)
        return warmed(next, steps, times=times)


def _floor(at: Setting, n: int) -> float:
    n_weights = sum(weight.numel() for weight in component_parameters(at.model).values())
    unembedded = at.model.cfg.d_vocab * at.model.cfg.d_model * at.recited.n_continuation
    return 2.0 * 2 * n * (n_weights * at.recited.tokens.shape[1] + unembedded) / at.rate()
