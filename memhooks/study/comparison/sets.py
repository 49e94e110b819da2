"""The paragraphs of a comparison: tuned on some, judged on others.

What should stay is drawn twice as well, so that nothing that is reported has chosen a setting. What holds the model in
the retain term is the same for both; no paragraph of it is ever measured.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from memhooks.errors import InputError
from memhooks.measure.recitation import recitation, with_own_continuation
from memhooks.model.loading import HookedModel, load_model
from memhooks.organism.paragraphs import load_controls, load_planted
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.unlearn.evaluation import Untouched, untouched

Phase = Literal["tune", "judge"]


@dataclass(frozen=True)
class Sizes:
    """How many paragraphs of each kind, one per cluster of near-duplicates.

    Attributes:
        n_tuned: to tune on.
        n_judged: to report.
        n_together: unlearned at once in the large forget set.
        n_retain: memorized ones that hold the model, and as many never-seen ones.
        n_others: memorized ones that should stay, never used in training: while tuning, and as many as
            `n_others_judged` further ones while judging.
        n_held_out: never-seen ones on which language is measured, the same.
        n_seeds: of retained paragraphs and random masks; the judged paragraphs share them out.
        n_steps: of a run that unlearns one paragraph, at most.
        n_steps_together: of one that unlearns several.
    """

    n_tuned: int = 8
    n_judged: int = 24
    n_together: int = 16
    n_retain: int = 24
    n_others: int = 16
    n_others_judged: int = 24
    n_held_out: int = 10
    n_held_out_judged: int = 24
    n_seeds: int = 3
    n_steps: int = 16
    n_steps_together: int = 32


@dataclass(frozen=True)
class Bench:
    """Models and paragraphs, drawn by a seed; what is slow is computed once."""

    sizes: Sizes
    seed: int

    @cached_property
    def model(self) -> HookedModel:
        """The organism, bit for bit as shipped between runs."""
        return load_model("organism")

    @cached_property
    def twin(self) -> HookedModel:
        """The model that never read what is unlearned."""
        return load_model("organism-twin")

    @cached_property
    def memorized(self) -> dict[str, Paragraphs]:
        """Paragraphs that the organism recites in full: `tuned`, `judged`, `retain`, `others`, `others_judged`.

        Raises:
            InputError: there are too few.
        """
        planted = load_planted("A")
        recited = planted.select(recitation(self.model, planted)["full_match"].values)
        label = clusters(recited)
        first = torch.tensor([int((label == one).nonzero()[0]) for one in label.unique()])  # one per cluster
        s = self.sizes
        numbers = {"tuned": s.n_tuned, "judged": s.n_judged, "retain": s.n_retain, "others": s.n_others}
        numbers["others_judged"] = s.n_others_judged
        if sum(numbers.values()) > len(first):
            raise InputError(f"{sum(numbers.values())} recited paragraphs are needed, there are {len(first)}")
        generator = torch.Generator().manual_seed(self.seed)
        order = first[torch.randperm(len(first), generator=generator)]
        parts = order[: sum(numbers.values())].split(list(numbers.values()))
        return {name: recited.select(part) for name, part in zip(numbers, parts, strict=True)}

    @cached_property
    def unread(self) -> dict[str, Paragraphs]:
        """Never-seen paragraphs: `retain`, `held_out` and `held_out_judged`."""
        prose = load_controls("prose")
        drawn = prose.sample(self.sizes.n_retain + self.sizes.n_held_out, seed=self.seed)
        rest = prose.select([name not in set(drawn.ids) for name in prose.ids])
        order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(self.seed))
        return {
            "retain": drawn.select(order[: self.sizes.n_retain]),
            "held_out": drawn.select(order[self.sizes.n_retain :]),
            "held_out_judged": rest.sample(self.sizes.n_held_out_judged, seed=self.seed),
        }

    @cached_property
    def _untouched(self) -> dict[Phase, Untouched]:
        return {}

    def before(self, phase: Phase, forget: Paragraphs) -> Untouched:
        """The untouched model on some of a phase's paragraphs, and on what should stay; measured once for all."""
        if phase not in self._untouched:
            pool, end = ("tuned", "") if phase == "tune" else ("judged", "_judged")
            self._untouched[phase] = untouched(
                self.model,
                self.memorized[pool],
                others=self.memorized[f"others{end}"],
                held_out=self.unread[f"held_out{end}"],
                twin=self.twin,
                seed=self.seed,
            )
        known = self._untouched[phase]
        return known.of_forget([known.sets["forget"].ids.index(name) for name in forget.ids])

    def retain(self, seed: int) -> Paragraphs:
        """Half of the retained paragraphs, memorized and never-seen alike; each seed draws its own."""
        unread = self.unread["retain"].sample(self.sizes.n_retain // 2, seed=seed)
        return self.retain_memorized(seed).joined(unread)

    def retain_memorized(self, seed: int) -> Paragraphs:
        """The memorized ones among them."""
        return self.memorized["retain"].sample(self.sizes.n_retain // 2, seed=seed)

    def published_keep(self, seed: int) -> Paragraphs:
        """Ten never-seen paragraphs with the model's own continuations, as published."""
        return with_own_continuation(self.model, self.unread["retain"].sample(10, seed=seed))

    def chosen(self, phase: Phase, size: int, number: int) -> Paragraphs:
        """The paragraphs to forget of one run: a single one, or several together.

        Args:
            phase: `tune` or `judge`.
            size: how many are unlearned at once.
            number: which paragraph; of several together which draw.
        """
        pool = self.memorized["tuned" if phase == "tune" else "judged"]
        return pool.select([number]) if size == 1 else pool.sample(size, seed=self.seed + number)
