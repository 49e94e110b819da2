"""In which layers do a paragraph's gradients lie? The share of each layer, and its centre of mass.

1. The pooled |gradient| of all components of a layer is summed.
2. Divided by the sum over layers: how large a gradient is follows the loss, and that is taken out here.
3. The centre of mass says in one number how high in the network the shares lie.

The profile may go with the loss, too: memhooks.localize.profile_contrasts compares sets with that in mind.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from memhooks.errors import InputError
from memhooks.localize.pooling import POOLED
from memhooks.model.labelled import Variable, labelled

_ROUNDING = 1e-4  # of shares in single precision that add up to 1
_MOST_NAMED = 5


def layer_shares(scores: xr.Dataset, *, pooling: str = "max_gradient") -> xr.DataArray:
    """Share of each layer in a paragraph's pooled |gradient|, summed over components.

    Args:
        scores: of `weight_scores`.
        pooling: how each component was pooled; sums of `l2_gradient` or `rms_gradient` are sums of
            norms, not the norm of the layer.

    Returns:
        Shares over `paragraph` and `layer`, from 0 (no gradient in the layer) to 1; over layers they add up to 1.

    Raises:
        InputError: an unknown pooling, scores without it or over other axes, gradients that are NaN, infinite or
            negative, or paragraphs without any gradient.
    """
    by_layer = _pooled(scores, pooling, ("paragraph", "layer", "component")).sum("component")
    total = by_layer.sum("layer")
    silent = (total == 0).values
    if silent.any():
        raise InputError(
            f"{pooling} is 0 everywhere for paragraph {named(total['paragraph'].values[silent])}: "
            "without a gradient there are no shares; leave these out"
        )
    unit = f"share of the layer in the sum of {pooling}, 0 = no gradient, adds up to 1"
    return (by_layer / total).rename("layer_share").assign_attrs(units=unit)


def centre_of_mass(shares: xr.DataArray) -> xr.DataArray:
    """Mean layer of each paragraph, weighted by its `layer_shares`; 0 = all in the first layer.

    Raises:
        InputError: the shares of a paragraph do not add up to 1.
    """
    total = shares.sum("layer", skipna=False)
    if not np.allclose(total, 1, rtol=0, atol=_ROUNDING):
        raise InputError("shares must add up to 1 over the layers of every paragraph; layer_shares gives them")
    unit = "layers, 0 = all of the gradient in the first layer"
    return (shares * shares["layer"]).sum("layer").rename("centre_of_mass").assign_attrs(units=unit)


def layer_sums(scores: xr.Dataset, *, pooling: str = "max_gradient") -> xr.Dataset:
    """Sums and spread of a batch's pooled |gradient|, as beside and above the published maps (Fig. 9).

    Args:
        scores: of the batch's mean gradient, over `layer` and `component`: `component_scores`.
        pooling: how each component was pooled; the published maps show the maximum.

    Returns:
        Dataset over `layer`: `layer_sum` (over components); and without axis `grad_sum` (over all cells
        of the map) and `grad_var` (their variance, unbiased; 0 = all cells alike, NaN for a single one).

    Raises:
        InputError: an unknown pooling, scores without it or over other axes, or NaN, infinite or negative gradients.
    """
    values = _pooled(scores, pooling, ("layer", "component"))
    unit = str(scores[pooling].attrs.get("units", pooling))
    spread = float(values.values.var(ddof=1)) if values.size > 1 else np.nan
    layers = {"layer": values["layer"].values.tolist()}
    return labelled(
        about(scores) | {"pooling": pooling},
        layer_sum=Variable(values.sum("component").values, ("layer",), f"sum over components of: {unit}", layers),
        grad_sum=Variable(np.asarray(values.values.sum()), (), f"sum over layers and components of: {unit}"),
        grad_var=Variable(np.asarray(spread), (), f"variance over layers and components of: {unit}, squared"),
    )


def losses_of(name: str, scores: xr.Dataset) -> Float[np.ndarray, " paragraph"]:
    """Loss of each paragraph of the set of that name, nats per token.

    Raises:
        InputError: the scores have no loss, or one that is NaN or infinite.
    """
    if "loss" not in scores:
        raise InputError(f"the scores of {name} lack `loss`; compute them with weight_scores")
    loss = scores["loss"].values.astype(np.float64)
    lost = ~np.isfinite(loss)
    if lost.any():
        where = named(scores["paragraph"].values[lost])
        raise InputError(f"the loss of {name} is NaN or infinite for paragraph {where}; leave these out")
    return loss


def check_comparable(results: Mapping[str, xr.Dataset], *, to: str, paired: Collection[str]) -> None:
    """Check that all results are scores of the same kind, those in `paired` of the same paragraphs.

    Raises:
        InputError: scores of another objective or of weights times gradients beside those without, another model's
            that are not paired, a paired name other than "twin" without a result, or paired ones of other paragraphs.
    """
    if absent := sorted(set(paired) - set(results) - {"twin"}):
        raise InputError(f"paired names {', '.join(absent)}, of which there are no scores; got {', '.join(results)}")
    first = results[to]
    for name, one in results.items():
        for key in ("objective", "times_weight"):
            if one.attrs.get(key) != first.attrs.get(key):
                raise InputError(
                    f"{name!r} and {to!r} must be scores of the same {key}, got {one.attrs.get(key)!r} and "
                    f"{first.attrs.get(key)!r}; compute both alike"
                )
        if name not in paired and one.attrs.get("model_hash") != first.attrs.get("model_hash"):
            raise InputError(
                f"{name!r} and {to!r} are scores of different models, so a difference would not be one of text; "
                "name it in `paired` if it is the same paragraphs under another model"
            )
        if name in paired and ids_of(one) != ids_of(first):
            raise InputError(
                f"{name!r} is paired with {to!r}, so both must hold the same paragraphs in the same order; "
                "leave it out of `paired` to compare two independent sets"
            )


def ids_of(scores: xr.Dataset) -> tuple[str, ...]:
    """The paragraphs' ids."""
    return tuple(map(str, scores["paragraph"].values))


