"""A fork whose difference says nothing: as large in every matrix, its entries in random order.

What breaks under its parts breaks because weights moved, whatever they moved to.
"""

import copy

import torch

from memhooks.model.loading import HookedModel
from memhooks.truth.forks.swapped import check_forks


@torch.no_grad()
def blind_fork(model: HookedModel, other: HookedModel, *, seed: int) -> HookedModel:
    """A copy of `model` moved by the difference to `other`, permuted within each parameter; head by head in attention.

    Embedding and unembedding are moved alike if they are tied in both.

    Raises:
        InputError: they are no forks.
    """
    check_forks(model, other)
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    theirs = dict(other.named_parameters())
    for name, weight in made.named_parameters():
        change = (theirs[name] - weight).cpu()
        # [head, rows, columns] is permuted within each head, all else as one
        flat = change.reshape(change.shape[0] if change.ndim == 3 else 1, -1)
        order = torch.rand(flat.shape, generator=generator).argsort(1)
        weight.add_(flat.gather(1, order).reshape(change.shape).to(weight.device))
    if all(torch.equal(one.W_E, one.W_U.T) for one in (model, other)):
        made.unembed.W_U.copy_(made.embed.W_E.T)
    return made
