"""Masks of whole parts: components by name, and the neurons or heads whose weights score highest together.

A part's score is the root mean square of its weights' scores: unlike a maximum or a sum it does not grow with
the number of weights alone.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.masks.groups import n_chosen
from memhooks.localize.masks.selection import Part, best
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import Component, component_parameters, components, head_view
from memhooks.model.loading import HookedModel


def block(model: HookedModel, cells: Sequence[Component]) -> WeightMask:
    """All weights of some components, such as `[Component(1, "W_V", 2)]`, bound to the model.

    Raises:
        InputError: no components, or one that the model lacks.
    """
    known = set(components(model))
    wrong = [cell for cell in cells if cell not in known]
    if wrong or not cells:
        example = ", ".join(str(cell) for cell in components(model)[:1])
        raise InputError(
            f"cells must be components of the model such as {example}, got {wrong[0] if wrong else 'none'}"
        )
    chosen = _nothing(model)
    for cell in cells:
        head_view(chosen[cell.parameter_name], cell).fill_(1)
    return _mask(model, chosen)


def top_neurons(model: HookedModel, scores: Mapping[str, Tensor], *, fraction: float) -> WeightMask:
    """The MLP neurons with the highest scores, each with its column of W_in and its row of W_out.

    Args:
        model: the mask is bound to it.
        scores: one per weight by parameter name; those of W_in and W_out of every layer are used.
        fraction: of all weights of all components, as in `top_weights`; rounded to whole neurons, at least one. Equal
            scores: the earlier layer, then the smaller neuron.

    Raises:
        InputError: the fraction lies outside (0, 1] or is more than all neurons hold, or scores that are missing, of
            another shape, NaN or infinite.
    """
    named = {
        (cell.layer, cell.matrix): cell.parameter_name for cell in components(model) if cell.matrix in ("W_in", "W_out")
    }
    _check_scores(model, scores, list(named.values()))
    n_weights = sum(weight.numel() for weight in component_parameters(model).values())
    width, n_neurons = 2 * model.cfg.d_model, model.cfg.n_layers * scores[named[0, "W_in"]].shape[1]
    n = max(1, round(n_chosen(fraction, n_weights) / width))
    if n > n_neurons:
        most = width * n_neurons / n_weights
        raise InputError(f"the neurons of all layers hold {most:.3f} of all weights, so fraction cannot be {fraction}")
    together = [
        _squares(scores[named[layer, "W_in"]]).sum(0) + _squares(scores[named[layer, "W_out"]]).sum(1)
        for layer in range(model.cfg.n_layers)
    ]
    parts = [Part(f"the neurons of layer {layer}", 0, (one / width).sqrt()) for layer, one in enumerate(together)]
    chosen = _nothing(model)
    for layer, own in enumerate(best(parts, n)):
        chosen[named[layer, "W_in"]][:, own.long()] = True
        chosen[named[layer, "W_out"]][own.long()] = True
    return _mask(model, chosen)


def top_heads(model: HookedModel, scores: Mapping[str, Tensor], *, n: int) -> WeightMask:
    """The `n` attention heads with the highest scores, each with its W_Q, W_K, W_V and W_O.

    Args:
        model: the mask is bound to it.
        scores: one per weight by parameter name; those of attention are used. Equal scores: the earlier layer, then
            the smaller head.
        n: how many heads, of all layers together.

    Raises:
        InputError: `n` out of range, or scores that are missing, of another shape, NaN or infinite.
    """
    heads = [cell for cell in components(model) if cell.head is not None]
    _check_scores(model, scores, list(dict.fromkeys(cell.parameter_name for cell in heads)))
    places = list(dict.fromkeys((cell.layer, cell.head) for cell in heads))
    if n not in range(1, len(places) + 1):
        raise InputError(f"n must lie in 1..{len(places)}, the heads of all layers, got {n}")
    squares = dict.fromkeys(places, torch.zeros((), dtype=torch.float64))
    for cell in heads:
        own = head_view(scores[cell.parameter_name], cell)
        squares[cell.layer, cell.head] = squares[cell.layer, cell.head] + _squares(own).mean() / 4
    (chosen,) = best([Part("the heads", 0, torch.stack(list(squares.values())).sqrt())], n)
    taken = {places[int(place)] for place in chosen}
    return block(model, [cell for cell in heads if (cell.layer, cell.head) in taken])


def _squares(scores: Tensor) -> Float[Tensor, "..."]:
    return scores.detach().cpu().double().square()


def _nothing(model: HookedModel) -> dict[str, Tensor]:
    return {name: torch.zeros(w.shape, dtype=torch.bool) for name, w in component_parameters(model).items()}


def _mask(model: HookedModel, chosen: Mapping[str, Tensor]) -> WeightMask:
    indices = {name: one.flatten().nonzero()[:, 0].int() for name, one in chosen.items()}
    return WeightMask(indices, {name: one.numel() for name, one in chosen.items()}).bound(model)


def _check_scores(model: HookedModel, scores: Mapping[str, Tensor], names: Sequence[str]) -> None:
    parameters = component_parameters(model)
    for name in names:
        if name not in scores:
            raise InputError(f"there are no scores of {name}, which are needed")
        if scores[name].shape != parameters[name].shape:
            came, shape = tuple(scores[name].shape), tuple(parameters[name].shape)
            raise InputError(f"scores of {name} must have the weight's shape {shape}, got {came}")
        if not torch.isfinite(scores[name]).all():
            raise InputError(f"scores of {name} contain NaN or infinity, which has no rank; mend the localizer")
