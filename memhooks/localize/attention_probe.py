"""What is asked of attention: which positions look, in which layers, at which prefix tokens."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attention_rows import checked_layers, local_layers
from memhooks.model.loading import HookedModel, window_of
from memhooks.paragraphs.paragraphs import Paragraphs

FEWEST_KEYS = 3
"""Keys that a rank correlation needs: of two, every order is perfect."""


Clusters = Int[Tensor, " paragraph"] | Int[np.ndarray, " paragraph"]
"""The cluster of near-duplicates that each paragraph is in."""


class Asked(TypedDict, total=False):
    """Settings of the rare-token probe, as keyword arguments."""

    queries: Sequence[int] | None
    """Positions that look; by default the last prefix token, which predicts the first continuation token."""
    layers: Sequence[int] | None
    """Only these layers; the pass stops after the last of them."""
    n_rarest: int
    """How many of the reachable keys are the rarest; 5 by default."""
    skip_first: bool
    """Leave out key position 0, where idle heads put their attention (the sink)."""


@dataclass(frozen=True)
class Probe:
    """Checked settings; keys are prefix positions that the layer can see from the query."""

    queries: tuple[int, ...]
    layers: tuple[int, ...]
    windows: tuple[int | None, ...]
    local: Bool[Tensor, " layer"]
    n_prefix: int
    n_rarest: int
    skip_first: bool

    def reach(self, query: int, layer: int) -> range:
        """The keys of the layer at this place in `layers`."""
        window = self.windows[layer]
        low = max(int(self.skip_first), 0 if window is None else query - window + 1)
        return range(low, min(query + 1, self.n_prefix))

    def same_reach(self, query: int) -> dict[range, list[int]]:
        """Places in `layers` by the keys that they see."""
        groups = defaultdict(list)
        for place in range(len(self.layers)):
            groups[self.reach(query, place)].append(place)
        return dict(groups)


def probe(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    queries: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    n_rarest: int = 5,
    skip_first: bool = False,
) -> Probe:
    """The settings, if they fit the model and the paragraphs.

    Raises:
        InputError: no such layer; a query outside the paragraphs, given twice, or that sees fewer than 3 prefix
            tokens; or no rarest keys.
    """
    paragraphs.check(model)
    chosen = checked_layers(model, layers)
    asking = (paragraphs.n_prefix - 1,) if queries is None else tuple(queries)
    last = paragraphs.tokens.shape[1] - 1
    if not asking or len(set(asking)) < len(asking) or min(asking) < 0 or max(asking) > last:
        raise InputError(f"queries must be different positions in 0..{last}, got {list(asking)}")
    if n_rarest < 1:
        raise InputError(f"n_rarest must be at least 1, got {n_rarest}")
    windows = tuple(window_of(model, layer) for layer in chosen)
    found = Probe(asking, chosen, windows, local_layers(model, chosen), paragraphs.n_prefix, n_rarest, skip_first)
    for query in asking:
        for place, layer in enumerate(chosen):
            if (n := len(found.reach(query, place))) < FEWEST_KEYS:
                raise InputError(
                    f"query {query} sees {n} prefix tokens in layer {layer}, and a rank correlation needs at least "
                    f"{FEWEST_KEYS}; choose other queries, or only layers that see more"
                )
    return found


def check_counts(model: HookedModel, counts: Num[Tensor, " d_vocab"]) -> None:
    """Refuse counts that cannot be this model's tokens'.

    Raises:
        InputError: of another vocabulary, negative, or not finite.
    """
    if counts.shape != (model.cfg.d_vocab,):
        raise InputError(f"counts must cover the vocabulary of {model.cfg.d_vocab} tokens, got {len(counts)}")
    wrong = ~counts.isfinite() | (counts < 0)
    if wrong.any():
        token = int(torch.nonzero(wrong)[0])
        raise InputError(f"counts must be numbers from 0 on, got {counts[token].item()} for token {token}")


def checked_clusters(clusters: Clusters | None, n_paragraphs: int) -> Int[np.ndarray, " paragraph"] | None:
    """The clusters, if they are of so many paragraphs.

    Raises:
        InputError: they are of another number.
    """
    if clusters is not None and len(clusters) != n_paragraphs:
        raise InputError(f"clusters must name {n_paragraphs} paragraphs, got {len(clusters)}")
    return None if clusters is None else np.asarray(clusters)
