"""Gradient maps of paragraphs by how much of them is recited: the four EM bins of the paper's Figs. 4 and 9.

1. Paragraphs are sorted into bins by EM on their true continuation.
2. Each bin's first rows, in their order, give one gradient of their mean NLL; each component is pooled.
3. The published maps score the model's own continuation of the same prefixes (`reference="own"`), the
   older ones the true text (`"true"`): the sign of "memorized text has smaller gradients" depends on which.
"""

from typing import Literal, get_args

import numpy as np
import xarray as xr
from jaxtyping import Int

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.pooling import POOLED, component_scores
from memhooks.localize.profile import layer_sums
from memhooks.measure.recitation import em_bins, recitation, with_own_continuation
from memhooks.model.components import AttentionMatrix
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs

Reference = Literal["true", "own"]


def range_maps(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    exact_match: Int[np.ndarray, " paragraph"] | None = None,
    reference: Reference = "own",
    most: int = 50,
    batch_size: int = 8,
) -> xr.Dataset:
    """One map of pooled |gradient| for each EM bin that has paragraphs.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: memorized and others together; those of published files come in bins already.
        exact_match: of each paragraph on its true continuation; measured by default.
        reference: whose continuation the gradient is of.
        most: paragraphs of each bin, the first of it.
        batch_size: paragraphs that share their passes.

    Returns:
        Dataset over `row` (the bin, such as 50 or 0-10), `layer` and `component`: the variables of `POOLED`, of the
        gradient of the bin's mean; over `row` and `layer`: `layer_sum` (of the component's maxima), `attention` and
        `mlp` (sums of |gradient| over all weights of either kind); over `row`: `grad_sum` and `grad_var` (of the
        maxima over all cells, as published, the variance unbiased), `nll` and `n_paragraphs`.

    Raises:
        InputError: exact matches of another number or outside the bins, an unknown reference, or as
            `weight_gradients`.
    """
    if reference not in get_args(Reference):
        raise InputError(f"reference must be one of {', '.join(get_args(Reference))}, got {reference!r}")
    paragraphs.check(model)
    em = recitation(model, paragraphs)["exact_match"].values if exact_match is None else exact_match
    if len(em) != len(paragraphs):
        raise InputError(f"exact_match must hold one number for each of {len(paragraphs)} paragraphs, got {len(em)}")
    maps = []
    for name, (low, high) in em_bins(paragraphs.n_continuation).items():
        rows = np.nonzero((em >= low) & (em <= high))[0][:most]
        if len(rows):
            some = paragraphs.select(rows)
            maps.append(_one_bin(model, some, name, reference=reference, batch_size=batch_size))
    if not maps:
        raise InputError(f"no paragraph is in any bin: exact matches must lie in 0..{paragraphs.n_continuation}")
    about = provenance(model, paragraphs.tokens) | {"reference": reference, "most": most}
    return xr.concat(maps, "row", combine_attrs="drop").assign_attrs(labelled(about).attrs)


def _one_bin(model: HookedModel, rows: Paragraphs, name: str, *, reference: Reference, batch_size: int) -> xr.Dataset:
    scored = with_own_continuation(model, rows) if reference == "own" else rows
    found = component_scores(model, weight_gradients(model, scored, batch_size=batch_size))
    total, sums = found["l1_gradient"], layer_sums(found)
    in_attention = np.array([str(one).startswith(get_args(AttentionMatrix)) for one in found["component"].values])
    unit = total.attrs["units"]
    by_layer = {
        "layer_sum": (sums["layer_sum"], sums["layer_sum"].attrs["units"]),
        "attention": (total.isel(component=np.nonzero(in_attention)[0]).sum("component"), f"attention: {unit}"),
        "mlp": (total.isel(component=np.nonzero(~in_attention)[0]).sum("component"), f"MLP: {unit}"),
    }
    overall = {
        "grad_sum": (float(sums["grad_sum"]), sums["grad_sum"].attrs["units"]),
        "grad_var": (float(sums["grad_var"]), sums["grad_var"].attrs["units"]),
        "nll": (float(recitation(model, scored)["nll"].mean()), "nats per continuation token"),
        "n_paragraphs": (len(rows), "paragraphs"),
    }
    return labelled(
        {},
        **{
            one: Variable(
                found[one].values[None], ("row", "layer", "component"), found[one].attrs["units"], _labels(found, name)
            )
            for one in POOLED
        },
        **{one: Variable(value.values[None], ("row", "layer"), unit) for one, (value, unit) in by_layer.items()},
        **{one: Variable(np.array([value]), ("row",), unit) for one, (value, unit) in overall.items()},
    )


def _labels(found: xr.Dataset, name: str) -> dict[str, list]:
    return {"row": [name], "layer": found["layer"].values.tolist(), "component": found["component"].values.tolist()}
