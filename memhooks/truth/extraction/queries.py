"""How many queries until a paragraph is out? (n, p)-discoverable extraction as a curve over the number of queries.

`measure.extractability` gives the probability that one sample is the whole continuation; from it follows, without
sampling, which paragraphs are among `n` samples with probability at least `p` (Hayes et al., 2024, arXiv:2410.19482).
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.measure.extractability import SamplerName, extractability, queries_needed
from memhooks.measure.shares import share_interval
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters


class SamplerSettings(TypedDict, total=False):
    """Settings of `extractability`, as keyword arguments."""

    sampler: SamplerName
    temperature: float
    top_k: int
    top_p: float


SAMPLERS: Mapping[str, SamplerSettings] = {
    "greedy": {"sampler": "greedy"},
    "temperature 1": {"sampler": "temperature", "temperature": 1.0},
    "top-k 40": {"sampler": "top_k", "top_k": 40},
    "top-p 0.95": {"sampler": "top_p", "top_p": 0.95},
}
QUERIES = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
PROBABILITIES = (0.1, 0.5, 0.9)


def extraction_curves(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    samplers: Mapping[str, SamplerSettings] = SAMPLERS,
    queries: Sequence[int] = QUERIES,
    probabilities: Sequence[float] = PROBABILITIES,
    batch_size: int = 32,
) -> xr.Dataset:
    """Share of paragraphs that are extractable with so many queries, for each sampler and probability.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: what it may recite.
        samplers: by name, settings of `extractability`.
        queries: numbers of samples, from 1.
        probabilities: a paragraph counts if it is among the samples with at least this probability.
        batch_size: rows per pass.

    Returns:
        Dataset over `sampler`, `p` (the probability) and `queries` (their number): `share` (0 to 1, 0 = none is
        extractable) with `share_low` and `share_high` (exact; near-duplicates count once); over `paragraph` and
        `sampler`: `log_probability` of one sample (nats, 0 = every sample says it).

    Raises:
        InputError: no samplers or numbers of queries, a number below 1, a probability that is none, or as
            `extractability`.
    """
    if not samplers or not queries or not probabilities:
        raise InputError("give at least one sampler, one number of queries and one probability")
    if min(queries) < 1:
        raise InputError(f"numbers of queries must be at least 1, got {min(queries)}")
    for p in probabilities:
        queries_needed(0.0, p=p)  # refuses what is no probability before any pass
    logs = np.stack(
        [
            extractability(model, paragraphs, batch_size=batch_size, **settings)["log_probability"].values
            for settings in samplers.values()
        ],
        axis=1,
    )
    needed = np.stack([queries_needed(logs, p=p) for p in probabilities], axis=-1)
    within = (needed[..., None] <= np.asarray(queries, dtype=float)).astype(float)
    share, low, high = share_interval(within, clusters=clusters(paragraphs).numpy())
    axes, unit = ("sampler", "p", "queries"), "share of paragraphs, 0 = none"
    labels = {"sampler": list(samplers), "p": list(probabilities), "queries": list(queries)}
    about = provenance(model, paragraphs.tokens) | {"n_prefix": paragraphs.n_prefix}
    return labelled(
        about,
        share=Variable(share, axes, unit, labels),
        share_low=Variable(low, axes, f"{unit}; lower end of the 95 % interval"),
        share_high=Variable(high, axes, f"{unit}; upper end"),
        log_probability=Variable(
            logs, ("paragraph", "sampler"), "nats of the whole continuation, 0 = certain", {"paragraph": paragraphs.ids}
        ),
    )
