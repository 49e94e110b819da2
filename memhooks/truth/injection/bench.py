"""The model and the texts of one scoring, and what to do with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from memhooks.errors import InputError
from memhooks.localize.localizers import LOCALIZERS, Localizer
from memhooks.measure.recitation import recitation
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.truth.injection.candidates import CANDIDATES
from memhooks.truth.injection.regions import REGIONS

NATURAL = "natural"
"""Not a region: paragraphs that the model recites by itself, of which nobody knows where they were written."""

LEARNED = "balanced_subnet"
"""The localizer that learns its mask, step by step, and so takes seconds."""

LEARNED_ON = ("random", "neurons", NATURAL)
"""Where it is asked: it ranks MLP weights alone."""

CHECKS = ("decoy", "easy")
"""Regions that check the scoring itself, with fewer injections."""


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        regions: names in `REGIONS`, and `natural`.
        n_injections: in each region that is scored, another paragraph for each.
        n_checks: in each region of `CHECKS`, at most as many; eight can give a p of 0.008, five none below 0.05.
        n_learned: injections of each region on which the learned mask is asked, too.
        n_natural: recited paragraphs for deletion alone.
        n_retain: never-read paragraphs that localizers may contrast with.
        n_others: recited paragraphs on which deletion should cost nothing.
        n_language: never-read ones on which language is measured.
        n_steps: updates of one injection, at most.
        seed: of all draws.

    Raises:
        InputError: an unknown region, one named twice, or a number out of range.
    """

    regions: Sequence[str] = (*REGIONS, NATURAL)
    n_injections: int = 20
    n_checks: int = 8
    n_learned: int = 3
    n_natural: int = 8
    n_retain: int = 8
    n_others: int = 4
    n_language: int = 4
    n_steps: int = 80
    seed: int = 0

    def __post_init__(self) -> None:
        known = (*REGIONS, NATURAL)
        unknown = [name for name in self.regions if name not in known]
        if unknown or not self.regions:
            raise InputError(f"regions are {', '.join(known)}, got {unknown[0] if unknown else 'none'}")
        if len(set(self.regions)) < len(self.regions):
            raise InputError(f"each region can be asked for once, got {', '.join(self.regions)}")
        for name in ("n_injections", "n_checks", "n_natural", "n_retain", "n_others", "n_language", "n_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_learned < 0:
            raise InputError(f"n_learned must be at least 0, got {self.n_learned}")


@dataclass
class Bench:
    """The model, bit for bit as loaded between trials, and the texts of a plan.

    Attributes:
        model: that is written to.
        plan: how much of everything.
        unread: text that it never read, to be written, contrasted with and held out.
        recited: text that it recites in full.
        localizers: to be scored.

    Raises:
        InputError: too few texts, or of different shapes.
    """

    model: HookedModel
    plan: Plan
    unread: Paragraphs
    recited: Paragraphs
    localizers: Sequence[Localizer] = field(default=(*LOCALIZERS, *CANDIDATES))

    def __post_init__(self) -> None:
        plan = self.plan
        recited = one_per_cluster(self.recited, plan.seed)
        parts = (plan.n_injections, plan.n_injections, plan.n_retain, plan.n_language)
        unread = self._unrecited(one_per_cluster(self.unread, plan.seed).select(slice(0, 2 * sum(parts))))
        _check_enough("never-read", len(unread), sum(parts))
        natural = plan.n_natural if NATURAL in plan.regions else 0
        _check_enough("recited", len(recited), plan.n_others + natural)
        self.targets, self.decoys, self.retain, self.language = unread.parts(*parts)
        self.others = recited.select(slice(0, plan.n_others))
        self.natural = recited.select(slice(plan.n_others, plan.n_others + natural)) if natural else None

    def asked(self, region: str, number: int) -> Iterator[tuple[str, Localizer]]:
        """The localizers of one injection by name; the learned one where it can find anything, for the first few."""
        for one in self.localizers:
            name = str(getattr(one, "__name__", type(one).__name__))
            if name != LEARNED or (region in LEARNED_ON and number < self.plan.n_learned):
                yield name, one

    def sets(self, target: Paragraphs) -> dict[str, Paragraphs]:
        """What deletion is measured on."""
        return {"target": target, "others": self.others, "language": self.language}

    def _unrecited(self, unread: Paragraphs) -> Paragraphs:
        """The rows of never-read text that are not recited; what is recited all the same cannot be written.

        Raises:
            InputError: all of it is.
        """
        known = recitation(self.model, unread)["full_match"].values
        if known.all():
            raise InputError("the model recites all of the text that it should never have read; give other text")
        return unread.select(~known)


def one_per_cluster(paragraphs: Paragraphs, seed: int) -> Paragraphs:
    """One paragraph of each cluster of near-duplicates, in an order drawn by the seed."""
    label = clusters(paragraphs)
    first = torch.tensor([int((label == one).nonzero()[0]) for one in label.unique()])
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))
    return paragraphs.select(first[order])


def _check_enough(what: str, there: int, needed: int) -> None:
    if there < needed:
        raise InputError(
            f"{needed} {what} paragraphs are needed, one per cluster of near-duplicates, and there are {there}; "
            "give more text or ask for less"
        )
