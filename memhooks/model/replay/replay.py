"""Replays edits of a run: only the layers above them, only the positions from them on, only the scored tokens.

1. An edit is a change of the stream that enters a layer, from some position on. Everything
   below that layer and before that position is as in the clean run, keys and values included.
2. Edits of one layer run together as rows of a batch; those that begin at nearby positions share a batch.
3. Edits that change nothing, or that no scored token can see, are not run at all.
4. Only scored positions are unembedded; NLL is `logsumexp - gather`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.model.replay.clean_run import CleanRun, Outcome, attended, projected, score

NEAR = 8
"""Edits that begin this many positions apart still share a batch."""


@dataclass
class Work:
    """What was computed, and what a full pass per edit would have computed.

    Attributes:
        block_positions: positions times blocks that ran.
        naive: those of one full forward pass per edit.
    """

    block_positions: int = 0
    naive: int = 0

    def about(self) -> dict[str, object]:
        """For a result's attributes."""
        return {"block_positions_run": self.block_positions, "block_positions_of_full_passes": self.naive}


@dataclass(frozen=True)
class Edits:
    """Changes of the stream that enters one layer; row r replaces it at some positions of one paragraph.

    Attributes:
        layer: the first layer that sees them; `n_layers` means after the last.
        paragraph: which paragraph of the clean run each row edits.
        position: the first of the positions, which follow each other.
        stream: what the stream is there.
    """

    layer: int
    paragraph: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    stream: Float[Tensor, "row span d_model"]

    def __len__(self) -> int:
        return len(self.position)

    @property
    def where(self) -> tuple[Int[Tensor, "row 1"], Int[Tensor, "row span"]]:
        """Row and position of every entry of the stream, for indexing."""
        return torch.arange(len(self))[:, None], self.position[:, None] + torch.arange(self.stream.shape[1])

    def select(self, rows: Tensor) -> "Edits":
        """Some of the rows."""
        return Edits(self.layer, self.paragraph[rows], self.position[rows], self.stream[rows])


@torch.no_grad()
def replay(run: CleanRun, edits: Edits, *, batch_size: int = 64, work: Work | None = None) -> Outcome:
    """Score every edit's paragraph, edit by edit, as a full pass with that edit would."""
    work = Work() if work is None else work
    base = run.outcome
    nll, hits = base.nll[edits.paragraph], base.hits[edits.paragraph]
    work.naive += len(edits) * len(run.layers) * run.tokens.shape[1]
    for rows in _batches(run, edits, batch_size):
        some = edits.select(rows)
        start = int(some.position.min())
        x = _entering(run, some.layer)[:, start:][some.paragraph]
        row, position = some.where
        x[row, position - start] = some.stream
        for number in range(some.layer, len(run.layers)):
            x = _block(run, number, x, some.paragraph, start)
            work.block_positions += x.shape[0] * x.shape[1]
        begin = max(start, run.first - 1)
        after = score(run.weights, x[:, begin - start : -1], run.tokens[some.paragraph, begin + 1 :])
        nll[rows, begin + 1 - run.first :], hits[rows, begin + 1 - run.first :] = after.nll, after.hits
    return Outcome(nll, hits)


def joined(scores: Sequence[Outcome]) -> Outcome:
    """The rows of several, in order, on the CPU."""
    return Outcome(torch.cat([one.nll.cpu() for one in scores]), torch.cat([one.hits.cpu() for one in scores]))


def _batches(run: CleanRun, edits: Edits, batch_size: int) -> Iterator[Int[Tensor, " row"]]:
    """Rows that must run, in batches that begin at nearby positions; the order is fixed by the edits alone."""
    there = _entering(run, edits.layer)[edits.paragraph[:, None], edits.where[1]]
    differs = (there != edits.stream).any(-1).any(-1)
    # After the last layer a position is seen by its own prediction alone; the last position predicts nothing.
    seen = edits.position < run.tokens.shape[1] - 1
    if edits.layer == len(run.layers):
        seen &= edits.position + edits.stream.shape[1] >= run.first
    rows = (differs & seen).nonzero()[:, 0]
    rows = rows[edits.position[rows].argsort(stable=True)]
    begin = 0
    for end in range(1, len(rows) + 1):
        full = end - begin == batch_size
        far = end < len(rows) and edits.position[rows[end]] - edits.position[rows[begin]] >= NEAR
        if end == len(rows) or full or far:
            yield rows[begin:end]
            begin = end


def _entering(run: CleanRun, layer: int) -> Float[Tensor, "paragraph pos d_model"]:
    return run.final if layer == len(run.layers) else run.layers[layer].pre


def _block(
    run: CleanRun, number: int, x: Float[Tensor, "row pos d_model"], paragraph: Int[Tensor, " row"], start: int
) -> Float[Tensor, "row pos d_model"]:
    """One layer on the positions from `start` on, with the clean run's keys and values before them."""
    layer, clean = run.weights.layers[number], run.layers[number]
    q, keys, values = projected(layer, x)
    low = 0 if layer.window is None else max(0, start - layer.window + 1)
    past = slice(low, start)
    keys = torch.cat([clean.keys[paragraph, :, past], keys], dim=2)
    values = torch.cat([clean.values[paragraph, :, past], values], dim=2)
    mid = x + F.linear(attended(layer, q, keys, values, start=start, low=low), layer.out, layer.out_bias)
    return mid + layer.mlp(mid)
