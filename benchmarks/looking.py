"""Gradients and attention to rare tokens against the official code's loops: `python -m benchmarks.looking [--quick]`.

Each row has a process of its own. The peer runs on as many paragraphs as its time allows and is scaled; where it
shares a batch, memory is compared at the same batch. Floor: matrix products that no exact way can avoid, over the
rate of a large one: forward, gradients of activations and of weights; for attention the layers up to the last pattern.
"""

import psutil
import torch

from benchmarks import official
from benchmarks.floor import measured
from benchmarks.outcome import Outcome, Peer
from benchmarks.rows import command_line
from benchmarks.setting import N_PREFIX, Setting
from benchmarks.sweeps import scaled
from memhooks.localize.attention import rare_token_attention
from memhooks.localize.attention_rows import query_attention
from memhooks.localize.attribution import weight_gradients, weight_scores
from memhooks.localize.pooling import component_scores
from memhooks.model.components import component_parameters, components
from memhooks.organism.paragraphs import load_controls
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.rarity import rarity_ranks


def probe(at: Setting) -> Outcome:
    """Rare-token statistics of 500 paragraphs: all layers and heads, against one layer of the official loop."""
    n, n_ours, n_peer = (4, 4, 2) if at.quick else (500, 500 if at.shape == "organism" else 100, 10)
    rows = _paragraphs(at, n_ours)
    counts = torch.randint(1, 10_000, (at.model.cfg.d_vocab,), generator=torch.Generator().manual_seed(0))
    with official.flags_on(at.model):
        summed, theirs = measured(
            lambda: official.rare_token_sums(at.model, rows.tokens[:n_peer], counts, layer=1, query=N_PREFIX), at.device
        )
    found, ours = measured(lambda: rare_token_attention(at.model, rows, counts, seed=0, n_shuffles=1), at.device)
    _, tested = measured(lambda: rare_token_attention(at.model, rows, counts, seed=0), at.device)
    away = _away(_summed_by_rank(at, rows.select(slice(0, n_peer)), counts), summed)
    n_weights = sum(weight.numel() for weight in component_parameters(at.model).values())
    in_layers = n_weights * (1 - 0.75 / at.model.cfg.n_layers)  # of the last one only queries and keys
    return Outcome(
        f"rare-token probe, {n} paragraphs, {found.sizes['layer']} layers x {found.sizes['head']} heads",
        at.name,
        scaled(ours, n / len(rows)),
        f"{len(rows)} paragraphs",
        at.rate(),
        2.0 * in_layers * N_PREFIX * n / at.rate(),
        [Peer("official loop, one layer", scaled(theirs, n / n_peer), f"{n_peer} paragraphs", 10.0)],
        f"sums within {away:.0e}; with the p values, which the peer has not, {tested.seconds * n / len(rows):.3g} s",
    )


def component_map(at: Setting) -> Outcome:
    """One gradient of a batch's mean, pooled per component, against the official caching hooks."""
    n = 2 if at.quick else _largest_batch(at)
    rows = _paragraphs(at, n)
    with official.flags_on(at.model):
        peer, theirs = measured(lambda: official.component_maxima(at.model, rows.tokens, first=N_PREFIX), at.device)
    found, ours = measured(lambda: component_scores(at.model, weight_gradients(at.model, rows)), at.device)
    largest = torch.tensor([peer[cell.parameter_name][cell.head or 0].item() for cell in components(at.model)])
    away = _away(torch.from_numpy(found["max_gradient"].values.ravel()).float(), largest)
    return Outcome(
        f"component scores of the mean of {n} paragraphs",
        at.name,
        ours,
        "all",
        at.rate(),
        _gradient_floor(at, n),
        [Peer("official hooks on every activation", theirs, "all", 3.0)],
        f"maxima within {away:.0e}",
    )


def each_paragraph(at: Setting) -> Outcome:
    """Every paragraph's own gradient, pooled per component, against one backward pass after the other."""
    n, n_peer = (4, 2) if at.quick else (32, 8)
    rows = _paragraphs(at, n)
    peer, theirs = measured(
        lambda: official.single_backward_passes(at.model, rows.tokens[:n_peer], first=N_PREFIX), at.device
    )
    found, ours = measured(lambda: weight_scores(at.model, rows), at.device)
    largest = torch.from_numpy(found["max_gradient"].values[:n_peer])
    names = list(component_parameters(at.model))
    place = {name: sum(_n_heads(at, one) for one in names[:i]) for i, name in enumerate(names)}
    order = [place[cell.parameter_name] + (cell.head or 0) for cell in components(at.model)]
    away = _away(largest.flatten(1), peer[:, order, 0])
    return Outcome(
        f"each paragraph's own gradient, {n} paragraphs, pooled",
        at.name,
        ours,
        "all",
        at.rate(),
        _gradient_floor(at, n),
        [Peer("loop of single backward passes", scaled(theirs, n / n_peer), f"{n_peer} paragraphs", 1.5)],
        f"maxima within {away:.0e}",
    )


ROWS = {"probe": probe, "component-map": component_map, "each-paragraph": each_paragraph}


def _summed_by_rank(at: Setting, rows: Paragraphs, counts: torch.Tensor) -> torch.Tensor:
    """What the peer sums, from the probe's attention."""
    attention = query_attention(at.model, rows.tokens[:, : N_PREFIX + 1], (N_PREFIX,), layers=(1,))
    summed = torch.zeros(at.model.cfg.n_heads, N_PREFIX)
    ranks = rarity_ranks(rows.prefix, counts).long()
    for row, own in zip(attention[:, 0, :, 0, :N_PREFIX], ranks, strict=True):
        summed.index_add_(1, own, row.nan_to_num())
    return summed


def _paragraphs(at: Setting, n: int) -> Paragraphs:
    if at.shape == "organism":
        return load_controls("prose").select(slice(0, n))
    generator = torch.Generator().manual_seed(1)
    return Paragraphs(torch.randint(at.model.cfg.d_vocab, (n, 100), generator=generator), N_PREFIX)


def _largest_batch(at: Setting) -> int:
    """What the official hooks can hold: by the memory that two paragraphs take of what is free; 50 at most."""
    rows = _paragraphs(at, 2)
    before = psutil.Process().memory_info().rss / 1e9
    with official.flags_on(at.model):
        _, cost = measured(lambda: official.component_maxima(at.model, rows.tokens, first=N_PREFIX), at.device)
    each = max((cost.peak or 1.0) - before, 0.1) / 2
    return max(2, min(50, int(0.7 * psutil.virtual_memory().available / 1e9 / each)))


def _gradient_floor(at: Setting, n: int) -> float:
    n_weights = sum(weight.numel() for weight in component_parameters(at.model).values())
    unembedded = 2 * at.model.cfg.d_vocab * at.model.cfg.d_model * 50  # forward, and back to the stream
    return 2.0 * n * (3 * n_weights * 100 + unembedded) / at.rate()


def _n_heads(at: Setting, name: str) -> int:
    return at.model.cfg.n_heads if ".attn." in name else 1


def _away(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    command_line("benchmarks.looking", __doc__, ROWS)
