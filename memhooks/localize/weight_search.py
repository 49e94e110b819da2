"""Which single weights score highest, where do they lie, and how often does each matrix hold them?

1. Scores by parameter name (gradients, or any other localizer's) are read component by
   component, so that a filter for one head reads that head and no other.
2. The k largest |score| are found exactly; of equal ones the first in the order of `components`.
3. The null is as many weights drawn blindly from the same region of the model.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int, Shaped
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.localize.objectives import Objective, continuation_nll, objective_name
from memhooks.localize.weight_region import Region, Scores, part_of, region_cells
from memhooks.model.components import Component, component_labels, component_parameters, components
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash, provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

_PLACE = ("layer", "component", "input", "output")


def search_weights(model: HookedModel, scores: Scores, *, k: int, **region: Unpack[Region]) -> xr.Dataset:
    """The `k` weights with the largest |score|, largest first.

    Args:
        model: a hooked GPT-Neo.
        scores: one per weight by parameter name, as `weight_gradients` returns them.
        k: how many weights.
        **region: search in one `layer`, in some `matrices`, in one `head` only.

    Returns:
        Dataset over `row` (such as `L1 W_V 2 [7, 3]`): `layer`, `component`, `head` (-1 = MLP), `input` and `output`
        (indices in the component's matrix, which maps inputs to outputs), `score`, and `weight`, its value.

    Raises:
        InputError: scores that do not belong to the model or are NaN, a region that the model or the scores lack,
            or `k` beyond the number of weights there.
    """
    cells = region_cells(scores, model, region)
    _check_k(k, sum(part_of(scores, cell).numel() for cell in cells))
    sizes, inside, number = [], [], []
    for place, cell in enumerate(cells):
        size = part_of(scores, cell).detach().abs().flatten().cpu()
        own = largest(size, k)
        sizes.append(size[own])
        inside.append(own)
        number.append(torch.full_like(own, place))
    best = largest(torch.cat(sizes), k)
    return _rows(scores, model, [cells[place] for place in torch.cat(number)[best]], torch.cat(inside)[best], region)


def random_weights_like(model: HookedModel, rows: xr.Dataset, scores: Scores, *, seed: int) -> xr.Dataset:
    """As many weights drawn uniformly, without repetition, from the region that gave `rows`; largest |score| first.

    Args:
        model: a hooked GPT-Neo.
        rows: what `search_weights` returned.
        scores: those that were searched.
        seed: of the draw.

    Raises:
        InputError: as `search_weights`.
    """
    region: Region = json.loads(rows.attrs["region"])
    cells = region_cells(scores, model, region)
    ends = np.cumsum([part_of(scores, cell).numel() for cell in cells])
    _check_k(rows.sizes["row"], int(ends[-1]))
    drawn = np.random.default_rng(seed).choice(ends[-1], size=rows.sizes["row"], replace=False)
    number = np.searchsorted(ends, drawn, side="right")
    inside = torch.from_numpy(drawn - np.concatenate([[0], ends])[number])
    found = _rows(scores, model, [cells[place] for place in number], inside, region)
    return found.isel(row=np.argsort(-np.abs(found["score"].values), kind="stable")).assign_attrs(seed=seed)


def as_mask(rows: xr.Dataset, model: HookedModel) -> WeightMask:
    """The weights of a search as a mask over all components, to be perturbed or edited."""
    return joined_mask(by_component(rows, model), model)


def by_component(rows: xr.Dataset, model: HookedModel) -> dict[Component, Int[Tensor, " chosen"]]:
    """The weights of a search as sorted indices into each component's flattened matrix."""
    parameters, cells = component_parameters(model), {(cell.layer, cell.label): cell for cell in components(model)}
    chosen: dict[Component, list[int]] = defaultdict(list)
    for layer, label, *place in zip(*(rows[name].values.tolist() for name in _PLACE), strict=True):
        cell = cells[layer, label]
        chosen[cell].append(place[0] * parameters[cell.parameter_name].shape[-1] + place[1])
    return {cell: torch.tensor(sorted(own)) for cell, own in chosen.items()}


def joined_mask(parts: Mapping[Component, Int[Tensor, " chosen"]], model: HookedModel) -> WeightMask:
    """Indices into components' flattened matrices as one mask over all components."""
    parameters = component_parameters(model)
    chosen = {name: [torch.zeros(0, dtype=torch.long)] for name in parameters}
    for cell, own in parts.items():
        chosen[cell.parameter_name].append((cell.head or 0) * part_of(parameters, cell).numel() + own)
    indices = {name: torch.cat(own).sort().values.int() for name, own in chosen.items()}
    return WeightMask(indices, {name: weight.numel() for name, weight in parameters.items()})


def search_frequency(
    model: HookedModel, paragraphs: Paragraphs, *, k: int, objective: Objective = continuation_nll
) -> xr.Dataset:
    """How often does each component hold a paragraph's `k` top weights by |gradient|?

    Returns:
        Dataset over `paragraph`, `layer` and `component`: `found` (how many of the paragraph's k); over `layer` and
        `component`: `share` (of all paragraphs' top weights, from 0 to 1) and `expected` (the component's share of
        all weights, which blind choice would give).

    Raises:
        InputError: `k` out of range, or paragraphs that the model cannot read.
    """
    paragraphs.check(model)
    grid, labels = components(model), component_labels(model)
    parameters = component_parameters(model)
    sizes = np.array([part_of(parameters, cell).numel() for cell in grid])
    _check_k(k, int(sizes.sum()))
    found = np.zeros((len(paragraphs), model.cfg.n_layers, len(labels)), dtype=int)
    for row in tracked(range(len(paragraphs)), "searching"):
        gradients = weight_gradients(model, paragraphs.select([row]), objective=objective)
        top = search_weights(model, gradients, k=k)
        for layer, label in zip(top["layer"].values, top["component"].values, strict=True):
            found[row, layer, labels.index(label)] += 1
    axes = ("paragraph", "layer", "component")
    names = {"paragraph": paragraphs.ids, "layer": range(model.cfg.n_layers), "component": labels}
    about = {"k": k, "objective": objective_name(objective)}
    return labelled(
        provenance(model, paragraphs.tokens) | about,
        found=Variable(found, axes, f"weights of the paragraph's top {k}, 0 = none", names),
        share=Variable(found.mean(0) / k, axes[1:], "share of all paragraphs' top weights, 0 = none"),
        expected=Variable(
            (sizes / sizes.sum()).reshape(found.shape[1:]), axes[1:], "share of all weights: what blind choice gives"
        ),
    )


def largest(values: Shaped[Tensor, " entry"], n: int) -> Int[Tensor, " chosen"]:
    """Indices of the `n` largest values (or of all, if fewer), largest first; of equal ones the first."""
    n = min(n, len(values))
    if n == 0:
        return torch.zeros(0, dtype=torch.long)
    least = values.topk(n).values[-1]
    above, equal = (values > least).nonzero()[:, 0], (values == least).nonzero()[:, 0]
    chosen = torch.cat([above, equal[: n - len(above)]])
    return chosen[values[chosen].sort(descending=True, stable=True).indices]


def _rows(
    scores: Scores, model: HookedModel, cells: Sequence[Component], inside: Int[Tensor, " row"], region: Region
) -> xr.Dataset:
    """A table of single weights: entry `inside` of each cell's flattened matrix."""
    parameters = component_parameters(model)
    width = [parameters[cell.parameter_name].shape[-1] for cell in cells]
    places = [divmod(int(one), columns) for one, columns in zip(inside, width, strict=True)]
    columns = {
        "layer": ([cell.layer for cell in cells], "block, from 0"),
        "component": ([cell.label for cell in cells], "weight matrix of the block"),
        "head": ([-1 if cell.head is None else cell.head for cell in cells], "attention head, -1 = MLP"),
        "input": ([row for row, _ in places], "index of the matrix's input, from 0"),
        "output": ([column for _, column in places], "index of the matrix's output, from 0"),
        "score": (_picked(scores, cells, places), "the localizer's unit per weight, 0 = no influence"),
        "weight": (_picked(parameters, cells, places), "value of the weight, 0 = no connection"),
    }
    names = [f"L{cell.layer} {cell.label} [{row}, {column}]" for cell, (row, column) in zip(cells, places, strict=True)]
    return labelled(
        {"model_hash": model_hash(model), "region": json.dumps(region, default=int)},
        **{
            name: Variable(np.array(values), ("row",), unit, {"row": names}) for name, (values, unit) in columns.items()
        },
    )


def _picked(
    tensors: Mapping[str, Tensor], cells: Sequence[Component], places: Sequence[tuple[int, int]]
) -> list[float]:
    return [part_of(tensors, cell)[place].item() for cell, place in zip(cells, places, strict=True)]


def _check_k(k: int, n_weights: int) -> None:
    if k not in range(1, n_weights + 1):
        raise InputError(f"k must lie in 1..{n_weights}, the number of weights searched, got {k}")
