"""The stages of a study: their order, what each needs, and about how long it takes."""

import difflib
from collections.abc import Sequence
from typing import Literal, get_args

from memhooks.errors import InputError
from memhooks.study.settings import Settings
from memhooks.study.subject import Subject

Intervened = Literal["perturbation", "patching", "ablation", "lens"]
Looked = Literal["gradients", "attention"]
Checked = Literal["forks", "capacity", "sinks", "injections"]
Stage = Literal["recitation", Intervened, Looked, Checked, "unlearning", "viewer"]
STAGES: tuple[Stage, ...] = get_args(Stage)

NEEDS: dict[Stage, tuple[Stage, ...]] = {"patching": ("perturbation",), "attention": ("ablation",)}
"""What a stage reads beside the recitation, which all need."""

_COST: dict[Stage, tuple[float, str]] = {
    "recitation": (0.02, "n_planted"),
    "perturbation": (1.2, "n_perturbed"),
    "patching": (1.5, "n_perturbed"),
    "ablation": (2.0, "n_ablated"),
    "lens": (0.1, "n_lens"),
    "gradients": (0.6, "n_gradients"),
    "attention": (0.05, "n_attention"),
    "forks": (3.0, "n_swapped"),
    "capacity": (0.05, "n_counted"),
    "sinks": (0.05, "n_lens"),
    "injections": (12.0, "n_injections"),
    "unlearning": (15.0, "n_unlearned"),
    "viewer": (0.1, "n_viewed"),
}
"""Seconds for one of what the setting counts, on one core of 2024: only for the time that is left."""


def expected_seconds(stage: Stage, settings: Settings) -> float:
    """About how long a stage takes."""
    each, of = _COST[stage]
    return each * getattr(settings, of)


def with_needs(asked: Sequence[str]) -> tuple[Stage, ...]:
    """The stages asked for and those that they read, in their order.

    Raises:
        InputError: there is no such stage, or none is asked for.
    """
    wanted: set[str] = {"recitation"}
    if not asked:
        raise InputError(f"no stage is asked for; there are {', '.join(STAGES)}")
    for name in asked:
        if name not in STAGES:
            near = difflib.get_close_matches(name, STAGES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"no stage {name!r}; {hint}there are {', '.join(STAGES)}")
        wanted |= {name, *NEEDS.get(name, ())}
    return tuple(stage for stage in STAGES if stage in wanted)


def readers_of(asked: Sequence[str]) -> tuple[Stage, ...]:
    """The stages asked for and all that read their results.

    Raises:
        InputError: there is no such stage.
    """
    if not asked:
        return ()
    if "recitation" in with_needs(asked) and "recitation" in asked:
        return STAGES
    read_by = {stage for stage, needs in NEEDS.items() if set(needs) & set(asked)}
    return tuple(stage for stage in STAGES if stage in {*asked, *read_by, "viewer"})


def missing(stage: Stage, subject: Subject) -> str | None:
    """What a stage would need that this study has not, in words; None if it can run."""
    if stage in ("forks", "capacity") and (subject.twin is None or subject.mirror is None):
        return "needs a twin, and what the twin read in place of the paragraphs: only the bundled organism has both"
    if stage == "attention" and subject.counts is None:
        return "needs token counts of the training text (setting counts), to know which tokens are rare"
    return None
