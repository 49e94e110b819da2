"""The dose response: the same table for the model that read the paragraphs and for the twin that never did.

Under the twin every paragraph was read 0 times, whatever its k: no measure may depend on k there. What does, is a
difference between the paragraphs that were dealt to the levels, and not one of reading.
"""

from typing import NamedTuple

import xarray as xr

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.dose.curves import dose_curves
from memhooks.truth.dose.levels import counts_of
from memhooks.truth.dose.reading_times import ReadingTimes
from memhooks.truth.dose.statistics import dose_statistics
from memhooks.truth.dose.table import DoseSettings, RareHead, dose_table
from memhooks.truth.dose.thresholds import dose_thresholds


class DoseResponse(NamedTuple):
    """What `dose_response` found.

    Attributes:
        tables: of `dose_table`, by condition: memorized, and twin where there is one.
        curves: of `dose_curves`.
        statistics: of `dose_statistics`.
        thresholds: of `dose_thresholds`.
    """

    tables: dict[str, xr.Dataset]
    curves: xr.Dataset
    statistics: xr.Dataset
    thresholds: xr.Dataset

    @property
    def groups(self) -> dict[str, xr.Dataset]:
        """Every result by its place in a saved tree."""
        own = {"curves": self.curves, "statistics": self.statistics, "thresholds": self.thresholds}
        return {f"{name}/paragraphs": one for name, one in self.tables.items()} | own


def dose_response(
    model: HookedModel,
    twin: HookedModel | None,
    paragraphs: Paragraphs,
    *,
    head: RareHead | None = None,
    times: ReadingTimes | None = None,
    settings: DoseSettings | None = None,
) -> DoseResponse:
    """Recitation, extractability, gradients, attention, robustness and unlearning as functions of k and of the gap.

    Args:
        model: that read the paragraphs `paragraphs.counts` times each.
        twin: of the same shape, that never read them: the control. None leaves it out.
        paragraphs: with counts of at least three powers of two.
        head: whose attention to rare tokens is followed (`rare_head`); without it attention is left out.
        times: when they were read (`planted_times`); without them nothing is taken out for recency.
        settings: of the dear measures, and the seed of everything random.

    Returns:
        The tables of both models, curves, statistics and thresholds: see `dose_table`, `dose_curves`,
        `dose_statistics` and `dose_thresholds`.

    Raises:
        InputError: a twin of another shape or with the same weights, hooks, or whatever `dose_table` refuses.
    """
    settings = (settings or DoseSettings()).check()
    counts_of(paragraphs)
    models = {"memorized": model} | ({} if twin is None else {"twin": twin})
    for one in models.values():
        refuse_hooks(one)
        paragraphs.check(one)
    if twin is not None:
        _check_twin(model, twin)
    tables = {
        name: dose_table(one, paragraphs, head=head, times=times, settings=settings) for name, one in models.items()
    }
    made = (dose_curves, dose_statistics, dose_thresholds)
    return DoseResponse(tables, *(one(tables, seed=settings.seed) for one in made))


def _check_twin(model: HookedModel, twin: HookedModel) -> None:
    def shape(one: HookedModel) -> str:
        return f"{one.cfg.n_layers} layers of {one.cfg.n_heads} heads, {one.cfg.d_vocab} tokens"

    if shape(model) != shape(twin):
        raise InputError(f"the twin must have the model's shape, {shape(model)}; got {shape(twin)}")
    if model_hash(model) == model_hash(twin):
        raise InputError("the twin has the model's own weights, so it is no control; give one that never read the text")
