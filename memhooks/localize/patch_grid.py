"""Which cells are patched: a rectangle of sites, layers, heads and positions, or an explicit list."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.hook_names import full_name
from memhooks.model.labelled import Variable
from memhooks.model.loading import HookedModel
from memhooks.model.replay.clean_run import Site
from memhooks.model.replay.edits import HEAD_SITES, MLP_SITES, Cells
from memhooks.model.replay.sweep import every
from memhooks.paragraphs.paragraphs import Paragraphs

At = Tensor | Sequence[int] | None
"""One position for each paragraph, positions for all of them, or the whole prefix."""

Grid = Sequence[tuple[Site, int, Callable[[slice], Cells]]]
"""Site, layer, and the cells of a group of paragraphs there, paragraph by paragraph."""


@dataclass(frozen=True)
class Cell:
    """One activation: a site of a layer at a position.

    Attributes:
        site: kind of hook point.
        layer: of the site.
        position: of the query, for pattern.
        head: at q, k, v, z, pattern; None means all heads. At mlp_pre and mlp_post the hidden unit.
        key: at pattern one key; None means the query's whole row.
    """

    site: Site
    layer: int
    position: int
    head: int | None = None
    key: int | None = None

    def __str__(self) -> str:
        unit = self.site in MLP_SITES
        head = "" if self.head is None else f" unit {self.head}" if unit else f"H{self.head}"
        key = "" if self.key is None else f", key {self.key}"
        return f"L{self.layer}{head} {self.site} at {self.position}{key}"


def positions(paragraphs: Paragraphs, at: At | object) -> Tensor | list[int]:
    """One position for each paragraph as a tensor, or those shared by all as a list.

    Raises:
        InputError: positions outside the paragraph, or not one for each.
    """
    if at is not None and not isinstance(at, Tensor | Sequence):
        raise InputError(f"at must be positions such as [3, 7], or one for each paragraph as a tensor; got {at!r}")
    if isinstance(at, Tensor) and (at.is_floating_point() or at.dtype == torch.bool):
        raise InputError(f"positions must be integers, got {at.dtype}")
    where = at if isinstance(at, Tensor) else list(range(paragraphs.n_prefix) if at is None else at)
    if isinstance(where, Tensor) and tuple(where.shape) != (len(paragraphs),):
        raise InputError(f"a tensor at= must give one position for each of {len(paragraphs)} paragraphs")
    last, given = paragraphs.tokens.shape[1] - 1, [int(one) for one in where]
    if not given or min(given) < 0 or max(given) > last:
        raise InputError(f"positions must lie in 0..{last}, got {str(given)[:80]}")
    return where


def rectangle(model: HookedModel, sites: Sequence[str], where: Tensor | list[int]) -> dict[str, Sequence]:
    """Axes of a result with their labels, but the paragraphs'.

    Raises:
        InputError: unknown sites or of both kinds.
    """
    for site in sites:
        if site not in get_args(Site):
            raise InputError(f"sites are {', '.join(get_args(Site))}, got {site!r}")
    heads = [site in HEAD_SITES for site in sites]
    if not sites or any(heads) != all(heads):
        raise InputError(
            f"sites must be either all by head ({', '.join(HEAD_SITES)}) or none; got {', '.join(sites) or 'no sites'}"
        )
    axes: dict[str, Sequence] = {"site": list(sites), "layer": range(model.cfg.n_layers)}
    if all(heads):
        axes["head"] = range(model.cfg.n_heads)
    if not isinstance(where, Tensor):
        axes["pos"] = where
    return axes


def own_position(where: Tensor | list[int]) -> dict[str, Variable]:
    """Where each paragraph was patched, if that differs between them."""
    if not isinstance(where, Tensor):
        return {}
    return {"position": Variable(where, ("paragraph",), "patched token position")}


def whole_grid(model: HookedModel, sites: Sequence[Site], at: Tensor | list[int]) -> Grid:
    """Every site and layer, with all heads where there are any, at these positions."""
    return [
        (site, layer, lambda rows, site=site: _crossed(model, rows, site, at))
        for site in sites
        for layer in range(model.cfg.n_layers)
    ]


def _crossed(model: HookedModel, rows: slice, site: Site, at: Tensor | list[int]) -> Cells:
    """Paragraph by paragraph all heads (where the site has any) at all positions, or at the paragraph's own."""
    n, device = rows.stop - rows.start, model.cfg.device
    n_heads = model.cfg.n_heads if site in HEAD_SITES else 1
    if isinstance(at, Tensor):
        row, head = every(n, n_heads, device=device)
        position = at.to(device)[rows][row]
    else:
        row, head, place = every(n, n_heads, len(at), device=device)
        position = torch.tensor(at, device=device)[place]
    return Cells(row, position, head if site in HEAD_SITES else None)


def listed_grid(model: HookedModel, cells: Sequence[Cell]) -> Grid:
    """These cells, each in every paragraph."""
    return [(cell.site, cell.layer, lambda rows, cell=cell: _listed(model, rows, cell)) for cell in cells]


def _listed(model: HookedModel, rows: slice, cell: Cell) -> Cells:
    row = torch.arange(rows.stop - rows.start, device=model.cfg.device)
    head, key = (None if one is None else torch.full_like(row, one) for one in (cell.head, cell.key))
    return Cells(row, torch.full_like(row, cell.position), head, key)


def hook_name(site: Site, layer: int) -> str:
    """TransformerLens's name of the hook point."""
    return full_name((site.removeprefix("mlp_") if site in MLP_SITES else site, layer))


def check_cell(model: HookedModel, paragraphs: Paragraphs, cell: Cell) -> None:
    """Refuse a cell that the model or the paragraphs do not have.

    Raises:
        InputError: as said.
    """
    if cell.site not in get_args(Site):
        raise InputError(f"sites are {', '.join(get_args(Site))}, got {cell.site!r}")
    limits = {"layer": model.cfg.n_layers, "position": paragraphs.tokens.shape[1], "key": cell.position + 1}
    limits["head"] = model.cfg.n_heads if cell.site in HEAD_SITES else (model.cfg.d_mlp or 0)
    for name, most in limits.items():
        number = getattr(cell, name)
        if number is not None and not 0 <= number < most:
            raise InputError(f"{name} must lie in 0..{most - 1}, got {number} in {cell}")
    if cell.head is not None and cell.site not in HEAD_SITES + MLP_SITES:
        raise InputError(f"a head goes with {', '.join(HEAD_SITES)} (a unit with {', '.join(MLP_SITES)}), got {cell}")
    if cell.key is not None and (cell.site != "pattern" or cell.head is None):
        raise InputError(f"a key goes with pattern and a head, got {cell}")
