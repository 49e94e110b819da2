"""Which heads put their attention on a sink, and does that pass for attention to rare tokens?

Heads with nothing to do look at one token that carries no meaning, mostly the first (Xiao et al., 2023,
arXiv:2309.17453; Gu et al., 2024, arXiv:2410.10781). Such a head can look like anything its sink is.

1. One pass gives the attention of all prefix positions. What each head puts on position 0 is averaged over the
   positions that look and can see it (local layers cannot from afar), beside what uniform attention would put there.
2. Heads' sink strength is correlated with their rare-token correlation and with what recitation needs them for.
   `rare_token_without` asks whether the sink makes the rare-token statistic.
"""

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attention_rows import local_layers, query_attention, reachable_keys
from memhooks.measure.intervals import bootstrap_mean
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

THRESHOLD = 0.3
"""Mean share of attention on position 0 from which a head is a sink head (as in Gu et al., 2024)."""

_CELL = ("paragraph", "layer", "head")
_FEWEST_LOOKS = 8


def attention_sinks(model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 16) -> xr.Dataset:
    """What every head puts on position 0, and which position gets most.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: whose prefixes look.
        batch_size: paragraphs per pass.

    Returns:
        Dataset. Over `paragraph`, `layer`, `head`: `first` (share of attention on position 0, mean over the prefix
        positions after it that can see it), `first_last` (of the last prefix position; NaN where the layer cannot see
        so far). Over `layer`, `head`, `key`: `received` (share on that position, mean over paragraphs and over later
        prefix positions that can see it; NaN where fewer than 8 can, or
        half the prefix or all of the window if that is less). Over
        `layer`, `head`: `strongest`, the position that gets most. Over `layer`: `uniform` and `uniform_last` (what
        uniform attention would put on position 0), `n_looks` (positions that see it), `local`.

    Raises:
        InputError: a prefix below 3 tokens, a batch size below one, or paragraphs that the model cannot read.
    """
    paragraphs.check(model)
    check_batch_size(batch_size)
    n, shape = paragraphs.n_prefix, (model.cfg.n_layers, model.cfg.n_heads)
    if n < 3:
        raise InputError(f"sinks need a prefix of at least 3 tokens, got {n}")
    visible = _visible(model, n)
    later = visible & ~torch.eye(n, dtype=torch.bool)
    looks = later.sum(1)  # [layer key]
    first, last, received = [], [], torch.zeros(*shape, n, dtype=torch.float64)
    for rows in tracked(paragraphs.prefix.split(batch_size), "attention"):
        seen = query_attention(model, rows, range(n)).double()  # [row layer head query key]
        first.append(seen[..., 1:, 0].sum(-1) / looks[:, None, 0])
        last.append(seen[..., -1, 0])
        received += (seen * later[:, None]).sum((0, 3)) / len(paragraphs)
    mean = received / looks[:, None]
    least = looks.amax(1, keepdim=True).clamp(max=min(_FEWEST_LOOKS, n // 2))
    mean[(looks < least)[:, None].expand_as(mean)] = torch.nan
    at_last = torch.cat(last)
    at_last[:, ~visible[:, -1, 0]] = torch.nan
    even = visible / visible.sum(-1, keepdim=True)
    far = torch.where(visible[:, -1, 0], even[:, -1, 0], torch.nan)
    places = {"layer": range(shape[0]), "head": range(shape[1])}
    share = "share of attention, 0 = none"
    return labelled(
        provenance(model, paragraphs.tokens) | {"n_prefix": n, "threshold": THRESHOLD},
        first=Variable(torch.cat(first), _CELL, share, places | {"paragraph": paragraphs.ids}),
        first_last=Variable(at_last, _CELL, f"{share}; NaN = out of sight"),
        received=Variable(mean, ("layer", "head", "key"), f"{share}; NaN = too few can see it", {"key": range(n)}),
        strongest=Variable(mean.nan_to_num(-1).argmax(-1), ("layer", "head"), "position, from 0"),
        uniform=Variable(even[:, 1:, 0].sum(-1) / looks[:, 0], ("layer",), "share of uniform attention"),
        uniform_last=Variable(far, ("layer",), "share of uniform attention; NaN = out of sight"),
        n_looks=Variable(looks[:, 0], ("layer",), "prefix positions that see position 0"),
        local=Variable(local_layers(model, range(shape[0])), ("layer",), "whether the layer sees only a window"),
    )


def _visible(model: HookedModel, n: int) -> Tensor:
    """Which key each query of the prefix can see, `[layer query key]`."""
    found = torch.zeros(model.cfg.n_layers, n, n, dtype=torch.bool)
    for query in range(n):
        found[:, query, : query + 1] = reachable_keys(model, query)
    return found


def sink_heads(
    results: Mapping[str, xr.Dataset], *, seed: int, clusters: Mapping[str, Int[np.ndarray, " paragraph"]] | None = None
) -> xr.Dataset:
    """One row per head: what each set puts on position 0, with intervals.

    Args:
        results: of `attention_sinks` by set, of the same heads.
        seed: of intervals.
        clusters: of near-duplicates of each set, which then count once.

    Returns:
        Dataset over `row` (`L0H6`): `layer`, `head`, `local`; for each set `<set>` (share of attention on position 0)
        with `<set>_low` and `<set>_high`; `uniform`; `strongest` (position that gets most in the first set) and
        `on_strongest` (its share); `is_sink` (the whole interval of the first set lies above 0.3 and above
        uniform attention, which in short prefixes has as much; False where there is no interval).

    Raises:
        InputError: no results, or of other heads.
    """
    if not results:
        raise InputError("no results of attention_sinks given")
    one = next(iter(results.values()))
    shape = (one.sizes["layer"], one.sizes["head"])
    names = [f"L{layer}H{head}" for layer in range(shape[0]) for head in range(shape[1])]
    layer, head = (part.ravel() for part in np.indices(shape))
    columns = {
        "layer": Variable(layer, ("row",), "block, from 0", {"row": names}),
        "head": Variable(head, ("row",), "attention head, from 0"),
        "local": Variable(one["local"].values[layer], ("row",), "whether the layer sees only a window"),
    }
    for name, result in results.items():
        if (result.sizes["layer"], result.sizes["head"]) != shape:
            raise InputError(f"{name!r} has other layers or heads than {next(iter(results))!r}")
        flat = result["first"].values.reshape(result.sizes["paragraph"], -1)
        ends = bootstrap_mean(flat, seed=seed, clusters=None if clusters is None else clusters[name])
        for end, values in zip(("", "_low", "_high"), ends, strict=True):
            columns[f"{name}{end}"] = Variable(values, ("row",), f"share of attention on position 0{end}, 0 = none")
    strongest = one["strongest"].values
    columns["uniform"] = Variable(one["uniform"].values[layer], ("row",), "share that uniform attention has there")
    columns["strongest"] = Variable(strongest.ravel(), ("row",), "position that gets most, from 0")
    on = np.take_along_axis(one["received"].values, strongest[..., None], 2)
    columns["on_strongest"] = Variable(on.ravel(), ("row",), "share of attention on it, 0 = none")
    least = np.maximum(THRESHOLD, one["uniform"].values[layer])
    sink = columns[f"{next(iter(results))}_low"].values > least
    columns["is_sink"] = Variable(
        sink, ("row",), f"whether more than {THRESHOLD}, and than uniform, goes to position 0"
    )
    return labelled({"seed": seed, "threshold": THRESHOLD, "model_hash": one.attrs["model_hash"]}, **columns)


def coincidence(
    one: Float[np.ndarray, " head"],
    other: Float[np.ndarray, " head"],
    *,
    layer: Int[np.ndarray, " head"],
    seed: int,
    n_shuffles: int = 10000,
) -> dict[str, float | int]:
    """Spearman's correlation over heads, and within layers, each with its own p.

    Heads of a layer are alike (it is local or not, low or high), so the first alone overstates. The second ranks the
    heads of each layer among themselves, so that nothing between layers is left in it or in its null.

    Returns:
        `spearman` with `p` (heads permuted anywhere), `spearman_within` with `p_within_layer` (permuted within their
        layer), `n` heads. Both p are two-sided, at least 1 / (1 + n_shuffles). Heads that are NaN are left out; a
        correlation is NaN where fewer than 3 are left, or nothing varies.

    Raises:
        InputError: not one value per head.
    """
    if not len(one) == len(other) == len(layer) or len(one) < 3:
        raise InputError(f"one value per head is needed, at least 3, got {len(one)}, {len(other)} and {len(layer)}")
    there = ~(np.isnan(one) | np.isnan(other))
    one, other, layer = one[there], other[there], layer[there]
    found: dict[str, float | int] = {
        "n": int(there.sum()),
        "spearman": np.nan,
        "p": np.nan,
        "spearman_within": np.nan,
        "p_within_layer": np.nan,
    }
    if there.sum() < 3:
        return found
    drawn = np.random.default_rng(seed).random((n_shuffles, len(one)))
    for groups, names in ((np.zeros_like(layer), ("spearman", "p")), (layer, ("spearman_within", "p_within_layer"))):
        found |= dict(zip(names, _rank_correlation(one, other, groups, drawn), strict=True))
    return found


def coincidences(
    one: Float[np.ndarray, " head"],
    others: Mapping[str, Float[np.ndarray, " head"]],
    *,
    layer: Int[np.ndarray, " head"],
    seed: int,
) -> dict[str, dict[str, float | int]]:
    """`coincidence` with each of several columns; `p_corrected` is `p_within_layer` times their number (Bonferroni).

    Raises:
        InputError: as `coincidence`.
    """
    found = {name: coincidence(one, other, layer=layer, seed=seed) for name, other in others.items()}
    return {name: cell | {"p_corrected": min(cell["p_within_layer"] * len(found), 1.0)} for name, cell in found.items()}


def _rank_correlation(
    one: np.ndarray, other: np.ndarray, groups: np.ndarray, drawn: Float[np.ndarray, "draw head"]
) -> tuple[float, float]:
    """Correlation of ranks within groups, and its p where they are permuted within groups."""
    place = np.argsort(groups, kind="stable")
    groups = groups[place]
    ranks = []
    for values in (one[place], other[place]):
        rank = np.zeros(len(values))
        for group in np.unique(groups):
            inside = groups == group
            rank[inside] = rankdata(values[inside]) - (inside.sum() + 1) / 2
        ranks.append(rank)
    size = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    if size == 0:
        return np.nan, np.nan
    own = ranks[0] @ ranks[1]
    # Sorting by group plus a fraction permutes within groups.
    null = ranks[0][(groups + drawn).argsort(1)] @ ranks[1]
    return float(own / size), (1 + int((np.abs(null) >= abs(own) - 1e-9).sum())) / (1 + len(drawn))
