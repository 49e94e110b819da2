"""How much of the prefix does recitation need? The last m of its tokens alone, raw, and the same continuation.

A shorter prefix also stands at other positions: it begins at position 0, so that every token is earlier than where it
was read. Paragraphs that were read at many offsets bear that better; the whole prefix is the check.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from memhooks.errors import InputError
from memhooks.measure.extractability import queries_needed
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.recitation import recitation
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.progress import tracked

N_QUERIES = 100


def prefix_lengths(n_prefix: int, *, step: int = 5) -> list[int]:
    """Every `step` tokens up to the whole prefix.

    Raises:
        InputError: a step below one.
    """
    if step < 1:
        raise InputError(f"step must be at least 1, got {step}")
    return sorted({*range(step, n_prefix, step), n_prefix})


def prefix_length_curve(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    seed: int,
    lengths: Sequence[int] | None = None,
    n_queries: int = N_QUERIES,
    batch_size: int = 32,
) -> xr.Dataset:
    """Recitation after the last `m` tokens of the prefix.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: what it may recite.
        seed: of intervals over paragraphs (near-duplicates count once).
        lengths: `m`, by default every fifth up to the whole prefix.
        n_queries: a paragraph is extractable if it is among so many samples (temperature 1) as likely as not.
        batch_size: rows per pass.

    Returns:
        Dataset over `row` (m), each with `_low` and `_high`, ends of 95 % intervals: `full_match` (share recited in
        full, 0 = none), `exact_match` (tokens before the first miss), `nll` (nats per continuation token, 0 =
        certain), `extractable` (share, 0 = none). Over `paragraph` and `row` the same values of each paragraph.

    Raises:
        InputError: lengths outside 1 to the prefix's or given twice, `n_queries` below one, or as `recitation`.
    """
    chosen = prefix_lengths(paragraphs.n_prefix) if lengths is None else list(lengths)
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 1 or max(chosen) > paragraphs.n_prefix:
        raise InputError(f"lengths must be different numbers in 1..{paragraphs.n_prefix}, got {chosen}")
    if n_queries < 1:
        raise InputError(f"n_queries must be at least 1, got {n_queries}")
    found: dict[str, list[np.ndarray]] = {name: [] for name in _UNITS}
    for m in tracked(chosen, "prefix lengths"):
        short = last_of_prefix(paragraphs, m)
        recited = recitation(model, short, batch_size=batch_size)
        # At temperature 1 a sample is the continuation with the very probability of its tokens.
        sampled = recited["log_probability"].values.clip(max=0)
        found["full_match"].append(recited["full_match"].values.astype(float))
        found["exact_match"].append(recited["exact_match"].values.astype(float))
        found["nll"].append(recited["nll"].values.mean(1).astype(float))
        found["extractable"].append((queries_needed(sampled, p=0.5) <= n_queries).astype(float))
    label, columns = clusters(paragraphs).numpy(), {}
    for name, values in found.items():
        each = np.stack(values, axis=1)
        for end, ends in zip(("", "_low", "_high"), bootstrap_mean(each, seed=seed, clusters=label), strict=True):
            columns[f"{name}{end}"] = Variable(ends, ("row",), _UNITS[name], {"row": chosen})
        columns[f"{name}_each"] = Variable(each, ("paragraph", "row"), _UNITS[name], {"paragraph": paragraphs.ids})
    about = provenance(model, paragraphs.tokens) | {"n_prefix": paragraphs.n_prefix, "n_queries": n_queries}
    return labelled(about | {"n_continuation": paragraphs.n_continuation, "seed": seed}, **columns)


def last_of_prefix(paragraphs: Paragraphs, m: int) -> Paragraphs:
    """The paragraphs with the last `m` tokens of their prefix alone."""
    return replace(paragraphs, tokens=paragraphs.tokens[:, paragraphs.n_prefix - m :], n_prefix=m, text=None)


_UNITS = {
    "full_match": "share recited in full, 0 = none",
    "exact_match": "tokens before the first miss, 0 = none",
    "nll": "nats per continuation token, 0 = certain",
    "extractable": "share extractable with n_queries samples at p = 0.5, 0 = none",
}
