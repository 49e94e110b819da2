"""The sets that a swap is measured on, as rows of one batch: recited by the model, by the other fork, by neither."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from memhooks.errors import InputError
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import check_apart, clusters

SETS = ("memorized", "mirror", "control")
"""What the model recites; what the other recites; what neither has read."""


class Rows(NamedTuple):
    """All sets as one batch, and which rows are whose.

    Attributes:
        all: the paragraphs, set after set.
        of: rows of each set.
        clusters: near-duplicates within each set.
    """

    all: Paragraphs
    of: dict[str, slice]
    clusters: dict[str, Int[np.ndarray, " paragraph"]]


def batch(sets: Mapping[str, Paragraphs], needed: tuple[str, ...] = SETS) -> Rows:
    """The sets as one batch.

    Raises:
        InputError: a set is missing or unknown, they differ in prefix or length, or memorized text is in another set.
    """
    missing = [name for name in needed if name not in sets]
    unknown = [name for name in sets if name not in needed]
    if missing or unknown:
        raise InputError(
            f"sets must be {', '.join(needed)}, got {', '.join(sets) or 'none'}; "
            "mirror is what the other fork recites, control what neither has read"
        )
    first, *rest = (sets[name] for name in needed)
    joined = first.joined(*rest)
    check_apart({name: sets[name] for name in needed})
    ends = np.cumsum([0, *(len(sets[name]) for name in needed)]).tolist()
    of = {name: slice(*ends[place : place + 2]) for place, name in enumerate(needed)}
    return Rows(joined, of, {name: clusters(sets[name]).numpy() for name in needed})
