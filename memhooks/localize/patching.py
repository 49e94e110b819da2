"""Which activations carry the information from the prefix? One run's activations are copied into another run.

1. Two runs of the same continuation: after the paragraph's own prefix and after another one
   (one token replaced, a control paragraph's prefix).
2. Denoising starts from the other prefix and puts one activation of the paragraph's back: what
   is restored was enough to carry something. Noising starts from the paragraph and puts one
   activation of the other in: what is lost was needed. The two need not agree.
3. Every cell is replayed from its layer and position on.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.patch_grid import (
    At,
    Cell,
    Grid,
    check_cell,
    hook_name,
    listed_grid,
    own_position,
    positions,
    rectangle,
    whole_grid,
)
from memhooks.localize.patch_result import Scores, patch_result
from memhooks.model.checks import check_batch_size
from memhooks.model.loading import HookedModel
from memhooks.model.means import ActivationMeans
from memhooks.model.replay.batches import Batches, batches
from memhooks.model.replay.clean_run import CleanRun, Site, activation, clean_run
from memhooks.model.replay.edits import Cells
from memhooks.model.replay.readers import divergence
from memhooks.model.replay.scoring import Outcome, Reader, joined
from memhooks.model.replay.sweep import Put, from_run, from_values, sweep
from memhooks.model.replay.work import TOGETHER, Work
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

Direction = Literal["denoising", "noising"]
Source = Paragraphs | Tensor | ActivationMeans | Literal["zero"]
Readers = Callable[[CleanRun, CleanRun, slice], dict[str, Reader]]
"""Further readers for one group, given its unpatched run, the run that is put in, and which paragraphs they are."""


def patch(
    model: HookedModel,
    paragraphs: Paragraphs,
    source: Source,
    *,
    sites: Sequence[Site] = ("resid_pre", "attn_out", "mlp_out"),
    at: At = None,
    direction: Direction = "denoising",
    batch_size: int | None = None,
) -> xr.Dataset:
    """Patch every layer (and head) at chosen positions, one cell at a time.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: whose continuation is scored.
        source: the other run: rows with other prefixes (tokens or Paragraphs; their continuations are not used);
            or, for noising alone, `activation_means(...)` or `"zero"`.
        sites: kinds of hook point: either some of resid_pre, resid_mid, resid_post, attn_out, mlp_out, mlp_pre,
            mlp_post, or some of q, k, v, z, pattern (its rows, one per query), which go head by head.
        at: positions that are patched one at a time in every paragraph, by default all of the prefix; or a tensor
            with one position for each paragraph.
        direction: `"denoising"` puts the paragraph's activations into the other run, `"noising"` the reverse.
        batch_size: rows per pass; by default what fits into free memory.

    Returns:
        Dataset over `paragraph`, `site`, `layer` (, `head`) (, `pos`): `nll_change` (patched minus unpatched, nats
        per token), `effect` (its share of the gap between both runs: 1 = all restored, or all lost), `em_change`,
        `kl`; over `paragraph`: `clean_nll`, `other_nll`, `position`.

    Raises:
        InputError: sites of both kinds, positions outside the paragraph, rows of another shape, hooks on the model,
            means that do not fit, or a source without tokens for denoising.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> recited = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> unseen = memhooks.load_controls().select(slice(0, 2))
        >>> found = memhooks.patch(model, recited, unseen, sites=("resid_pre",), at=[48, 49])
        >>> dict(found.sizes)
        {'paragraph': 2, 'site': 1, 'layer': 8, 'pos': 2}
        >>> (found["other_nll"] > found["clean_nll"]).values
        array([ True,  True])
    """
    check_batch_size(batch_size)
    check_source(source, direction)
    where = positions(paragraphs, at)
    places, grid = rectangle(model, sites, where), whole_grid(model, sites, where)
    scores = sweep_cells(model, paragraphs, source, grid, direction=direction, batch_size=batch_size)
    about = {"direction": direction} | scores.about
    return patch_result(model, paragraphs, scores, places, about, **own_position(where))


def patch_cells(
    model: HookedModel,
    paragraphs: Paragraphs,
    source: Source,
    cells: Sequence[Cell],
    *,
    direction: Direction = "denoising",
    batch_size: int | None = None,
) -> xr.Dataset:
    """Patch an explicit list of cells, in every paragraph one at a time; the variables of `patch` over `row`.

    Raises:
        InputError: no cells, a cell that the model does not have, or as `patch`.
    """
    check_batch_size(batch_size)
    check_source(source, direction)
    if not cells:
        raise InputError('no cells to patch; pass [Cell("z", layer, position, head), ...]')
    for cell in cells:
        check_cell(model, paragraphs, cell)
    grid = listed_grid(model, cells)
    scores = sweep_cells(model, paragraphs, source, grid, direction=direction, batch_size=batch_size)
    about = {"direction": direction} | scores.about
    return patch_result(model, paragraphs, scores, {"row": list(map(str, cells))}, about)


def sweep_cells(
    model: HookedModel,
    paragraphs: Paragraphs,
    source: Source,
    grid: Grid,
    *,
    direction: Direction,
    batch_size: int | None,
    readers: Readers = lambda base, source, rows: {},
) -> Scores:
    """Replay every cell of the grid; outcomes are ordered by paragraph, then as the grid.

    Raises:
        InputError: as `patch`.
    """
    paragraphs.check(model)
    refuse_hooks(model)
    other = _other_rows(model, paragraphs, source)
    work, bases, patched, nlls, limit = Work(), [], [], [], None
    starts = range(0, len(paragraphs), TOGETHER)
    for begin in starts:
        rows = slice(begin, min(begin + TOGETHER, len(paragraphs)))
        clean = clean_run(model, paragraphs.tokens[rows], first=paragraphs.n_prefix)
        around = clean if other is None else clean_run(model, other[rows], first=paragraphs.n_prefix)
        base, other_run = (around, clean) if direction == "denoising" else (clean, around)
        put = _putter(source, other_run)
        limit, read = limit or batches(base, batch_size), {"kl": divergence(base)} | readers(base, other_run, rows)
        nlls.append(torch.stack([clean.outcome.nll.mean(-1), around.outcome.nll.mean(-1)]).cpu())
        bases.append(base.outcome.on_cpu())
        named = tracked(grid, f"patching {rows.stop} of {len(paragraphs)}")
        patched.append(_patched(base, put, named, rows, limit, work, read))
    clean_nll, other_nll = torch.cat(nlls, dim=1)
    return Scores(joined(bases), joined(patched), clean_nll, None if other is None else other_nll, work.about())


def _patched(
    base: CleanRun,
    put: Callable[[Site, int], Put],
    grid: Iterable[tuple[Site, int, Callable[[slice], Cells]]],
    rows: slice,
    limit: Batches,
    work: Work,
    readers: dict[str, Reader],
) -> Outcome:
    """All cells of one group, [paragraph, site, layer, ...] flattened."""
    n = rows.stop - rows.start
    found = []
    for site, layer, cells in grid:
        one = sweep(base, (site, layer), cells(rows), put(site, layer), batches=limit, work=work, readers=readers)
        found.append(one.on_cpu())
    # Each outcome is [paragraph, cells of this site and layer]; paragraphs come first in the result.
    order = [torch.arange(len(one.nll)).unflatten(0, (n, -1)) for one in found]
    offsets = torch.tensor([0, *[len(one.nll) for one in found]]).cumsum(0)
    together = torch.cat([one + offset for one, offset in zip(order, offsets[:-1], strict=True)], dim=1)
    return joined(found).select(together.flatten())


def _putter(source: Source, run: CleanRun) -> Callable[[Site, int], Put]:
    if isinstance(source, Tensor | Paragraphs):
        return lambda site, layer: from_run(run, site, layer)
    if isinstance(source, ActivationMeans):
        return lambda site, layer: from_values(
            source.at(hook_name(site, layer), activation(run, site, layer)[:1]), site
        )
    return lambda site, layer: from_values(torch.zeros_like(activation(run, site, layer)[:1]), site)


def check_source(source: object, direction: str) -> None:
    """Refuse a direction that is none, and sources that it cannot use.

    Raises:
        InputError: as said.
    """
    if direction not in get_args(Direction):
        raise InputError(f"direction must be one of {', '.join(get_args(Direction))}, got {direction!r}")
    zero = isinstance(source, str) and source == "zero"
    if not zero and not isinstance(source, Tensor | Paragraphs | ActivationMeans):
        raise InputError(f'source must be rows of tokens, Paragraphs, ActivationMeans or "zero", got {source!r}')
    if direction == "denoising" and (zero or isinstance(source, ActivationMeans)):
        raise InputError('means and "zero" are put into the paragraph\'s own run: pass direction="noising"')


def _other_rows(model: HookedModel, paragraphs: Paragraphs, source: Source) -> Int[Tensor, "paragraph pos"] | None:
    """The other prefixes, each followed by the paragraph's own continuation.

    Raises:
        InputError: rows of another shape, or means of other weights.
    """
    if isinstance(source, ActivationMeans):
        source.check_model(model)
    if not isinstance(source, Tensor | Paragraphs):
        return None
    return prefixed(paragraphs, source)


def prefixed(paragraphs: Paragraphs, source: Paragraphs | Tensor) -> Int[Tensor, "paragraph pos"]:
    """The source's prefixes, each followed by the paragraph's own continuation.

    Raises:
        InputError: rows of another shape.
    """
    tokens = source.tokens if isinstance(source, Paragraphs) else source
    if tuple(tokens.shape) != tuple(paragraphs.tokens.shape):
        raise InputError(
            f"source must have the paragraphs' shape {tuple(paragraphs.tokens.shape)}, got {tuple(tokens.shape)}"
        )
    return torch.cat([tokens[:, : paragraphs.n_prefix], paragraphs.continuation.to(tokens)], dim=1)
