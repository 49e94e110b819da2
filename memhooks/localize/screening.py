"""Attribution patching: the first-order guess of every cell from one backward pass, then the best by replay.

The change of a cell is about gradient times difference of activations, taken in the run that is
patched (Nanda, 2023; Syed et al., 2023, arXiv:2310.10348). It is a screen, not a result: it fails where
softmax or GELU saturate, so `screen_then_verify` replays what it names and says what it missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.patch_grid import At, Cell, hook_name, positions, rectangle
from memhooks.localize.patching import Direction, Source, check_source, patch_cells, prefixed
from memhooks.model.checks import check_batch_size, check_tokens
from memhooks.model.hooks import recorded
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.replay.clean_run import Site
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked


def screen(
    model: HookedModel,
    paragraphs: Paragraphs,
    source: Source,
    *,
    sites: Sequence[Site] = ("z",),
    at: At = None,
    direction: Direction = "denoising",
    batch_size: int = 8,
) -> xr.Dataset:
    """First-order guess of `nll_change` of `patch`, all cells at once; arguments and axes as there.

    Raises:
        InputError: as `patch`, or a source without tokens.
    """
    check_source(source, direction)
    if not isinstance(source, Tensor | Paragraphs):
        raise InputError("a screen compares two runs: give rows of tokens or Paragraphs as source")
    check_batch_size(batch_size)
    where = positions(paragraphs, at)
    places = rectangle(model, sites, where)
    paragraphs.check(model)
    refuse_hooks(model)
    other = prefixed(paragraphs, source)
    check_tokens(model, other)
    base, put = (other, paragraphs.tokens) if direction == "denoising" else (paragraphs.tokens, other)
    own_place = isinstance(where, Tensor)
    per_row = where[:, None] if own_place else torch.tensor(where).expand(len(paragraphs), -1)
    guesses = []
    parts = zip(base.split(batch_size), put.split(batch_size), per_row.split(batch_size), strict=True)
    for own, theirs, position in tracked(list(parts), "screening"):
        guesses.append(_guess(model, own, theirs, position, sites, paragraphs.n_prefix))
    labels = {"paragraph": paragraphs.ids} | places
    guess = torch.cat(guesses)  # [paragraph site layer (head) position]
    unit = "nats per continuation token, first-order guess of patched minus unpatched; 0 = no effect"
    value = Variable(guess[..., 0] if own_place else guess, tuple(labels), unit, labels)
    about = provenance(model, paragraphs.tokens) | {"direction": direction}
    return labelled(about, nll_change=value)


@dataclass(frozen=True)
class Verified:
    """What a screen named and replay confirmed.

    Attributes:
        cells: the k cells of the largest mean guess, best first.
        guess: of the whole screen.
        replayed: those cells by `patch_cells`.
        recall: share of the k truly largest cells among them, where an exhaustive sweep was given; else None.
    """

    cells: list[Cell]
    guess: xr.Dataset
    replayed: xr.Dataset
    recall: float | None


def screen_then_verify(
    model: HookedModel,
    paragraphs: Paragraphs,
    source: Source,
    *,
    k: int,
    sites: Sequence[Site] = ("z",),
    direction: Direction = "denoising",
    exhaustive: xr.Dataset | None = None,
) -> Verified:
    """Screen all cells of the prefix, replay the k of the largest mean absolute guess.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: whose continuation is scored.
        source: rows with other prefixes.
        k: how many cells to replay.
        sites: as in `patch`.
        direction: as in `patch`.
        exhaustive: `patch` of the same cells, to say what the screen missed.

    Raises:
        InputError: k below one or above the number of cells, a sweep over other cells, or as `patch`.
    """
    guess = screen(model, paragraphs, source, sites=sites, direction=direction)
    mean = abs(guess["nll_change"].mean("paragraph"))
    if not 1 <= k <= mean.size:
        raise InputError(f"k must lie in 1..{mean.size}, the number of cells, got {k}")
    if exhaustive is not None:
        _check_same(guess, exhaustive)
    best = largest(mean, k)
    cells = [_cell(mean, place) for place in best]
    replayed = patch_cells(model, paragraphs, source, cells, direction=direction)
    recall = None
    if exhaustive is not None:
        true = largest(abs(exhaustive["nll_change"].mean("paragraph")), k)
        recall = len(set(best) & set(true)) / k
    return Verified(cells, guess, replayed, recall)


def _check_same(guess: xr.Dataset, exhaustive: xr.Dataset) -> None:
    """Refuse a sweep of other cells, paragraphs, weights or direction, of which recall would mean nothing.

    Raises:
        InputError: as said.
    """
    one, other = guess["nll_change"], exhaustive["nll_change"]
    if one.dims != other.dims or any(one[axis].values.tolist() != other[axis].values.tolist() for axis in one.dims):
        raise InputError(
            f"exhaustive must be the patch of the same cells, {dict(one.sizes)}, got {dict(other.sizes)} or other names"
        )
    for key in ("direction", "tokens_hash", "model_hash"):
        if guess.attrs[key] != exhaustive.attrs[key]:
            raise InputError(f"exhaustive must have the same {key}, {guess.attrs[key]}, got {exhaustive.attrs[key]}")


def largest(values: xr.DataArray, k: int) -> list[int]:
    """Flat places of the k largest, best first."""
    return (-values.values).argsort(axis=None, kind="stable")[:k].tolist()


def _cell(mean: xr.DataArray, place: int) -> Cell:
    index = dict(zip(mean.dims, torch.unravel_index(torch.tensor(place), mean.shape), strict=True))
    label = {name: mean[name].values[int(number)] for name, number in index.items()}
    head = int(label["head"]) if "head" in label else None
    return Cell(str(label["site"]), int(label["layer"]), int(label["pos"]), head)  # pyright: ignore[reportArgumentType]


def _guess(
    model: HookedModel,
    own: Int[Tensor, "paragraph pos"],
    theirs: Int[Tensor, "paragraph pos"],
    position: Int[Tensor, "paragraph place"],
    sites: Sequence[Site],
    first: int,
) -> Float[Tensor, "paragraph site layer ..."]:
    """Gradient times difference, summed over what a cell holds."""
    names = {site: [hook_name(site, layer) for layer in range(model.cfg.n_layers)] for site in sites}
    every = [name for listed in names.values() for name in listed]
    with torch.no_grad(), recorded(model, every) as there:
        model(theirs.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    with torch.enable_grad(), recorded(model, every, gradients=True) as here:
        gradients = here.gradients(_summed_nll(model, own.to(model.cfg.device), first))
    row = torch.arange(len(own))[:, None]
    found = []
    for site, listed in names.items():
        layers = []
        for name in listed:
            product = gradients[name] * (there[name] - here[name]).detach()
            by_position = product.sum(-1).transpose(1, 2) if site == "pattern" else product.sum(-1)
            layers.append(by_position[row, position].movedim(1, -1))  # [paragraph (head) place]
        found.append(torch.stack(layers, 1))
    return torch.stack(found, 1).cpu()


def _summed_nll(model: HookedModel, tokens: Int[Tensor, "paragraph pos"], first: int) -> Float[Tensor, ""]:
    """Sum over paragraphs of the mean NLL of the continuation, so that each row has its own gradient."""
    logs = model(tokens)[:, first - 1 : -1].log_softmax(-1)
    return -logs.gather(-1, tokens[:, first:, None])[..., 0].mean(-1).sum()
