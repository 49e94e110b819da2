"""Many interventions at one site of one layer, a batch at a time."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from memhooks.model.replay.batches import Batches
from memhooks.model.replay.clean_run import CleanRun, Site, activation
from memhooks.model.replay.edits import Cells, activation_edits
from memhooks.model.replay.replay import replay
from memhooks.model.replay.scoring import Outcome, Reader, joined
from memhooks.model.replay.work import Work

Put = Callable[[Cells], Tensor]
"""What stands at some cells instead, shaped as `Cells.read` gives it."""


def sweep(
    run: CleanRun,
    place: tuple[Site, int],
    cells: Cells,
    put: Put,
    *,
    batches: Batches,
    work: Work,
    readers: Mapping[str, Reader] | None = None,
) -> Outcome:
    """Score every intervention at a site of a layer as a full pass with a hook would, in the order of the cells."""
    outcomes: list[Outcome] = []
    order = cells.position.argsort(stable=True)  # those that begin at nearby positions share a batch

    def run_rows(rows: Tensor) -> None:
        some = cells.select(rows)
        edits = activation_edits(run, *place, some, put(some), work=work)
        outcomes.append(replay(run, edits, batches=batches, work=work, readers=readers))

    batches.run(order, run_rows)
    return joined(outcomes).select(order.argsort())


def from_run(source: CleanRun, site: Site, layer: int, *, span: int = 1) -> Put:
    """Put what another run has at the same paragraph and place."""
    return lambda cells: cells.read(activation(source, site, layer), site, span)


def from_values(values: Tensor, site: Site, *, span: int = 1) -> Put:
    """Put the same values into every paragraph, for instance means or zeros; [1 pos ...] as `activation` gives it."""

    def read(cells: Cells) -> Tensor:
        first = Cells(torch.zeros_like(cells.paragraph), cells.position, cells.part, cells.key)
        return first.read(values, site, span)

    return read


def every(*sizes: int, device: torch.device | str | None = None) -> list[Tensor]:
    """All combinations of numbers below the sizes, the last one fastest; one flat tensor per size."""
    ranges = [torch.arange(size, device=device) for size in sizes]
    return [one.flatten() for one in torch.meshgrid(*ranges, indexing="ij")]
