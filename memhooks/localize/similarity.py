"""Do memorized text and a control use the same directions? Cosines of gradients and activations, with their null.

Two sets always differ a little: a cosine between memorized and control means something only beside the cosine
within each of them, which is the null here.
"""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attribution import weight_gradients
from memhooks.localize.objectives import Objective, continuation_nll, objective_name
from memhooks.localize.pooling import grid_axes
from memhooks.model.components import components, head_view
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs

_COSINE = "cosine, 1 = same direction, 0 = unrelated"


def paired_similarity(one: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """Row by row, such as paragraphs beside their perturbed twins.

    Args:
        one: what `directions` returned for the first of each pair.
        other: for the second, at the same sites.

    Returns:
        Dataset over `paragraph`, `site`, `layer` (, `head`) (, `pos`): `cosine`, and `difference`: the length of the
        difference over the mean length of both (0 = equal, 2 = opposite). NaN where a vector is zero.

    Raises:
        InputError: other sites, positions or numbers of paragraphs.
    """
    first, second = _vectors(one, other)
    if first.sizes["paragraph"] != second.sizes["paragraph"]:
        raise InputError(
            f"pairs need as many paragraphs on both sides, got {first.sizes['paragraph']} and "
            f"{second.sizes['paragraph']}; for sets without pairs use set_similarity"
        )
    a, b = (vectors.values.astype(np.float64) for vectors in (first, second))
    sizes = [np.linalg.norm(vectors, axis=-1) for vectors in (a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (a * b).sum(-1) / (sizes[0] * sizes[1])
        difference = 2 * np.linalg.norm(a - b, axis=-1) / (sizes[0] + sizes[1])
    axes, labels = _labels(first)
    return labelled(
        _about(one, other),
        cosine=Variable(cosine, axes, _COSINE, labels),
        difference=Variable(difference, axes, "length of the difference over mean length, 0 = equal"),
    )


def set_similarity(one: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """Mean cosine between the paragraphs of two sets, and within each of them; arguments as `paired_similarity`.

    Returns:
        Dataset over `site`, `layer` (, `head`) (, `pos`): `between`, `within_one`, `within_other`: means over
        all pairs of different paragraphs whose vectors are not zero; NaN where there is none.

    Raises:
        InputError: other sites or positions.
    """
    first, second = _vectors(one, other)
    (sum_one, n_one), (sum_other, n_other) = (_unit_sum(vectors.values) for vectors in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (sum_one * sum_other).sum(-1) / (n_one * n_other)
        within = [((total**2).sum(-1) - n) / (n * (n - 1)) for total, n in ((sum_one, n_one), (sum_other, n_other))]
    axes, labels = _labels(first)
    axes, labels = axes[1:], {name: own for name, own in labels.items() if name != "paragraph"}
    return labelled(
        _about(one, other),
        between=Variable(between, axes, f"{_COSINE}; mean over pairs", labels),
        within_one=Variable(within[0], axes, f"{_COSINE}; mean over pairs of the first set"),
        within_other=Variable(within[1], axes, f"{_COSINE}; mean over pairs of the second set"),
    )


def weight_similarity(
    model: HookedModel,
    one: Paragraphs,
    other: Paragraphs,
    *,
    objective: Objective = continuation_nll,
    seed: int = 0,
) -> xr.Dataset:
    """Cosine of two sets' mean parameter gradients per component, halves against halves.

    Each set is split in two at random; all cosines are between means of half a set, so that they compare.

    Returns:
        Dataset over `layer` and `component`: `between` (mean over the four pairs of halves of different
        sets), `within_one` and `within_other` (between a set's own halves).

    Raises:
        InputError: a set of fewer than two paragraphs, or as `weight_gradients`.
    """
    for rows in (one, other):
        if len(rows) < 2:
            raise InputError(f"each set needs at least two paragraphs, to compare its halves; got {len(rows)}")
    halves = [
        weight_gradients(model, rows.select(half), objective=objective)
        for rows in (one, other)
        for half in _halves(len(rows), seed)
    ]
    grid = {"between": [(0, 2), (0, 3), (1, 2), (1, 3)], "within_one": [(0, 1)], "within_other": [(2, 3)]}
    axes = grid_axes(model)
    found = {
        name: torch.stack(
            [
                torch.stack(
                    [
                        _cosine(
                            head_view(halves[i][cell.parameter_name], cell),
                            head_view(halves[j][cell.parameter_name], cell),
                        )
                        for cell in components(model)
                    ]
                )
                for i, j in pairs
            ]
        )
        .mean(0)
        .reshape(model.cfg.n_layers, -1)
        for name, pairs in grid.items()
    }
    about = {"model_hash": model_hash(model), "objective": objective_name(objective), "seed": seed}
    return labelled(about, **{name: Variable(value, tuple(axes), _COSINE, axes) for name, value in found.items()})


def _halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[: n // 2], order[n // 2 :]


def _cosine(one: Tensor, other: Tensor) -> Float[Tensor, ""]:
    return torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0, eps=1e-30).cpu()


def _unit_sum(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum over paragraphs of unit vectors, and how many are not zero."""
    vectors = vectors.astype(np.float64)
    size = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units = np.divide(vectors, size, out=np.zeros_like(vectors), where=size > 0)
    return units.sum(0), (size[..., 0] > 0).sum(0)


def _vectors(one: xr.Dataset, other: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    first, second = one["vector"], other["vector"]
    places = [name for name in first.dims[1:] if name in first.coords]
    if first.dims != second.dims or any(first[name].values.tolist() != second[name].values.tolist() for name in places):
        raise InputError(
            f"both must be of the same sites and positions, got {dict(first.sizes)} and {dict(second.sizes)}"
        )
    return first, second


def _labels(vectors: xr.DataArray) -> tuple[tuple[str, ...], dict[str, list]]:
    axes = tuple(str(name) for name in vectors.dims[:-1])
    return axes, {name: vectors[name].values.tolist() for name in axes}


def _about(one: xr.Dataset, other: xr.Dataset) -> dict[str, object]:
    return {key: one.attrs[key] for key in ("model_hash", "objective", "backward")} | {
        "tokens_hash": one.attrs["tokens_hash"],
        "other_tokens_hash": other.attrs["tokens_hash"],
    }
