"""Replays edits of a run: only the layers above them, only the positions from them on, only the scored tokens.

1. An edit is a change of the stream that enters a layer, from some position on. Everything
   below that layer and before that position is as in the clean run, keys and values included.
2. Edits of one layer run together as rows of a batch; those that begin at nearby positions share a batch.
3. Edits that change nothing, or that no scored token can see, are not run at all.
4. In the last layer only positions that predict a scored token get more than keys and values.
5. Only scored positions are unembedded; NLL is `logsumexp - gather`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.replay.batches import Batches
from memhooks.model.replay.block import KeysValues, run_block
from memhooks.model.replay.clean_run import CleanRun, score
from memhooks.model.replay.scoring import Outcome, Reader
from memhooks.model.replay.work import Work, attention_pairs, block_flops, unembed_flops

NEAR = 8
"""Edits that begin this many positions apart still share a batch."""


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
        device = self.position.device
        span = torch.arange(self.stream.shape[1], device=device)
        return torch.arange(len(self), device=device)[:, None], self.position[:, None] + span

    def select(self, rows: Tensor) -> "Edits":
        """Some of the rows."""
        return Edits(self.layer, self.paragraph[rows], self.position[rows], self.stream[rows])

    def spread(self, run: CleanRun, start: int) -> Float[Tensor, "row pos d_model"]:
        """The edited stream of every row from `start` to the last position that predicts anything."""
        low = min(start, int(self.position.min()))  # an edit may begin with positions that it does not change
        x = run.entering(self.layer)[:, low:][self.paragraph]
        row, position = self.where
        x[row, position - low] = self.stream
        return x[:, start - low : -1]


@torch.no_grad()
def replay(
    run: CleanRun,
    edits: Edits,
    *,
    batches: Batches | None = None,
    work: Work | None = None,
    readers: Mapping[str, Reader] | None = None,
) -> Outcome:
    """Score every edit's paragraph, edit by edit, as a full pass with that edit would.

    Args:
        run: the run that is edited.
        edits: the rows.
        batches: how many rows run together.
        work: counts what is done.
        readers: further numbers to read off all scored positions.
    """
    work, batches, readers = work or Work(), batches or Batches(64), readers or {}
    found = run.read(readers).select(edits.paragraph)
    work.add_full_passes(run.weights, len(edits), run.tokens.shape[1])

    def run_rows(rows: Tensor) -> None:
        some = edits.select(rows)
        start = int(first_change(run, some)[0].min())
        begin = max(start, run.first - 1)
        stream = _replayed(run, some, start, begin, work)
        if readers:  # they want all scored positions, and what lies before the edit is clean
            before = run.final[some.paragraph, run.first - 1 : begin]
            begin, stream = run.first - 1, torch.cat([before, stream], dim=1)
        after = score(run, stream, some.paragraph, begin=begin, readers=readers)
        work.flops += unembed_flops(run.weights, stream.shape[0] * stream.shape[1])
        scored = slice(begin + 1 - run.first, None)
        found.nll[rows, scored], found.hits[rows, scored] = after.nll, after.hits
        for name, values in after.read.items():
            found.read[name][rows] = values

    for rows in nearby(run, edits, work):
        batches.run(rows, run_rows)
    work.rows_per_batch = batches.rows
    return found


def _replayed(run: CleanRun, edits: Edits, start: int, begin: int, work: Work) -> Float[Tensor, "row pos d_model"]:
    """The final stream from `begin` on."""
    x, n_layers = edits.spread(run, start), len(run.layers)
    if edits.layer == n_layers:
        return x[:, begin - start :]
    for number in range(edits.layer, n_layers):
        layer = run.weights.layers[number]
        cut = begin - start if number == n_layers - 1 else 0
        low, past = clean_past(run, number, edits.paragraph, start)
        n_rows, n_in = x.shape[:2]
        x, (keys, _) = run_block(layer, x, past, start=start, low=low, cut=cut)
        work.block_positions += n_rows * n_in
        work.flops += n_rows * block_flops(layer, n_in, n_in - cut, (n_in - cut) * keys.shape[2])
    return x


def clean_past(run: CleanRun, number: int, paragraph: Int[Tensor, " row"], start: int) -> tuple[int, KeysValues]:
    """The clean keys and values before `start` that a layer can still see, and the position of the first."""
    window, clean = run.weights.layers[number].window, run.layers[number]
    low = 0 if window is None else max(0, start - window + 1)
    return low, (clean.keys[paragraph, :, low:start], clean.values[paragraph, :, low:start])


def first_change(run: CleanRun, edits: Edits) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"], Bool[Tensor, " row"]]:
    """First and last position at which each row differs from the clean run, and whether it differs at all."""
    there = run.entering(edits.layer)[edits.paragraph[:, None], edits.where[1]]
    differs = (there != edits.stream).any(-1).int()
    first = edits.position + differs.argmax(1)
    last = edits.position + differs.shape[1] - 1 - differs.flip(1).argmax(1)
    return first, last, differs.any(1)


def nearby(run: CleanRun, edits: Edits, work: Work) -> Iterator[Int[Tensor, " row"]]:
    """Rows that must run, in groups that begin at nearby positions; the order is fixed by the edits alone."""
    first, last, differs = first_change(run, edits)
    final, weights = run.tokens.shape[1] - 1, run.weights
    # The last position predicts nothing. After the last layer a position is seen by its own prediction
    # alone, in a local layer by the window after it.
    windows = [layer.window for layer in weights.layers[edits.layer :]]
    seen = differs & (first < final)
    if None not in windows:
        seen &= last + sum(window - 1 for window in windows if window) >= run.first - 1
    rows = seen.nonzero()[:, 0]
    rows = rows[first[rows].argsort(stable=True)]
    _add_floor(run, edits.layer, first[rows].tolist(), work)
    begin = 0
    starts = first[rows].tolist()
    for end in range(1, len(rows) + 1):
        if end == len(rows) or starts[end] - starts[begin] >= NEAR:
            yield rows[begin:end]
            begin = end


def _add_floor(run: CleanRun, layer: int, starts: list[int], work: Work) -> None:
    n_pos, n_layers = run.tokens.shape[1], len(run.layers)
    cost: dict[int, tuple[int, int]] = {}
    for start in starts:
        if start not in cost:
            n_in, n_out = n_pos - 1 - start, n_pos - 1 - max(start, run.first - 1)
            flops = unembed_flops(run.weights, n_out)
            for number in range(layer, n_layers):
                some, own = n_out if number == n_layers - 1 else n_in, run.weights.layers[number]
                flops += block_flops(own, n_in, some, attention_pairs(some, n_pos - 1, own.window))
            cost[start] = n_in * (n_layers - layer), flops
        work.floor_block_positions += cost[start][0]
        work.floor_flops += cost[start][1]
