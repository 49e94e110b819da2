"""Rows 15, 16 and 18: does layer 1 head 2 look at rare tokens, and what does uniform attention give?

1. Attention of query position 50 (as published: the first continuation token as input) to the 50 prefix tokens.
2. Tokens are ranked by their count in the memorized and non-memorized paragraphs, 0 = rarest, equal counts alike.
3. Attention is **summed** by rank over 1,000 paragraphs; the sums are correlated with the rank. The coefficient was not
   named, so all three are here, each beside what uniform attention gives.
4. Corrected: the rank correlation in each paragraph, averaged; 0 for uniform attention.

Of a model that is not GPT-Neo 125M, the head of the lowest third of the layers with the most negative sum is taken: it
is chosen on half of the clusters of near-duplicates, and everything is said of the other half.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.localize.attention_rows import query_attention, reachable_keys
from memhooks.localize.attention_statistics import Keys, compared, head_statistics, standardised
from memhooks.measure.intervals import bootstrap_difference, bootstrap_mean, interval_ends
from memhooks.paragraphs.counts import unigram_counts
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters
from memhooks.progress import tracked
from memhooks.truth.published.parts import Found, Measured, Part, Quantity
from memhooks.truth.published.setting import Setting
from memhooks.truth.published.targets import COEFFICIENTS, MIDDLE, MP, NMP

HEAD = (1, 2)
_PART, _DRAWS, _BATCH, _N_SUMMED = "attention", 500, 32, 1000


@dataclass(frozen=True)
class Pool:
    """Paragraphs whose attention is summed, the memorized first, and the corpus counts of all tokens."""

    rows: Paragraphs
    n_memorized: int
    counts: Float[Tensor, " d_vocab"]


def pool(setting: Setting) -> Pool:
    """A draw from memorized and non-memorized paragraphs together; without the latter, from all bins that are there."""
    sets = setting.held.sets
    names = [MP, NMP] if NMP in sets else [name for name in (MP, *MIDDLE) if name in sets]
    together = sets[names[0]].joined(*(sets[name] for name in names[1:]))
    counts = unigram_counts([together.tokens], d_vocab=setting.loaded.cfg.d_vocab).double()
    order = np.random.default_rng(setting.seed).permutation(len(together))[: setting.attended]
    order.sort()
    return Pool(together.select(order), int((order < len(sets[MP])).sum()), counts)


def rank_sums(
    attention: Float[Tensor, "paragraph head key"], counts: Float[Tensor, "paragraph key"]
) -> Float[Tensor, "paragraph head rank"]:
    """Attention that falls on each dense rarity rank of each paragraph."""
    ranks = Keys(counts).dense_ranks[:, None].expand_as(attention)
    return torch.zeros_like(attention).scatter_add_(2, ranks, attention)


def coefficients(sums: Float[Tensor, "draw rank"]) -> dict[str, np.ndarray]:
    """Pearson, Spearman and Kendall of rank and sum, for each draw."""
    rank = torch.arange(sums.shape[1], dtype=torch.float64).expand(len(sums), -1)
    order, kendall = compared(sums[:, None].double(), Keys(rank))
    x = standardised(rank)
    pearson = (standardised(sums) * x).mean(-1)
    return {
        "pearson": pearson.numpy(),
        "spearman": (order[:, 0] * x).mean(-1).numpy(),
        "kendall": kendall[:, 0].numpy(),
    }


def attended(setting: Setting) -> Mapping:
    """Everything that these rows need, of one pass over the pool's paragraphs."""
    model, drawn = setting.loaded, pool(setting)
    query, n_layers = drawn.rows.n_prefix, max(3, -(-model.cfg.n_layers // 3))
    layers = range(min(n_layers, model.cfg.n_layers))
    batches = tracked(drawn.rows.tokens[:, : query + 1].split(_BATCH), "attention")
    seen = torch.cat([query_attention(model, some, [query], layers=layers)[:, :, :, 0] for some in batches])
    seen = seen[..., :query].double()
    reach = reachable_keys(model, query)[: len(layers), :query]
    counts = drawn.counts[drawn.rows.prefix]
    label, seed = clusters(drawn.rows).numpy(), setting.seed
    patterns = _patterns(seen, label, seed, n_memorized=drawn.n_memorized)
    (layer, head), rows = HEAD, np.arange(len(seen))
    if not setting.published_shape:
        choose, rows = halves(label, seed)
        layer, head = most_negative(seen[choose], counts[choose], reach)
    own, theirs = seen[rows, layer, head : head + 1][..., reach[layer]], counts[rows][:, reach[layer]]
    label, n_memorized = np.unique(label[rows], return_inverse=True)[1], int((rows < drawn.n_memorized).sum())
    return {
        "head": [layer, head],
        "n": len(rows),
        "n_clusters": int(label.max()) + 1,
        "n_pool": len(seen),
        **_summed(own, theirs, label, seed),
        "n_memorized": n_memorized,
        **corrected(own, theirs, label, seed, n_memorized=n_memorized),
        **patterns,
    }


def halves(label: Int[np.ndarray, " paragraph"], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to choose a head on and rows to test it on, no cluster on both sides; of one cluster both are all rows."""
    n = int(label.max()) + 1
    if n < 2:
        return np.arange(len(label)), np.arange(len(label))
    first = np.isin(label, np.random.default_rng(seed).permutation(n)[: n // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def most_negative(
    seen: Float[Tensor, "paragraph layer head key"], counts: Float[Tensor, "paragraph key"], reach: Tensor
) -> tuple[int, int]:
    """Layer and head whose summed attention falls most with the rank."""
    found = [
        coefficients(rank_sums(seen[:, layer][..., reach[layer]], counts[:, reach[layer]]).sum(0))["pearson"]
        for layer in range(seen.shape[1])
    ]
    layer, head = np.unravel_index(int(np.argmin(found)), np.shape(found))
    return int(layer), int(head)


def _summed(own: Tensor, counts: Tensor, label: np.ndarray, seed: int) -> dict:
    sums = rank_sums(own, counts)[:, 0]
    # Whole numbers, so that ranks with equally many tokens tie; correlations do not ask for the scale.
    uniform = rank_sums(torch.ones_like(own), counts)[:, 0].sum(0, keepdim=True)
    member = np.zeros((label.max() + 1, len(label)))
    member[label, np.arange(len(label))] = 1
    n = len(member)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_DRAWS)
    drawn = coefficients(torch.from_numpy(times @ (member @ sums.numpy())))
    ours, flat = coefficients(sums.sum(0, keepdim=True)), coefficients(uniform)
    found = {}
    for name in COEFFICIENTS:
        low, high = interval_ends(drawn[name], n, 0.95)
        found[name] = [float(ours[name][0]), _number(low), _number(high)]
        found[f"uniform {name}"] = float(flat[name][0])
    total = sums.sum(0) * _N_SUMMED / len(sums)
    return found | {"largest sum": float(total.max()), "at rank": int(total.argmax()), "sums": total.tolist()}


def corrected(own: Tensor, counts: Tensor, label: np.ndarray, seed: int, *, n_memorized: int) -> dict:
    """Rank correlation of attention and count in each paragraph, its mean and that of either set, with intervals."""
    total = own.sum(-1, keepdim=True)
    shares = torch.where(total > 0, own / total, torch.full_like(own, 1 / own.shape[-1]))
    each = head_statistics(shares, Keys(counts), n_rarest=min(5, own.shape[-1]))[0]["spearman"][:, 0].numpy()
    ends = bootstrap_mean(each, clusters=label, seed=seed)
    parts = {"of MP": each[:n_memorized], "of NMP": each[n_memorized:]}
    found: dict[str, object] = {"corrected": [_number(one) for one in ends]}
    for name, where in (("of MP", slice(0, n_memorized)), ("of NMP", slice(n_memorized, None))):
        some = bootstrap_mean(each[where], clusters=label[where], seed=seed) if len(parts[name]) else ()
        found[f"corrected {name}"] = [_number(one) for one in some]
    if all(map(len, parts.values())):
        near = (label[:n_memorized], label[n_memorized:])
        gap = bootstrap_difference(parts["of MP"], parts["of NMP"], clusters=near, seed=seed)
        found["corrected difference"] = [_number(one) for one in gap]
    return found


def _patterns(
    seen: Float[Tensor, "paragraph layer head key"], label: np.ndarray, seed: int, *, n_memorized: int
) -> dict:
    """Largest attention of layers 1 and 2, median over memorized rows; how alike the heads' mean rows are."""
    top = seen[: n_memorized or None].amax((2, 3)).median(0).values
    no_sink = seen[: n_memorized or None, ..., 1:].amax((2, 3)).median(0).values
    layers = [layer for layer in (1, 2) if layer < seen.shape[1]]
    found: dict[str, object] = {
        "pattern": {f"L{layer}": [float(top[layer]), float(no_sink[layer])] for layer in layers}
    }
    if len(layers) == 2 and seen.shape[2] > 1:
        found |= _alike(seen, label, seed)
    return found


def _alike(seen: Float[Tensor, "paragraph layer head key"], label: np.ndarray, seed: int) -> dict:
    """Correlation of the heads' mean rows within layer 1 and with layer 2, and half the first minus the second."""
    n = int(label.max()) + 1
    member = torch.zeros(n, len(seen), dtype=seen.dtype)
    member[torch.from_numpy(label), torch.arange(len(seen))] = 1
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_DRAWS)
    times = torch.from_numpy(np.concatenate([np.ones((1, n)), times])).to(seen)
    per_cluster = (member @ seen[:, 1:3].flatten(1)).reshape(n, 2, *seen.shape[2:])
    mean = standardised(torch.einsum("dc,clhk->dlhk", times, per_cluster))  # correlations do not ask for the scale
    within, across = (torch.einsum("dhk,dgk->dhg", mean[:, 0], mean[:, layer]) / mean.shape[-1] for layer in (0, 1))
    apart = ~torch.eye(within.shape[-1], dtype=torch.bool)
    within, across = within[:, apart].mean(-1).numpy(), across.mean((1, 2)).numpy()
    gap = within / 2 - across
    (low, high), (least, _) = (interval_ends(one[1:], n, 0.95) for one in (gap, within))
    return {
        "alike in L1": float(within[0]),
        "alike in L1, least": _number(least),
        "alike in L1 and L2": float(across[0]),
        "apart": [float(gap[0]), _number(low), _number(high)],
    }


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _parts(setting: Setting, keys: frozenset[str]) -> list[Part]:
    return [Part(_PART, partial(attended, setting), 0.04 * setting.attended)] if keys else []


def _rows(setting: Setting, found: Found) -> dict[str, Measured]:
    if _PART not in found:
        return {}
    one = found[_PART]
    who = f"L{one['head'][0]}H{one['head'][1]}, {one['n']} rows, {one['n_clusters']} clusters"
    rows = {}
    for name in COEFFICIENTS:
        value, low, high = one[name]
        beside = {"uniform attention": one[f"uniform {name}"], "corrected (per paragraph)": one["corrected"][0]}
        rows[f"15.{name}"] = Measured((value,), low, high, beside, who, one["n"])
    rows["16"] = Measured((one["largest sum"],), note=f"largest at rank {one['at rank']}; {who}", n=one["n"])
    for layer, (top, no_sink) in one["pattern"].items():
        rows[f"18.{layer}"] = Measured(
            (top,),
            beside={"without key 0": no_sink},
            note="median over paragraphs of the largest of all heads and keys",
            n=one["n_pool"],
        )
    return rows


ATTENDED = Quantity((*(f"15.{name}" for name in COEFFICIENTS), "16", "18.L1", "18.L2"), _parts, _rows)
