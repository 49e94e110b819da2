"""When was each planted paragraph read, and how long before the end of training for the last time?

The fork's step size fell linearly to zero, so a late reading also was a small one: what goes with the gap is the
sum of forgetting since, and of the step size then.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.organism.paragraphs import insertion_steps, load_bundled
from memhooks.paragraphs.paragraphs import Paragraphs


class ReadingTimes(NamedTuple):
    """When each paragraph was read; NaN where it is not known.

    Attributes:
        gap: updates of training after the one that read it last, 0 = the last update read it.
        spacing: mean updates from one reading to the next, NaN for a single reading.
    """

    gap: Float[np.ndarray, " paragraph"]
    spacing: Float[np.ndarray, " paragraph"]


def planted_times(paragraphs: Paragraphs) -> ReadingTimes:
    """When these planted paragraphs (of set A, or of set B) were read by the model that read them.

    Raises:
        InputError: paragraphs that are not rows of a planted set.
    """
    steps = insertion_steps()
    known = {}
    for which in ("A", "B"):
        rows = load_bundled(which)
        known |= {} if rows is None else {name: steps[row] for row, name in enumerate(rows.ids)}
    foreign = [name for name in paragraphs.ids if name not in known]
    if foreign:
        raise InputError(
            f"reading times are known of sets A and B alone, not of {foreign[0]!r}; pass ReadingTimes of your own"
        )
    end = max(step for own in steps.values() for step in own)
    read = [known[name] for name in paragraphs.ids]
    gap = np.array([end - max(own) for own in read], dtype=float)
    spacing = [(max(own) - min(own)) / (len(own) - 1) if len(own) > 1 else np.nan for own in read]
    return ReadingTimes(gap, np.array(spacing, dtype=float))


def unknown_times(n: int) -> ReadingTimes:
    """Nothing is known of when `n` paragraphs were read."""
    return ReadingTimes(np.full(n, np.nan), np.full(n, np.nan))
