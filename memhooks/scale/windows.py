"""Windows of documents: every `stride` tokens from each document's start, never across its end."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Bool, Integer

from memhooks.scale.segments import Segment


@dataclass(frozen=True)
class Window:
    """Some tokens in a row, and where they stand."""

    tokens: Integer[np.ndarray, " pos"]
    source: str
    offset: int


def windows(segments: Iterable[Segment], *, n_tokens: int, stride: int) -> Iterator[Window]:
    """The windows of all segments in order; the rest of a document that is shorter than a window has none."""
    for segment in segments:
        first = -segment.first % stride  # the next multiple of the stride
        for start in range(first, len(segment.tokens) - n_tokens + 1, stride):
            yield Window(segment.tokens[start : start + n_tokens], segment.source, segment.first + start)


def blocks(items: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """The windows, so many at a time."""
    while block := list(islice(items, size)):
        yield block


def varied(tokens: Integer[np.ndarray, "window pos"], *, min_unique: float | int) -> Bool[np.ndarray, " window"]:
    """Whether at least this share of a window's tokens are distinct (Stoehr et al., 2024: one half)."""
    ordered = np.sort(tokens, axis=1)
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1) >= min_unique * tokens.shape[1]
