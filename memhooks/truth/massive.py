"""Are there massive activations, hidden units of outsized magnitude, and does recitation need them?

Sun et al. (2024, arXiv:2402.17762) call an activation massive if its magnitude is above 100 and at least 1,000 times
the median magnitude of its layer. Small models may have none; so the largest ones are named in any case.

1. One pass, layer by layer, records the residual stream after every block, and the MLPs' hidden units.
2. Each layer's largest magnitude is set beside its median, with unit, position and token.
3. The units that stand out most are named; `hold_units` asks whether recitation needs them.
"""

import numpy as np
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.truth.activations_by_layer import SITES, Site, Unit, by_layer, check_site, width_of

LEAST_MAGNITUDE, LEAST_RATIO = 100.0, 1000.0


@torch.no_grad()
def massive_activations(model: HookedModel, paragraphs: Paragraphs, *, batch_size: int = 32) -> xr.Dataset:
    """The largest magnitude of each layer, beside the median.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: whole paragraphs are read.
        batch_size: rows per pass.

    Returns:
        Dataset over `layer` and `site` (`resid_post`: the residual stream after the block; `post`: the MLP's hidden
        units): `largest` magnitude with its `unit`, `pos` in the paragraph, `token` (id) and `row` (number of the
        paragraph); `median` magnitude of all units, positions and paragraphs; `ratio` of the two; `n_massive` units
        that are massive somewhere; `share_first`, the share of paragraphs whose largest magnitude is at position 0.
        Over `site`: `n_distinct` massive units, each of the residual stream counted once and not in every layer.
        Over `paragraph`, `layer`, `site`: `peak_pos`, the position of the paragraph's own largest magnitude.

    Raises:
        InputError: a batch size below one, or paragraphs that the model cannot read.
    """
    paragraphs.check(model)
    check_batch_size(batch_size)
    n_layers = model.cfg.n_layers
    cells = {name: np.zeros((n_layers, len(SITES))) for name in ("largest", "median", "ratio", "share_first")}
    whole = {name: np.zeros((n_layers, len(SITES)), dtype=np.int64) for name in ("unit", "at", "token", "in", "n")}
    peaks = np.zeros((len(paragraphs), n_layers, len(SITES)), dtype=np.int64)
    distinct: list[set[Unit]] = [set() for _ in SITES]
    for place, site in enumerate(SITES):  # one at a time: a median needs all values of a layer at once
        for layer, signed in enumerate(by_layer(model, paragraphs, site, batch_size=batch_size)):
            values = signed.abs_()
            row, pos, unit = (int(one) for one in np.unravel_index(int(values.argmax()), values.shape))
            largest, median = float(values.max()), float(values.flatten().median())
            massive = (values > LEAST_MAGNITUDE) & (values >= LEAST_RATIO * median)
            peaks[:, layer, place] = values.amax(2).argmax(1).numpy()
            at = (layer, place)
            cells["largest"][at], cells["median"][at] = largest, median
            cells["ratio"][at] = largest / median if median else np.inf
            cells["share_first"][at] = (peaks[:, layer, place] == 0).mean()
            whole["unit"][at], whole["at"][at], whole["in"][at] = unit, pos, row
            units = massive.flatten(0, 1).any(0).nonzero().flatten().tolist()
            whole["token"][at], whole["n"][at] = int(paragraphs.tokens[row, pos]), len(units)
            # A unit of the residual stream is the same one in every layer.
            distinct[place] |= {(0 if site == "resid_post" else layer, one) for one in units}
    axes = ("layer", "site")
    labels = {"layer": range(n_layers), "site": SITES}
    return labelled(
        provenance(model, paragraphs.tokens) | {"least_magnitude": LEAST_MAGNITUDE, "least_ratio": LEAST_RATIO},
        largest=Variable(cells["largest"], axes, "magnitude, 0 = none", labels),
        median=Variable(cells["median"], axes, "magnitude, 0 = most units are off"),
        ratio=Variable(cells["ratio"], axes, "largest over median, 1 = all alike"),
        share_first=Variable(cells["share_first"], axes, "share of paragraphs, 0 = never at position 0"),
        unit=Variable(whole["unit"], axes, "unit, from 0"),
        at_pos=Variable(whole["at"], axes, "position in the paragraph, from 0"),
        token=Variable(whole["token"], axes, "token id"),
        in_row=Variable(whole["in"], axes, "number of the paragraph, from 0"),
        n_massive=Variable(whole["n"], axes, "units, 0 = no massive activation"),
        n_distinct=Variable(np.array([len(one) for one in distinct]), ("site",), "units, 0 = no massive activation"),
        peak_pos=Variable(peaks, ("paragraph", *axes), "position, from 0", {"paragraph": paragraphs.ids}),
    )


@torch.no_grad()
def outstanding_units(
    model: HookedModel, paragraphs: Paragraphs, *, site: Site, n: int, batch_size: int = 32
) -> list[Unit]:
    """The `n` units whose largest magnitude stands out most from their layer's median, the most outstanding first.

    In the residual stream a unit is the same in all layers, so each is named once, in the layer where it stands out
    most; `hold_units` holds it in all.

    Raises:
        InputError: an unknown site, or not so many units.
    """
    check_site(site)
    width = width_of(model, site)
    limit = width if site == "resid_post" else width * model.cfg.n_layers
    if not 1 <= n <= limit:
        raise InputError(f"n must lie in 1..{limit} (units of {site}), got {n}")
    ratios = []
    for signed in by_layer(model, paragraphs, site, batch_size=batch_size):
        values = signed.abs_()
        ratios.append(values.amax((0, 1)) / values.flatten().median().clamp_min(1e-12))
    table = torch.stack(ratios)
    if site == "resid_post":
        best, layer = table.max(0)
        table = torch.zeros_like(table).index_put((layer, torch.arange(table.shape[1])), best)
    order = table.flatten().argsort(descending=True, stable=True)[:n]
    return [(int(one) // table.shape[1], int(one) % table.shape[1]) for one in order]
