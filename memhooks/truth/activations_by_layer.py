"""Residual stream or hidden units of one layer after the other, in little memory.

1. The rows are run through one block, batch by batch; what enters the next block is kept.
2. The next block starts from there: all layers cost one pass, and no more than one layer is in memory.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.hooks import recorded
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

Site = Literal["resid_post", "post"]
"""The residual stream after a block, or the hidden units of its MLP."""
Unit = tuple[int, int]
"""Layer and unit."""

SITES: tuple[Site, ...] = get_args(Site)
HOOKS: dict[str, str] = {"resid_post": "blocks.{}.hook_resid_post", "post": "blocks.{}.mlp.hook_post"}


@torch.no_grad()
def by_layer(
    model: HookedModel, rows: Paragraphs, site: Site, *, batch_size: int = 32
) -> Iterator[Float[Tensor, "paragraph pos unit"]]:
    """Each layer's activations in turn, in float32 on the CPU. Whoever keeps them all keeps the memory, too."""
    entering = list(rows.tokens.split(batch_size))
    for layer in tracked(range(model.cfg.n_layers), "activations"):
        name, found = HOOKS[site].format(layer), []
        for number, batch in enumerate(entering):
            start = {"start_at_layer": layer} if layer else {}
            with recorded(model, [name]) as store:
                left = model(batch.to(model.cfg.device), stop_at_layer=layer + 1, **start)
            entering[number] = left.cpu()
            found.append(store[name].float().cpu())
        yield torch.cat(found)


def means_and_spreads(
    model: HookedModel, rows: Paragraphs, site: Site, *, batch_size: int = 32
) -> tuple[list[Float[Tensor, " unit"]], list[Float[Tensor, " unit"]]]:
    """Every unit's mean and standard deviation over rows and positions, by layer."""
    means, spreads = [], []
    for values in by_layer(model, rows, site, batch_size=batch_size):
        flat = values.flatten(0, 1).double()
        means.append(flat.mean(0).float())
        spreads.append(flat.std(0, correction=0).float())
    return means, spreads


def check_site(site: str) -> None:
    """Refuse what is no site.

    Raises:
        InputError: as said.
    """
    if site not in SITES:
        raise InputError(f"site must be one of {', '.join(SITES)}, got {site!r}")


def width_of(model: HookedModel, site: str) -> int:
    """How many units a layer has there."""
    return model.cfg.d_model if site == "resid_post" else int(model.cfg.d_mlp or 0)
