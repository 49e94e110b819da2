"""Small sets of weights into which a paragraph can be written."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.localize.masks.blocks import block
from memhooks.localize.masks.groups import n_chosen
from memhooks.localize.masks.random_anywhere import random_weights
from memhooks.localize.masks.weight_mask import WeightMask
from memhooks.model.components import Component, component_parameters, components
from memhooks.model.loading import HookedModel

FRACTION = 0.001
"""Share of the grid's weights that are written; heads are whole, however large."""


@dataclass(frozen=True)
class Region:
    """A kind of place to write to.

    Attributes:
        draw: `function(model, seed) -> mask`.
        lr: step size of Adam that writes within some fifty steps.
        about: in words.
        decoy: another paragraph is first written into other weights of the same kind, and stays: a localizer that
            finds whatever was written, not this text, then finds the decoy as often.
        outsized: standard deviations of its matrix to which every weight is set, with a random sign, before it is
            written; 0 = none. So it stands out by construction.
    """

    draw: Callable[[HookedModel, int], WeightMask]
    lr: float
    about: str
    decoy: bool = False
    outsized: float = 0.0


def anywhere(model: HookedModel, seed: int) -> WeightMask:
    """`FRACTION` of the grid's weights, drawn uniformly."""
    return random_weights(model, fraction=FRACTION, seed=seed)


def some_neurons(model: HookedModel, seed: int) -> WeightMask:
    """The W_in columns and W_out rows of some hidden units of one layer, as near to `FRACTION` as whole units allow."""
    generator = np.random.default_rng(seed)
    layer = int(generator.integers(model.cfg.n_layers))
    parameters = component_parameters(model)
    sizes = {name: weight.numel() for name, weight in parameters.items()}
    names = {cell.matrix: cell.parameter_name for cell in components(model) if cell.layer == layer}
    d_mlp = parameters[names["W_in"]].shape[1]
    n = max(1, round(n_chosen(FRACTION, sum(sizes.values())) / (2 * model.cfg.d_model)))
    units = torch.from_numpy(generator.permutation(d_mlp)[:n])
    chosen = {name: torch.zeros(parameters[name].shape, dtype=torch.bool) for name in names.values()}
    chosen[names["W_in"]][:, units] = True
    chosen[names["W_out"]][units] = True
    indices = {name: own.flatten().nonzero()[:, 0].int() for name, own in chosen.items() if own.any()}
    return WeightMask(indices, sizes).bound(model)


def outsized(model: HookedModel, mask: WeightMask, deviations: float, *, seed: int) -> Float[Tensor, " chosen"]:
    """Values of a mask's weights, so many standard deviations of their matrix with a random sign."""
    generator, parameters = torch.Generator().manual_seed(seed), component_parameters(model)
    sizes = torch.cat([parameters[name].detach().std().cpu().expand(len(own)) for name, own in mask.indices.items()])
    return deviations * sizes * (2 * torch.randint(2, (len(mask),), generator=generator) - 1)


def one_head(model: HookedModel, seed: int) -> WeightMask:
    """All of W_Q, W_K, W_V and W_O of one head."""
    heads = [(cell.layer, cell.head) for cell in components(model) if cell.matrix == "W_Q"]
    layer, head = heads[int(np.random.default_rng(seed).integers(len(heads)))]
    return block(model, [Component(layer, matrix, head) for matrix in ("W_Q", "W_K", "W_V", "W_O")])


REGIONS: dict[str, Region] = {
    "random": Region(anywhere, 0.01, "0.1 % of all weights, drawn uniformly"),
    "neurons": Region(some_neurons, 0.01, "the weights of some hidden units of one layer, 0.1 % of all"),
    "head": Region(one_head, 0.005, "the four matrices of one head"),
    "decoy": Region(anywhere, 0.01, "as random, after another paragraph was written into other weights", decoy=True),
    "easy": Region(anywhere, 0.01, "as random, each weight made an outlier of its matrix beforehand", outsized=20.0),
}