def about(scores: xr.Dataset) -> dict[str, object]:
    """What the scores were computed from, for the attributes of what is made of them."""
    kept = {str(key): value for key, value in scores.attrs.items() if not str(key).startswith("version_")}
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in kept.items()}


def named(labels: Sequence | np.ndarray) -> str:
    """The first few labels, and how many more there are."""
    shown = ", ".join(str(label) for label in labels[:_MOST_NAMED])
    return shown + (f" and {len(labels) - _MOST_NAMED} more" if len(labels) > _MOST_NAMED else "")


def _pooled(scores: xr.Dataset, pooling: str, axes: tuple[str, ...]) -> xr.DataArray:
    if pooling not in POOLED:
        raise InputError(f"pooling must be one of {', '.join(POOLED)}, got {pooling!r}")
    if pooling not in scores:
        held = ", ".join(str(name) for name in scores) or "nothing"
        raise InputError(f"the scores lack {pooling!r}, they hold {held}; compute them with weight_scores")
    if set(scores[pooling].dims) != set(axes):
        maker = "weight_scores" if "paragraph" in axes else "component_scores"
        raise InputError(
            f"scores over {', '.join(axes)} are needed, as {maker} gives them; "
            f"got {', '.join(map(str, scores[pooling].dims)) or 'no axes'}"
        )
    values = scores[pooling].transpose(*axes).astype(np.float64)
    usable = np.isfinite(values.values) & (values.values >= 0)
    unusable = ~usable.reshape(len(usable), -1).all(1)
    if unusable.any():
        where = named(values[axes[0]].values[unusable])
        raise InputError(f"{pooling} must be 0 or more, but is NaN, infinite or negative in {axes[0]} {where}")
    return values
