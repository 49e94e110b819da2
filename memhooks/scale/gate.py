"""One-pass recitation that reads no further than it must: windows leave at their first miss.

1. The prefixes of a batch are read once, their keys and values kept, and only the last position is unembedded.
2. Windows whose next token the model would not say leave; of most windows nothing more is ever read.
3. The others go on with blocks that grow, 2, 4, 8, ... tokens of the text itself, and leave in the same way.

Until the first miss greedy decoding sees the very tokens of the text, so the findings are those of decoding. The least
that an exact method must do is to read every prefix: `n_prefix` of `n_prefix + n_continuation` tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.measure.recitation import exact_match
from memhooks.model.decoding import Reading
from memhooks.model.loading import HookedModel
from memhooks.scale.rules import Rule


@dataclass(frozen=True)
class Gated:
    """What the gate found out about each window.

    Attributes:
        exact_match: tokens recited before the first miss. It is exact also for windows that left; where sampling
            decides, it is at least this for those that left before a miss.
        log_probability: of one sample being the whole continuation, in nats; NaN where it was not read to its end.
        kept: whether the rule keeps it.
    """

    exact_match: Int[Tensor, " window"]
    log_probability: Float[Tensor, " window"]
    kept: Bool[Tensor, " window"]


def gated(
    model: HookedModel, tokens: Int[Tensor, "window pos"], *, n_prefix: int, rule: Rule, batch_size: int = 64
) -> Gated:
    """Measure windows batch by batch, reading each only while the rule might still keep it.

    Args:
        model: a hooked GPT-Neo.
        tokens: ids of its vocabulary, at most as long as its context.
        n_prefix: tokens given; the rest may be recited.
        rule: what is kept.
        batch_size: windows per pass.
    """
    low, high = rule.range(tokens.shape[1] - n_prefix)
    passes = [_read(model, rows.to(model.cfg.device), n_prefix, rule) for rows in tokens.split(batch_size)]
    match, log = (torch.cat([one[at] for one in passes]).cpu() for at in (0, 1))
    enough = (log >= rule.least_log_probability) | torch.tensor(rule.queries is None)
    return Gated(match, log, enough & (match >= low) & (match <= high))


@torch.no_grad()
def _read(
    model: HookedModel, rows: Int[Tensor, "batch pos"], n_prefix: int, rule: Rule
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Exact match and log-probability of one batch."""
    n = rows.shape[1] - n_prefix
    match = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    log = torch.full((len(rows),), torch.nan, dtype=torch.float64, device=rows.device)
    left = torch.arange(len(rows), device=rows.device)  # the rows that are still being read
    so_far = torch.zeros_like(log)
    reading = Reading(model, len(rows))
    for done, size in _blocks(n):
        end = n_prefix + done + size
        read = rows[left, max(0, end - 1 - size) if done else 0 : end - 1]
        logits, true = reading.logits(read, last=size), rows[left, end - size : end]
        lead = exact_match(logits.argmax(-1) == true)
        match[left] += torch.where(match[left] == done, lead, 0)
        so_far = so_far + rule.sampler.log_probability(logits, true).double().sum(1)
        if done + size == n:
            log[left] = so_far
            break
        stays = _may_be_kept(match[left], so_far, done + size, rule, n)
        left, so_far = left[stays], so_far[stays]
        if not len(left):
            break
        reading.select(stays)
    return match, log


def _may_be_kept(
    match: Int[Tensor, " left"], log: Float[Tensor, " left"], done: int, rule: Rule, n: int
) -> Bool[Tensor, " left"]:
    """Which windows the rule might still keep after `done` tokens, or where a miss is still to come."""
    if rule.queries is None:
        return match == done  # after the first miss nothing more can be learnt
    low, high = rule.range(n)
    return (log >= rule.least_log_probability) & (match <= high) & ((match == done) | (match >= low))


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    """Where blocks of 1, 2, 4, ... tokens begin, and their sizes, which add up to `n`."""
    done, size = 0, 1
    while done < n:
        yield done, min(size, n - done)
        done, size = done + size, 2 * size
