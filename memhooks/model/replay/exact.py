"""Exact match alone, for less: a row that misses a token is dropped, and what follows it is never computed.

1. The prefix is replayed up to the position that predicts the first scored token.
2. Then the continuation, teacher-forced, in growing blocks on top of the row's own keys and values.
3. After each block rows that missed are dropped. Until its first miss greedy decoding would
   see the same tokens, so the number of leading hits is what decoding would give.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.model.replay.batches import Batches
from memhooks.model.replay.block import KeysValues, run_block
from memhooks.model.replay.clean_run import CleanRun, score
from memhooks.model.replay.replay import Edits, clean_past, first_change, nearby
from memhooks.model.replay.work import Work, block_flops, unembed_flops

FIRST_BLOCK = 4
"""Scored tokens in the block after the first token; every later one is twice as long."""


@torch.no_grad()
def replay_exact_match(
    run: CleanRun, edits: Edits, *, batches: Batches | None = None, work: Work | None = None
) -> Int[Tensor, " row"]:
    """Scored tokens before the first miss, edit by edit; equals that of `replay`."""
    work, batches = work or Work(), batches or Batches(64)
    found = leading_hits(run.outcome.hits)[edits.paragraph]
    work.add_full_passes(run.weights, len(edits), run.tokens.shape[1])

    def run_rows(rows: Tensor) -> None:
        some = edits.select(rows)
        start = int(first_change(run, some)[0].min())
        # What is predicted before the edit is clean, and a miss there is final.
        open_ = found[rows] >= max(0, start - run.first + 1)
        if open_.any():
            found[rows[open_]] = _counted(run, some.select(open_), start, work)

    for rows in nearby(run, edits, work):
        batches.run(rows, run_rows)
    work.rows_per_batch = batches.rows
    return found


def leading_hits(hits: Tensor) -> Int[Tensor, " row"]:
    """Hits before the first miss."""
    return hits.long().cumprod(-1).sum(-1)


def _counted(run: CleanRun, edits: Edits, start: int, work: Work) -> Int[Tensor, " row"]:
    stream, paragraph = edits.spread(run, start), edits.paragraph
    past = {n: clean_past(run, n, paragraph, start) for n in range(edits.layer, len(run.layers))}
    lows, kept = {n: low for n, (low, _) in past.items()}, {n: both for n, (_, both) in past.items()}
    count = torch.full((len(edits),), max(0, start - run.first + 1), device=run.device)
    alive = torch.arange(len(edits), device=run.device)
    begin, size = start, FIRST_BLOCK
    end = max(start, run.first - 1) + 1  # exclusive: the first block ends with the first prediction that may differ
    while len(alive):
        scored = max(begin, run.first - 1)
        x = _through(run, stream[alive, begin - start : end - start], kept, lows, begin, scored - begin, work)
        work.flops += unembed_flops(run.weights, x.shape[0] * x.shape[1])
        n_hits = leading_hits(score(run, x, paragraph[alive], begin=scored).hits)
        count[alive] += n_hits
        if end == run.tokens.shape[1] - 1:
            break
        stay = n_hits == x.shape[1]
        if not stay.all():
            alive = alive[stay]
            kept = {n: (keys[stay], values[stay]) for n, (keys, values) in kept.items()}
        begin, end, size = end, min(end + size, run.tokens.shape[1] - 1), 2 * size
    return count


def _through(
    run: CleanRun, x: Tensor, kept: dict[int, KeysValues], lows: dict[int, int], begin: int, cut: int, work: Work
) -> Float[Tensor, "row pos d_model"]:
    """All layers on one block of positions but the first `cut`, which nothing is read from; `kept` grows."""
    if not kept:
        return x[:, cut:]
    n_rows, n_in = x.shape[:2]
    for number in kept:
        last = number == len(run.layers) - 1
        layer = run.weights.layers[number]
        x, kept[number] = run_block(layer, x, kept[number], start=begin, low=lows[number], cut=cut if last else 0)
        n_out, n_keys = x.shape[1], kept[number][0].shape[2]
        work.block_positions += n_rows * n_in
        work.flops += n_rows * block_flops(layer, n_in, n_out, n_out * n_keys)
    return x
