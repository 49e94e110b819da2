"""The scores of every localizer for one text, beside blind scores and the forks' own difference."""

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.localizers import LOCALIZERS, Localizer
from memhooks.localize.objectives import objective_name
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked
from memhooks.truth.forks.swapped import check_forks

QUICK: tuple[Localizer, ...] = tuple(one for one in LOCALIZERS if objective_name(one) != "balanced_subnet")
"""The localizers that take seconds; `balanced_subnet` learns for a minute."""

BOUNDS = ("random", "oracle")
"""Blind scores, and |difference of the forks' weights|, which no localizer can see."""


class Scored(NamedTuple):
    """One localizer's scores by parameter name, and the seconds that they took."""

    scores: dict[str, Tensor]
    seconds: float


def localized(
    model: HookedModel,
    other: HookedModel,
    forget: Paragraphs,
    retain: Paragraphs,
    *,
    localizers: Sequence[Localizer] = QUICK,
    seed: int = 0,
) -> dict[str, Scored]:
    """Every localizer's scores for the text to forget, then `random` and `oracle`.

    Raises:
        InputError: no forks, no localizers, or two of one name.
    """
    check_forks(model, other)
    names = [objective_name(one) for one in localizers]
    if not names or len({*names, *BOUNDS}) < len(names) + len(BOUNDS):
        raise InputError(f"localizers need different names other than {' and '.join(BOUNDS)}, got {names or 'none'}")
    found = {}
    for name, localizer in tracked(list(zip(names, localizers, strict=True)), "localizing"):
        begin = perf_counter()
        scores = localizer(model, forget, retain, seed=seed)
        found[name] = Scored({key: one.detach() for key, one in scores.items()}, perf_counter() - begin)
    own, theirs = component_parameters(model), component_parameters(other)
    generator = torch.Generator().manual_seed(seed)
    blind = {key: torch.rand(one.shape, generator=generator) for key, one in own.items()}
    apart = {key: (theirs[key] - one).detach().abs() for key, one in own.items()}
    return found | {"random": Scored(blind, 0.0), "oracle": Scored(apart, 0.0)}
