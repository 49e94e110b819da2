"""Which weights move a paragraph's likelihood? Gradients of every weight, pooled per layer and component.

1. A batch shares one forward and one backward pass through its activations.
2. Each paragraph's own gradient of a matrix is one matrix product more; it is pooled at once and let go.
The gradient of the batch mean, which the paper pools, lets paragraphs cancel each other; both are here.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from memhooks.localize.objectives import (
    CHANGE_WEIGHT,
    FrozenKL,
    Objective,
    continuation_logits,
    continuation_nll,
    evaluated,
    objective_name,
)
from memhooks.localize.pooling import as_grid, grid_axes, pooled_heads, pooled_variables
from memhooks.model.checks import check_batch_size
from memhooks.model.components import component_parameters, trainable
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.replay.backward import Matrix, trace
from memhooks.model.watched import has_hooks, refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

BATCH = 8
"""Paragraphs whose passes are shared; their activations and gradients are held at once."""


def weight_gradients(
    model: HookedModel, paragraphs: Paragraphs, *, objective: Objective = continuation_nll, batch_size: int = BATCH
) -> dict[str, Tensor]:
    """Gradient of the objective's mean over all paragraphs, by parameter name; `.grad` stays untouched.

    Hooks on the model have their say: with them, the gradient goes through the model's own pass.

    Raises:
        InputError: paragraphs the model cannot read, a batch size below one, or an objective that is not one number
            for each paragraph.
    """
    if has_hooks(model):
        return _by_passes(model, paragraphs, objective, batch_size)
    return _summed(
        model, paragraphs, objective, batch_size, lambda one: one.rows.flatten(0, 1).T @ one.columns.flatten(0, 1)
    )


def contrastive_gradients(
    model: HookedModel, change: Paragraphs, keep: Paragraphs, frozen: HookedModel, *, edit: bool = False
) -> dict[str, Tensor]:
    """Gradient of the published objective (`objectives.contrastive`), by parameter name.

    Where `model` still is the `frozen` one, this is `CHANGE_WEIGHT` times the gradient of the NLL and `keep` adds
    nothing: what is published as contrastive localization does not contrast.

    Raises:
        InputError: as `weight_gradients`.
    """
    weight = CHANGE_WEIGHT if edit else -CHANGE_WEIGHT
    kept = weight_gradients(model, keep, objective=FrozenKL(frozen))
    changed = weight_gradients(model, change)
    return {name: weight * one + keep.n_continuation * kept[name] for name, one in changed.items()}


def mean_over_paragraphs(
    model: HookedModel,
    paragraphs: Paragraphs,
    of: Callable[[Tensor], Tensor],
    *,
    objective: Objective = continuation_nll,
    batch_size: int = BATCH,
) -> dict[str, Tensor]:
    """Mean over paragraphs of a function of each one's own gradient, such as `torch.abs` or `torch.square`.

    The mean of squares is the diagonal of the empirical Fisher information. The function is given a matrix and
    returns one, or several stacked along a new first axis.

    Raises:
        InputError: as `weight_gradients`, or hooks on the model.
    """

    def each(one: Matrix) -> Tensor:
        total = of(one.rows[0].T @ one.columns[0])
        for rows, columns in zip(one.rows[1:], one.columns[1:], strict=True):
            total += of(rows.T @ columns)
        return total

    return _summed(model, paragraphs, objective, batch_size, each)


def weight_scores(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    objective: Objective = continuation_nll,
    times_weight: bool = False,
    batch_size: int = BATCH,
) -> xr.Dataset:
    """Pooled |gradient| of every component, for each paragraph on its own.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: each with its own gradient.
        objective: what the gradient is of: a function of the logits that predict the continuation (see `Objective`).
        times_weight: pool |gradient x weight| instead: to first order, what setting the weight to zero changes.
        batch_size: paragraphs that share their passes.

    Returns:
        Dataset over `paragraph`, `layer` and `component`: the variables of `POOLED` (objective's unit per unit of
        weight, 0 = no influence); over `paragraph`: `loss` (the objective, nats). `layer_shares` makes a
        profile of them.

    Raises:
        InputError: as `weight_gradients`, or hooks on the model.

    Example:
        >>> import memhooks
        >>> model = memhooks.load_model("organism")
        >>> rows = memhooks.load_planted("A", at_least=128).select(slice(0, 2))
        >>> scores = memhooks.weight_scores(model, rows)
        >>> dict(scores.sizes)
        {'paragraph': 2, 'layer': 8, 'component': 34}
        >>> scores["component"].values[[0, 8, 16, 24, 32, 33]].tolist()
        ['W_Q 0', 'W_K 0', 'W_V 0', 'W_O 0', 'W_in', 'W_out']
    """
    weights = component_parameters(model) if times_weight else {}
    losses, found = [], []
    for batch in _passes(model, paragraphs, objective, batch_size):
        pooled: dict[str, list[Tensor]] = {}
        for one in batch.matrices:
            pooled[one.name] = [
                pooled_heads(_own_gradient(model, one, rows, columns, weights))
                for rows, columns in zip(one.rows, one.columns, strict=True)
            ]
        found.append(torch.stack([as_grid(model, pooled, row) for row in range(len(batch.losses))]))
        losses.append(batch.losses)
    about = provenance(model, paragraphs.tokens) | {
        "objective": objective_name(objective),
        "times_weight": int(times_weight),
    }
    axes = {"paragraph": paragraphs.ids} | grid_axes(model)
    variables = pooled_variables(model, torch.cat(found), axes)
    return labelled(
        about,
        **variables,
        loss=Variable(torch.cat(losses), ("paragraph",), "the objective, nats per token"),
    )


class _Batch(NamedTuple):
    losses: Float[Tensor, " paragraph"]
    matrices: Iterator[Matrix]


def _passes(model: HookedModel, paragraphs: Paragraphs, objective: Objective, batch_size: int) -> Iterator[_Batch]:
    refuse_hooks(model)
    for some in _batches(model, paragraphs, batch_size):
        with torch.inference_mode(mode=False), torch.enable_grad():
            traced = trace(model, some.tokens, first=some.n_prefix)
            losses = evaluated(objective, traced.logits, some)
            pulled = traced.matrices(losses)
        del traced  # or it would be held while the next batch is run
        yield _Batch(losses.detach().cpu(), iter(pulled))
        del losses, pulled


def _by_passes(model: HookedModel, paragraphs: Paragraphs, objective: Objective, batch_size: int) -> dict[str, Tensor]:
    """The same by whole passes of the model, in which hooks of others take part."""
    with trainable(model) as parameters:
        total = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
        for some in _batches(model, paragraphs, batch_size):
            with torch.inference_mode(mode=False), torch.enable_grad():
                mean = evaluated(objective, continuation_logits(model, some), some).sum() / len(paragraphs)
                found = torch.autograd.grad(mean, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:  # a hook may have cut the weight off
                    total[name] += gradient
    return total


def _batches(model: HookedModel, paragraphs: Paragraphs, batch_size: int) -> Iterator[Paragraphs]:
    check_batch_size(batch_size)
    paragraphs.check(model)
    for begin in tracked(range(0, len(paragraphs), batch_size), "gradients"):
        yield paragraphs.select(slice(begin, begin + batch_size))


def _summed(
    model: HookedModel,
    paragraphs: Paragraphs,
    objective: Objective,
    batch_size: int,
    of: Callable[[Matrix], Tensor],
) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for batch in _passes(model, paragraphs, objective, batch_size):
        for one in batch.matrices:
            found = of(one).div_(len(paragraphs))
            total[one.name] = total[one.name].add_(found) if one.name in total else found
    return {name: _as_parameter(model, name, total[name]) for name in component_parameters(model)}


def _as_parameter(model: HookedModel, name: str, gradient: Float[Tensor, "*stack rows columns"]) -> Tensor:
    """The gradient in its parameter's own layout."""
    if ".mlp." in name:
        return gradient
    if name.endswith("W_O"):
        return rearrange(gradient, "... (head d_head) d_model -> ... head d_head d_model", head=model.cfg.n_heads)
    return rearrange(
        gradient, "... (head d_head) d_model -> ... head d_model d_head", head=model.cfg.n_heads
    ).contiguous()


def _own_gradient(
    model: HookedModel, one: Matrix, rows: Tensor, columns: Tensor, weights: Mapping[str, Tensor]
) -> Float[Tensor, "head entry"]:
    gradient = rows.T @ columns
    if one.name in weights:
        gradient = _as_parameter(model, one.name, gradient) * weights[one.name].detach()
    return gradient.reshape(1 if ".mlp." in one.name else model.cfg.n_heads, -1)
