"""One-pass recitation that reads no further than it must: windows leave at their first miss.

1. The prefixes of a batch are read once, their keys and values kept, and only the last position is unembedded.
2. Windows whose next token the model would not say leave; of most windows nothing more is ever read.
3. The others go on with blocks that grow, 2, 4, 8, ... tokens of the text itself, and leave in the same way. They wait
   until a batch of them has come together, so that no pass is made for one window alone.

Until the first miss greedy decoding sees the very tokens of the text, so the findings are those of decoding. The least
that an exact method must do is to read every prefix: `n_prefix` of `n_prefix + n_continuation` tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.measure.recitation import exact_match
from memhooks.model.checks import check_batch_size, check_tokens
from memhooks.model.loading import HookedModel
from memhooks.model.replay.reading import Reading, beside
from memhooks.scale.rules import Rule


@dataclass(frozen=True)
class Gated:
    """What the gate found out about each window.

    Attributes:
        exact_match: tokens recited before the first miss. It is exact also for windows that left; where sampling
            decides, it is at least this for those that left before a miss.
        log_probability: of one sample being the whole continuation, in nats; NaN where it was not read to its end.
        kept: whether the rule keeps it.
        n_read: tokens read of it.
    """

    exact_match: Int[Tensor, " window"]
    log_probability: Float[Tensor, " window"]
    kept: Bool[Tensor, " window"]
    n_read: Int[Tensor, " window"]


def gated(
    model: HookedModel, tokens: Int[Tensor, "window pos"], *, n_prefix: int, rule: Rule, batch_size: int = 32
) -> Gated:
    """Measure windows batch by batch, reading each only while the rule might still keep it.

    Args:
        model: a hooked GPT-Neo; hooks on it do not run.
        tokens: ids of its vocabulary, at most as long as its context.
        n_prefix: tokens given; the rest may be recited.
        rule: what is kept.
        batch_size: windows per pass.

    Raises:
        InputError: tokens that the model cannot read, or a batch size below one.
    """
    check_tokens(model, tokens)
    check_batch_size(batch_size)
    gate = _Gate(tokens.to(model.cfg.device), n_prefix, rule, batch_size)
    for rows in torch.arange(len(tokens), device=model.cfg.device).split(batch_size):
        gate.read(0, _Waiting(rows, Reading.of(model)))
    gate.read_all()
    low, high = rule.range(tokens.shape[1] - n_prefix)
    match, log = gate.match.cpu(), gate.log.cpu()
    enough = (log >= rule.least_log_probability) | torch.tensor(rule.queries is None)
    return Gated(match, log, enough & (match >= low) & (match <= high), gate.n_read.cpu())


@dataclass(frozen=True)
class _Waiting:
    """Windows that are equally far read."""

    rows: Int[Tensor, " left"]
    reading: Reading


class _Gate:
    """What is known of all windows, and which wait for each further block."""

    def __init__(self, tokens: Int[Tensor, "window pos"], n_prefix: int, rule: Rule, batch_size: int) -> None:
        self.tokens, self.n_prefix, self.rule, self.batch_size = tokens, n_prefix, rule, batch_size
        self.match = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        self.n_read = torch.zeros_like(self.match)
        self.log = torch.full((len(tokens),), torch.nan, dtype=torch.float64, device=tokens.device)
        self._so_far = torch.zeros_like(self.log)
        self._blocks = _blocks(tokens.shape[1] - n_prefix)
        self._waiting: list[list[_Waiting]] = [[] for _ in self._blocks]

    def read(self, at: int, windows: _Waiting) -> None:
        """Read one block of some windows, and go on with those that stay as soon as they are enough for a pass."""
        done, size = self._blocks[at]
        rows, end = windows.rows, self.n_prefix + done + size
        logits = windows.reading.logits(self.tokens[rows, windows.reading.n_read : end - 1], last=size)
        self.n_read[rows] = end - 1
        stays = self._scored(rows, logits, done, size)
        if at + 1 == len(self._blocks):
            self.log[rows] = self._so_far[rows]
        elif stays.any():
            self._waiting[at + 1].append(_Waiting(rows[stays], windows.reading.select(stays)))
            self._go_on(at + 1, at_least=self.batch_size)

    def read_all(self) -> None:
        """Read those, too, that are too few for a batch."""
        for at in range(len(self._blocks)):
            self._go_on(at, at_least=1)

    def _go_on(self, at: int, *, at_least: int) -> None:
        waiting = self._waiting[at]
        if sum(len(one.rows) for one in waiting) >= at_least:
            self._waiting[at] = []
            self.read(at, _Waiting(torch.cat([one.rows for one in waiting]), beside([one.reading for one in waiting])))

    def _scored(
        self, rows: Int[Tensor, " left"], logits: Float[Tensor, "left size d_vocab"], done: int, size: int
    ) -> Bool[Tensor, " left"]:
        """Enter what a block says, and which windows the rule might still keep."""
        start = self.n_prefix + done
        true = self.tokens[rows, start : start + size]
        lead = exact_match(logits.argmax(-1) == true)
        self.match[rows] += torch.where(self.match[rows] == done, lead, 0)
        self._so_far[rows] += self.rule.sampler.log_probability(logits, true).double().sum(1)
        return self._may_be_kept(rows, done + size)

    def _may_be_kept(self, rows: Int[Tensor, " left"], done: int) -> Bool[Tensor, " left"]:
        """Which windows the rule might still keep after `done` tokens, or where a miss is still to come."""
        match = self.match[rows]
        if self.rule.queries is None:
            return match == done  # after the first miss nothing more can be learnt
        low, high = self.rule.range(self.tokens.shape[1] - self.n_prefix)
        likely = self._so_far[rows] >= self.rule.least_log_probability
        return likely & (match <= high) & ((match == done) | (match >= low))


def _blocks(n: int) -> list[tuple[int, int]]:
    """Where blocks of 1, 2, 4, ... tokens begin, and their sizes, which add up to `n`."""
    starts = [2**k - 1 for k in range((n + 1).bit_length()) if 2**k - 1 < n]
    return [(start, min(start + 1, n - start)) for start in starts]
