"""Attribution of all heads and positions from one backward pass, against the exhaustive replay of the same cells."""

import torch
import xarray as xr
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.floor import measured
from benchmarks.outcome import Outcome, Peer
from benchmarks.setting import N_PREFIX, Setting, one_token_differs
from benchmarks.sweeps import scaled
from memhooks.localize.patch_grid import whole_grid
from memhooks.localize.patching import patch, sweep_cells
from memhooks.localize.screening import largest, screen
from memhooks.measure.pairs import make_pairs
from memhooks.measure.perturbation import perturb
from memhooks.paragraphs.paragraphs import Paragraphs

TOP, AIM = 10, 10.0


def attribution(at: Setting) -> Outcome:
    """All heads and prefix positions; on the 125M shape only time is compared, with one layer of one pair."""
    rows, other = _pairs(at)
    guess, ours = measured(lambda: screen(at.model, rows, other, sites=("z",)), at.device)
    if at.shape == "organism":
        found, cost = measured(lambda: patch(at.model, rows, other, sites=("z",)), at.device)
        peer = Peer("memhooks, exhaustive replay", cost, "all", AIM)
        agreement = _agreement(guess, found)
    else:
        peer, agreement = _one_layer(at, rows, other), "time alone: random weights"
    cfg = at.model.cfg
    n_cells = cfg.n_layers * cfg.n_heads * N_PREFIX
    sweep = f"attribution of z, {n_cells} cells, {len(rows)} pairs of one replaced token"
    return Outcome(sweep, at.name, ours, "all", at.rate(), None, [peer], agreement)


def _pairs(at: Setting) -> tuple[Paragraphs, Tensor]:
    """On the organism the most damaging replacements; else the token at 25, which is like the average position."""
    if at.shape != "organism":
        rows = at.recited.select(slice(0, at.size.n_pairs))
        return rows, one_token_differs(rows, at.model).tokens
    rows = at.recited.select(slice(0, 2 * at.size.n_pairs))
    pairs = make_pairs(at.model, rows, perturb(at.model, rows, seed=0))
    pairs = pairs.select(torch.nonzero(pairs.changed)[: at.size.n_pairs, 0])
    return pairs.clean, pairs.tokens_with_clean_continuation


def _one_layer(at: Setting, rows: Paragraphs, other: Tensor) -> Peer:
    """The layer just above the middle has a little less above it than the mean layer."""
    n_layers = at.model.cfg.n_layers
    grid = whole_grid(at.model, ("z",), list(range(N_PREFIX)))[n_layers // 2 : n_layers // 2 + 1]
    one = rows.select(slice(0, 1))
    _, cost = measured(
        lambda: sweep_cells(at.model, one, other[:1], grid, direction="denoising", batch_size=None), at.device
    )
    sample = f"layer {n_layers // 2} of one pair"
    return Peer("memhooks, exhaustive replay", scaled(cost, n_layers * len(rows)), sample, AIM)


def _agreement(guess: xr.Dataset, found: xr.Dataset) -> str:
    """Of means over pairs: rank correlation over all cells, and how many of the largest were named."""
    guessed, replayed = (one["nll_change"].mean("paragraph") for one in (guess, found))
    rank = spearmanr(guessed.values.ravel(), replayed.values.ravel()).statistic
    true, named = (set(largest(abs(one), TOP)) for one in (replayed, guessed))
    return f"Spearman {rank:.2f}, recall of the top {TOP} {len(true & named) / TOP:.0%}"
