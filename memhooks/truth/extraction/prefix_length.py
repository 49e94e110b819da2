"""How much of the prefix does recitation need? The last m of its tokens, and the same continuation.

1. Alone, raw. Such a prefix begins at position 0: it has lost context, and all of it stands earlier than it was read.
2. In place: the same tokens at their own positions, after other text instead of their own. What this recites and the
   first does not, is due to position (and to there being any text in front); what both lose, to the lost tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.extractability import queries_needed
from memhooks.measure.intervals import bootstrap_mean
from memhooks.measure.recitation import recitation
from memhooks.measure.shares import share_interval
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
    in_front: Paragraphs | None = None,
    lengths: Sequence[int] | None = None,
    n_queries: int = N_QUERIES,
    batch_size: int = 32,
) -> xr.Dataset:
    """Recitation after the last `m` tokens of the prefix.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: what it may recite.
        seed: of intervals over paragraphs (near-duplicates count once), and of which text comes in front.
        in_front: other text; with it the last tokens are also given in place, after the first tokens of another row
            of it, dealt at random. That takes twice the passes.
        lengths: `m`, by default every fifth up to the whole prefix.
        n_queries: a paragraph is extractable if it is among so many samples (temperature 1) as likely as not.
        batch_size: rows per pass.

    Returns:
        Dataset over `row` (m), each with `_low` and `_high`, ends of 95 % intervals: `full_match` (share recited in
        full, 0 = none), `exact_match` (tokens before the first miss), `nll` (nats per continuation token, 0 =
        certain), `extractable` (share, 0 = none); with `in_front` the same of the tokens in place, as
        `full_match_in_place` and so on. Over `paragraph` and `row` the same values of each paragraph, as
        `full_match_each`.

    Raises:
        InputError: lengths outside 1 to the prefix's or given twice, `n_queries` below one, text to come in front
            that is too short or the paragraph's own, or as `recitation`.
    """
    chosen = _checked(lengths, paragraphs.n_prefix)
    if n_queries < 1:
        raise InputError(f"n_queries must be at least 1, got {n_queries}")
    other = None if in_front is None else _dealt(in_front, paragraphs, seed)
    found: dict[str, list[np.ndarray]] = {}
    for m in tracked(chosen, "prefix lengths"):
        given = {"": last_of_prefix(paragraphs, m)}
        if other is not None:
            given["_in_place"] = _after(other, paragraphs, m)
        for end, rows in given.items():
            for name, values in _measured(model, rows, n_queries, batch_size).items():
                found.setdefault(name + end, []).append(values)
    columns = _columns(found, paragraphs, chosen, seed)
    about = provenance(model, paragraphs.tokens) | {"n_prefix": paragraphs.n_prefix, "n_queries": n_queries}
    return labelled(about | {"n_continuation": paragraphs.n_continuation, "seed": seed}, **columns)


def _checked(lengths: Sequence[int] | None, n_prefix: int) -> list[int]:
    """The lengths to measure.

    Raises:
        InputError: none, outside 1 to the prefix's, or given twice.
    """
    chosen = prefix_lengths(n_prefix) if lengths is None else list(lengths)
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 1 or max(chosen) > n_prefix:
        raise InputError(f"lengths must be different numbers in 1..{n_prefix}, got {chosen}")
    return chosen


def _columns(
    found: dict[str, list[np.ndarray]], paragraphs: Paragraphs, chosen: list[int], seed: int
) -> dict[str, Variable]:
    """Means and shares with their intervals, and each paragraph's own value."""
    label, columns = clusters(paragraphs).numpy(), {}
    for name, values in found.items():
        each, unit = np.stack(values, axis=1), _UNITS[name.removesuffix("_in_place")]
        if unit.startswith("share"):
            interval = share_interval(each, clusters=label)
        else:
            interval = bootstrap_mean(each, seed=seed, clusters=label)
        for end, ends in zip(("", "_low", "_high"), interval, strict=True):
            columns[f"{name}{end}"] = Variable(ends, ("row",), unit, {"row": chosen})
        columns[f"{name}_each"] = Variable(each, ("paragraph", "row"), unit, {"paragraph": paragraphs.ids})
    return columns


def _measured(model: HookedModel, rows: Paragraphs, n_queries: int, batch_size: int) -> dict[str, np.ndarray]:
    recited = recitation(model, rows, batch_size=batch_size)
    # At temperature 1 a sample is the continuation with the very probability of its tokens.
    sampled = recited["log_probability"].values.clip(max=0)
    return {
        "full_match": recited["full_match"].values.astype(float),
        "exact_match": recited["exact_match"].values.astype(float),
        "nll": recited["nll"].values.mean(1).astype(float),
        "extractable": (queries_needed(sampled, p=0.5) <= n_queries).astype(float),
    }


def _dealt(in_front: Paragraphs, paragraphs: Paragraphs, seed: int) -> Int[Tensor, "paragraph pos"]:
    """The first tokens of a random row for each paragraph, never those of its own prefix.

    Raises:
        InputError: rows shorter than the prefix, or none that is another's.
    """
    n, rng = paragraphs.n_prefix, np.random.default_rng(seed)
    if in_front.tokens.shape[1] < n:
        raise InputError(f"text in front must have at least {n} tokens, a whole prefix, got {in_front.tokens.shape[1]}")
    rows, found = in_front.tokens[:, :n], []
    for own in paragraphs.prefix:
        others = (rows != own).any(1).nonzero()[:, 0].numpy()
        if not len(others):
            raise InputError("text in front must be other text, and all of it is a paragraph's own prefix")
        found.append(rows[int(rng.choice(others))])
    return torch.stack(found)


def _after(other: Int[Tensor, "paragraph pos"], paragraphs: Paragraphs, m: int) -> Paragraphs:
    """The paragraphs with other text in place of all but the last `m` tokens of their prefix."""
    away = paragraphs.n_prefix - m
    return replace(paragraphs, tokens=torch.cat([other[:, :away], paragraphs.tokens[:, away:]], dim=1), text=None)


def last_of_prefix(paragraphs: Paragraphs, m: int) -> Paragraphs:
    """The paragraphs with the last `m` tokens of their prefix alone."""
    return replace(paragraphs, tokens=paragraphs.tokens[:, paragraphs.n_prefix - m :], n_prefix=m, text=None)


_UNITS = {
    "full_match": "share recited in full, 0 = none",
    "exact_match": "tokens before the first miss, 0 = none",
    "nll": "nats per continuation token, 0 = certain",
    "extractable": "share extractable with n_queries samples at p = 0.5, 0 = none",
}
