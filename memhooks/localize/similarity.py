"""Do memorized text and a control use the same directions? Cosines of gradients and activations, with their null.

Two sets always differ a little: a cosine between memorized and control means something only beside the cosine
within each of them, which is the null here.
"""

from typing import NamedTuple

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
from memhooks.paragraphs.splits import clusters

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


def set_similarity(
    one: xr.Dataset, other: xr.Dataset, *, sets: tuple[Paragraphs, Paragraphs] | None = None
) -> xr.Dataset:
    """Mean cosine between the paragraphs of two sets, and within each of them.

    Args:
        one: what `directions` returned for the first set.
        other: for the second, at the same sites.
        sets: their paragraphs; pairs of near-duplicates, which are alike for another reason, are then left out.

    Returns:
        Dataset over `site`, `layer` (, `head`) (, `pos`): `between`, `within_one`, `within_other`: means over
        all pairs of different paragraphs whose vectors are not zero; NaN where there is none.

    Raises:
        InputError: other sites or positions.
    """
    first, second = _vectors(one, other)
    found = [
        _Units.of(vectors.values, np.arange(len(vectors)) if sets is None else clusters(sets[side]).numpy())
        for side, vectors in enumerate((first, second))
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (found[0].total * found[1].total).sum(-1) / (found[0].n * found[1].n)
        within = [each.within for each in found]
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

    Each set is split in two at random, near-duplicates together; all cosines are between means of half a set, so that
    they compare. One split: another `seed` gives slightly other numbers.

    Returns:
        Dataset over `layer` and `component`: `between` (mean over the four pairs of halves of different
        sets), `within_one` and `within_other` (between a set's own halves).

    Raises:
        InputError: a set of fewer than two paragraphs that are not near-duplicates, or as `weight_gradients`.
    """
    halves = [
        weight_gradients(model, rows.select(half), objective=objective)
        for rows in (one, other)
        for half in _halves(rows, seed)
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


def _halves(rows: Paragraphs, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which paragraphs are in either half.

    Raises:
        InputError: there are no two clusters.
    """
    label = clusters(rows).numpy()
    names = np.unique(label)
    if len(names) < 2:
        raise InputError(
            f"each set needs at least two paragraphs that are not near-duplicates, to compare its halves; "
            f"got {len(rows)} in {len(names)} cluster"
        )
    first = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    return np.isin(label, first), ~np.isin(label, first)


def _cosine(one: Tensor, other: Tensor) -> Float[Tensor, ""]:
    return torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0, eps=1e-30).cpu()


class _Units(NamedTuple):
    """Unit vectors of a set: their sum and number, and the mean cosine of pairs from different clusters."""

    total: np.ndarray
    n: np.ndarray
    within: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, label: np.ndarray) -> "_Units":
        vectors = vectors.astype(np.float64)
        size = np.linalg.norm(vectors, axis=-1, keepdims=True)
        units = np.divide(vectors, size, out=np.zeros_like(vectors), where=size > 0)
        there = size[..., 0] > 0
        sums = np.stack([units[label == one].sum(0) for one in np.unique(label)])
        numbers = np.stack([there[label == one].sum(0) for one in np.unique(label)])
        total, n = sums.sum(0), numbers.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            within = ((total**2).sum(-1) - (sums**2).sum((0, -1))) / (n**2 - (numbers**2).sum(0))
        return cls(total, n, within)


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
