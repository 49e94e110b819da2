"""The k largest or smallest of many numbers, exactly, and without ever sorting or joining all of them.

1. A random sample gives a threshold that a few more than k numbers pass.
2. Each chunk of numbers is read once, while it lies in the cache; what passes are the candidates.
3. The k-th best of the candidates, found by quickselect, decides; of those equal to it the first are taken.
Should fewer than k pass, which is unlikely, the threshold is loosened and all is read again.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float, Int32, Shaped
from torch import Tensor

from memhooks.errors import InputError

SMALL = 1 << 14
"""Where there are no more numbers than this, all are candidates."""

SAMPLED = 1 << 20
"""Most numbers in the sample, which holds one in 64 where that is fewer."""

CHUNK = 1 << 19
"""Numbers read at once: 2 MB of float32, which the second-level cache holds."""


@dataclass(frozen=True)
class Part:
    """Scores that compete with those of the other parts: a parameter's, or the piece of it from `start` on."""

    name: str
    start: int
    scores: Shaped[Tensor, " entry"]


def best(parts: Sequence[Part], k: int, *, smallest: bool = False) -> list[Int32[Tensor, " _"]]:
    """Sorted indices into each part of the `k` largest (or smallest) |scores|; of equal ones the first are taken.

    Raises:
        InputError: NaN or infinite scores.
    """
    parts = _of_one_dtype(parts)
    if k == sum(len(part.scores) for part in parts):
        for part in parts:
            _extent(part.name, part.scores)
        return [torch.arange(len(part.scores), dtype=torch.int32) for part in parts]
    found: list[tuple[np.ndarray, Tensor]] = []
    for cut in _cuts(parts, k, smallest=smallest):
        found = [_passing(part, cut, smallest=smallest) for part in parts]
        if sum(len(own) for own, _ in found) >= k:
            break
    values = torch.cat([own for _, own in found])
    chosen = _exactly(values if smallest else values.neg_(), k).split([len(own) for own, _ in found])
    return [torch.from_numpy(own[which.numpy()]) for (own, _), which in zip(found, chosen, strict=True)]


def _of_one_dtype(parts: Sequence[Part]) -> list[Part]:
    """So that a threshold means the same in each."""
    common = reduce(torch.promote_types, (part.scores.dtype for part in parts))
    common = common if common.is_floating_point else torch.float64
    return [Part(part.name, part.start, part.scores.detach().to(common)) for part in parts]


def _cuts(parts: Sequence[Part], k: int, *, smallest: bool) -> Iterator[float | None]:
    """Thresholds that more and more numbers pass; the last, None, lets all pass."""
    n = sum(len(part.scores) for part in parts)
    if n > SMALL:
        generator = torch.Generator().manual_seed(0)
        sample = torch.cat([_sampled(part, min(SAMPLED / n, 1 / 64), generator) for part in parts])
        expected = k * len(sample) / n
        margin = 4 * math.sqrt(expected) + 10
        while (rank := math.ceil(expected + margin)) < len(sample):
            yield sample.kthvalue(rank if smallest else len(sample) - rank + 1).values.item()
            margin *= 4
    yield None


def _sampled(part: Part, share: float, generator: torch.Generator) -> Float[Tensor, " drawn"]:
    n = len(part.scores)
    place = torch.randint(n, (math.ceil(share * n),), generator=generator).to(part.scores.device)
    return _widened(part.scores[place].abs())


def _passing(part: Part, cut: float | None, *, smallest: bool) -> tuple[np.ndarray, Float[Tensor, " candidate"]]:
    """Indices and |scores| of the candidates of one part."""
    places, values = [np.zeros(0, dtype=np.int32)], [_widened(part.scores[:0])]
    for number, chunk in enumerate(part.scores.split(CHUNK)):
        low, high = _extent(part.name, chunk)
        if cut is not None and not smallest and max(-low, high) < cut:
            continue
        size = chunk if low >= 0 else chunk.abs()
        own = np.arange(len(chunk)) if cut is None else np.flatnonzero((size <= cut if smallest else size >= cut).cpu())
        places.append((own + number * CHUNK).astype(np.int32))
        values.append(_widened(size[torch.from_numpy(own).to(size.device)]))
    return np.concatenate(places), torch.cat(values)


def _extent(name: str, scores: Float[Tensor, " entry"]) -> tuple[float, float]:
    """Smallest and largest; where any is NaN, both are.

    Raises:
        InputError: NaN or infinite scores.
    """
    low, high = (one.item() for one in torch.aminmax(scores))
    if not math.isfinite(low) or not math.isfinite(high):
        raise InputError(f"scores of {name} contain NaN or infinity, which has no rank; mend the localizer")
    return low, high


def _exactly(values: Float[Tensor, " candidate"], k: int) -> Tensor:
    """Which are the `k` smallest; of equal ones the first."""
    if k == 0:
        return torch.zeros(len(values), dtype=torch.bool)
    bound = values.kthvalue(k).values
    chosen = values < bound
    equal = (values == bound).nonzero()[:, 0]
    chosen[equal[: k - int(chosen.sum())]] = True
    return chosen


def _widened(values: Float[Tensor, " entry"]) -> Float[Tensor, " entry"]:
    """On the CPU and of at least 32 bits, where quickselect is at home."""
    return values.cpu().to(torch.promote_types(values.dtype, torch.float32))
