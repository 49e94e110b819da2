"""The paragraphs of a study, now that it is known which are recited, and the conditions that are compared."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.study.interventions import Conditions
from memhooks.study.looking import partly_recited
from memhooks.study.settings import Settings
from memhooks.study.subject import Subject
from memhooks.study.unlearning import Parts


@dataclass(frozen=True)
class Sets:
    """What a stage draws its rows from.

    Attributes:
        subject: of the study.
        recited: the results of its recitation stage, by condition.
        settings: of the study.
    """

    subject: Subject
    recited: Mapping[str, xr.Dataset]
    settings: Settings

    @property
    def memorized(self) -> Paragraphs:
        """The paragraphs that the model recites in full.

        Raises:
            InputError: there are fewer than four.
        """
        found, n = self.in_full("memorized"), len(self.subject.candidates)
        if found.sum() < 4:
            raise InputError(
                f"the model recites {found.sum()} of {n} paragraphs in full; a study needs at least 4 such paragraphs"
            )
        return self.subject.candidates.select(found)

    @property
    def unread(self) -> Paragraphs:
        """The controls: never read, and not recited by chance either.

        Raises:
            InputError: the model recites them all.
        """
        recited = self.in_full("control")
        if recited.all():
            raise InputError(f"all {len(recited)} controls are recited in full, so they are none; give other text")
        return controls_of(self.subject, self.settings).select(~recited)

    def in_full(self, name: str) -> Bool[np.ndarray, " paragraph"]:
        """Which paragraphs of that condition are recited in full."""
        return self.recited[name]["full_match"].values

    def conditions(self, n: int) -> Conditions:
        """All conditions with up to `n` paragraphs each; a smaller `n` gives some of those of a larger one."""
        found = self.prefix_conditions(n)
        model, control = found["control"]
        own = (model, with_own_continuation(model, control))
        order = ("memorized", "control", "control_own", "twin")
        return {name: one for name in order if (one := {**found, "control_own": own}.get(name))}

    def prefix_conditions(self, n: int) -> Conditions:
        """The conditions that differ in the prefix or the model; nothing is decoded for them."""
        model, twin, seed = self.subject.model, self.subject.twin, self.settings.seed
        memorized = self.memorized.sample(n, seed=seed)
        found = {"memorized": (model, memorized), "control": (model, self.unread.sample(n, seed=seed))}
        return found if twin is None else found | {"twin": (twin, memorized)}

    def further(self, n: int) -> dict[str, Paragraphs]:
        """Text that is memorized otherwise, in part, or not at all, at losses between those of A and C."""
        sets, seed = self.subject.further, self.settings.seed
        found = {}
        if "natural" in sets and self.in_full("natural").any():
            found["natural"] = sets["natural"].select(self.in_full("natural")).sample(n, seed=seed)
        if "licence_never" in sets:
            found["licence_never"] = sets["licence_never"].sample(n, seed=seed)
        partly = partly_recited(self.subject.candidates, self.in_full("memorized"))
        return found if partly is None else found | {"partly": partly.sample(n, seed=seed)}

    def read_often(self, n: int) -> dict[str, Paragraphs]:
        """What the model recites, what the twin read as often as any, and what neither read."""
        mirror = self.subject.mirror
        assert mirror is not None  # or the stage would be left out
        most = max(mirror.counts or (0,))
        often = mirror.select([count == most for count in mirror.counts or ()])
        sets = {"memorized": self.memorized, "mirror": often, "control": self.subject.unread}
        return {name: rows.sample(n, seed=self.settings.seed) for name, rows in sets.items()}

    def unlearning(self) -> Parts:
        """Targets, what holds the model, what should stay, and from which NLL on a target is forgotten.

        That is half of its NLL under the twin, or half of the controls' mean where there is no twin.

        Raises:
            InputError: too few paragraphs are recited.
        """
        s, model, twin = self.settings, self.subject.model, self.subject.twin
        needed, there = s.n_unlearned + s.n_retain + 2, len(self.memorized)
        if there < needed:
            raise InputError(
                f"unlearning needs {needed} paragraphs recited in full (n_unlearned, n_retain and 2 others), there "
                f"are {there}; set n_unlearned or n_retain lower in another folder, or with --restart"
            )
        memorized = self.memorized.sample(s.n_unlearned + s.n_retain + s.n_others, seed=s.seed + 1)
        others = len(memorized) - s.n_unlearned - s.n_retain
        targets, kept, others = memorized.parts(s.n_unlearned, s.n_retain, others)
        unread = self.unread.sample(s.n_retain + s.n_others, seed=s.seed + 1)
        n_retain = min(s.n_retain, len(unread) // 2)
        retain, held_out = unread.parts(n_retain, len(unread) - n_retain)
        judge, rows = (model, held_out) if twin is None else (twin, targets)
        nll = recitation(judge, rows)["nll"].mean("pos").values
        goals = [float(nll.mean()) / 2] * len(targets) if twin is None else (nll / 2).tolist()
        return Parts(targets, kept.joined(retain), {"other memorized": others, "never seen": held_out}, goals)

    def viewed(self, n: int) -> Conditions:
        """What the report's viewer shows: recited and never-read paragraphs, and natural duplicates."""
        model, found = self.subject.model, self.prefix_conditions(n)
        shown = {name: found[name] for name in ("memorized", "control")}
        natural = self.further(n).get("natural")
        return shown if natural is None else shown | {"natural": (model, natural)}


def controls_of(subject: Subject, settings: Settings) -> Paragraphs:
    """The never-read paragraphs whose recitation is measured."""
    return subject.unread.sample(settings.n_controls, seed=settings.seed)
