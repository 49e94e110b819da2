"""How many rows run together: as many as free memory allows at the start, half of them after it ran out."""

from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.model.checks import check_batch_size
from memhooks.model.replay.clean_run import CleanRun
from memhooks.model.replay.scoring import ROWS, SLICE

MOST = 32
"""More rows do not run faster on a processor; on a GPU four times as many are taken."""

SHARE = 0.5
"""Of the free memory that one batch may take."""


@dataclass
class Batches:
    """A limit on rows that shrinks when memory runs out; it is part of a result's provenance."""

    rows: int

    def run(self, rows: Int[Tensor, " row"], function: Callable[[Tensor], None]) -> None:
        """Call `function` on the rows, on halves of them after an out-of-memory error, and so on down to one.

        Raises:
            RuntimeError: one row alone does not fit, or another error.
            MemoryError: the same.
        """
        begin = 0
        while begin < len(rows):
            some = rows[begin : begin + self.rows]
            try:
                function(some)
                begin += len(some)
                continue
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or len(some) == 1:
                    raise
            # Outside the handler, so that what the traceback held is free; and for good: memory ran out once.
            self.rows = min(self.rows, len(some) // 2)


def batches(run: CleanRun, asked: int | None) -> Batches:
    """The limit asked for, or one that fits into free memory.

    Raises:
        InputError: fewer than one row is asked for.
    """
    check_batch_size(asked)
    if asked is not None:
        return Batches(asked)
    cuda = run.device.type == "cuda"
    free = torch.cuda.mem_get_info(run.device)[0] if cuda else psutil.virtual_memory().available
    fixed = 3 * ROWS * SLICE * run.final.element_size()
    rows = (SHARE * free - fixed) // bytes_per_row(run)
    return Batches(int(max(1, min(rows, 4 * MOST if cuda else MOST))))


def bytes_per_row(run: CleanRun) -> int:
    """What one row of the largest batch takes in a block: stream, norm, queries, keys, values, MLP, scores."""
    layer = run.weights.layers[0]
    d_model, d_mlp = layer.mlp_out.shape
    n_pos = run.tokens.shape[1]
    return n_pos * (12 * d_model + 2 * d_mlp + layer.n_heads * n_pos) * run.final.element_size()


def _out_of_memory(error: BaseException) -> bool:
    # On the CPU torch raises a bare RuntimeError.
    known = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, known) or "can't allocate memory" in str(error)
