"""Time to choose the top 0.1 % of the 84.9 million weights of GPT-Neo 125M's shape.

Floor: every score is read once from memory. Beside it what one would write with torch: `topk` and `argsort` of all
scores joined. `OMP_NUM_THREADS` sets the threads.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.floor import measured
from memhooks.localize.masks.top import top_weights

ROUNDS, FRACTION = 5, 0.001
N_LAYERS, D_MODEL, D_MLP = 12, 768, 3072


def main() -> None:
    """Print the best of some rounds, and check that all choose the same weights."""
    scores = random_scores()
    n_weights = sum(one.numel() for one in scores.values())
    k = round(FRACTION * n_weights)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "floor: read every score once": (lambda: [torch.aminmax(one) for one in scores.values()], ROUNDS),
        "memhooks.top_weights": (partial(top_weights, scores, fraction=FRACTION), ROUNDS),
        "memhooks.top_weights, per parameter": (
            partial(top_weights, scores, fraction=FRACTION, per="parameter"),
            ROUNDS,
        ),
        "torch.topk of all joined": (lambda: joined(scores).topk(k).indices, 2),
        "torch.argsort of all joined": (lambda: joined(scores).argsort(descending=True)[:k], 1),
    }
    table = Table(title=f"top {k:,} of {n_weights:,} fp32 scores, {torch.get_num_threads()} threads")
    for heading in ("way", "seconds", "GB/s read", "peak over the scores, MB"):
        table.add_column(heading)
    held = measured(lambda: None)[1].peak
    for name, (way, rounds) in ways.items():
        peak = measured(way)[1].peak
        seconds = min(timed(way) for _ in range(rounds))
        extra = "" if peak is None or held is None else f"{1000 * (peak - held):.0f}"
        table.add_row(name, f"{seconds:.3f}", f"{4 * n_weights / seconds / 1e9:.1f}", extra)
    Console().print(table)
    check_same(scores, k)


def random_scores() -> dict[str, torch.Tensor]:
    """One positive score per weight, in the 72 parameters of the shape."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"W_Q": D_MODEL, "W_K": D_MODEL, "W_V": D_MODEL, "W_O": D_MODEL, "W_in": D_MLP, "W_out": D_MLP}
    return {
        f"{layer}.{name}": torch.randn(D_MODEL * width, generator=generator).abs()
        for layer in range(N_LAYERS)
        for name, width in sizes.items()
    }


def joined(scores: dict[str, torch.Tensor]) -> torch.Tensor:
    """All scores in one tensor."""
    return torch.cat(list(scores.values()))


def timed(way: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def check_same(scores: dict[str, torch.Tensor], k: int) -> None:
    """Stop where the mask holds another multiset of scores than `topk` finds.

    Raises:
        AssertionError: it does.
    """
    mask = top_weights(scores, fraction=FRACTION)
    chosen = torch.cat([scores[name][own.long()] for name, own in mask.indices.items()]).sort(descending=True).values
    if not torch.equal(chosen, joined(scores).topk(k).values):
        raise AssertionError("the mask does not hold the largest scores")


if __name__ == "__main__":
    main()
