"""Who is read how often, and when: a pure function of paragraphs, recipe and seed.

1. Clusters of near-duplicates are dealt to the levels at random, each to the level that has fewest paragraphs so far:
   a copy of a paragraph that is read must not stand among those that never are.
2. The r readings of a paragraph are spread over the training: one at a random moment of each r-th part.
3. All readings, in order of their moments, fill the steps; then come steps on background alone.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Int

from memhooks.errors import InputError
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.truth.leak.recipe import LeakRecipe

_FEWEST = 2


@dataclass(frozen=True)
class Schedule:
    """What each step reads.

    Attributes:
        level: how often each paragraph is read in all.
        cluster: of near-duplicates.
        readings: for each step the rows of the paragraphs that it reads, none after the last reading.
        background: for each step the rows of the background that it reads.
        evaluated: steps before which all is measured; the last is the number of steps.
    """

    level: Int[np.ndarray, " paragraph"]
    cluster: Int[np.ndarray, " paragraph"]
    readings: tuple[tuple[int, ...], ...]
    background: tuple[tuple[int, ...], ...]
    evaluated: tuple[int, ...]

    @property
    def n_steps(self) -> int:
        """Updates in all."""
        return len(self.readings)

    def read_before(self, step: int) -> Int[np.ndarray, " paragraph"]:
        """How often each paragraph was read by the updates before this step."""
        rows = [row for own in self.readings[:step] for row in own]
        return np.bincount(np.array(rows, dtype=int), minlength=len(self.level))

    def last_reading(self) -> Int[np.ndarray, " paragraph"]:
        """Number of updates until the one that reads each paragraph last has been made; 0 = it is never read."""
        found = np.zeros(len(self.level), dtype=int)
        for step, own in enumerate(self.readings, start=1):
            found[list(own)] = step
        return found


def schedule(paragraphs: Paragraphs, recipe: LeakRecipe, *, n_background: int) -> Schedule:
    """What each step reads; `n_background` is how many rows of background there are to draw from.

    Raises:
        InputError: too few clusters of near-duplicates for the levels, or nothing to read after the last reading.
    """
    recipe.check()
    cluster = clusters(paragraphs).numpy()
    level = _dealt(cluster, recipe)
    rng = np.random.default_rng([recipe.seed, 1])
    moments = sorted(
        ((place + rng.random()) / times, row) for row, times in enumerate(level.tolist()) for place in range(times)
    )
    order = [row for _, row in moments]
    read = [tuple(order[at : at + recipe.planted]) for at in range(0, len(order), recipe.planted)]
    n_after = ceil(recipe.after * len(read)) if n_background and recipe.background else 0
    n_steps = len(read) + n_after
    wanted = recipe.background if n_background else 0
    return Schedule(
        level,
        cluster,
        (*read, *[()] * n_after),
        _background(n_steps, wanted, n_background, np.random.default_rng([recipe.seed, 2])),
        _evaluated(len(read), n_steps, recipe.n_evaluations),
    )


def _dealt(cluster: Int[np.ndarray, " paragraph"], recipe: LeakRecipe) -> Int[np.ndarray, " paragraph"]:
    labels, place = np.unique(cluster, return_inverse=True)
    least = _FEWEST * len(recipe.repetitions)
    if len(labels) < least:
        raise InputError(
            f"{len(recipe.repetitions)} levels of repetitions need at least {least} paragraphs that are no "
            f"near-duplicates of each other, got {len(labels)}; give more paragraphs or fewer levels"
        )
    order = np.random.default_rng([recipe.seed, 0]).permutation(len(labels))
    size, level = dict.fromkeys(recipe.repetitions, 0), np.zeros(len(cluster), dtype=int)
    for one in order:
        fewest = min(size, key=lambda name: size[name])
        level[place == one] = fewest
        size[fewest] += int((place == one).sum())
    return level


def _background(n_steps: int, wanted: int, n_rows: int, rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Rows in random order, all once before any twice."""
    need = n_steps * wanted
    rounds = [rng.permutation(n_rows) for _ in range(ceil(need / n_rows))] if need else []
    rows = np.concatenate(rounds).tolist() if rounds else []
    return tuple(tuple(rows[at * wanted : (at + 1) * wanted]) for at in range(n_steps))


def _evaluated(n_read: int, n_steps: int, n_evaluations: int) -> tuple[int, ...]:
    evenly = np.linspace(0, n_steps, n_evaluations + 1).round().astype(int).tolist()
    return tuple(sorted({*evenly, n_read}))
