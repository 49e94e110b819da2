"""Any function at any hook point, any metric: one pass per edit, begun at the lowest layer that has a hook.

The way for what `patch` and `ablate_each` do not know. Those replay many cells at once and are several times
faster; here nothing is assumed about an edit but the layer of its hooks.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.checks import Rows, check_batch_size, check_tokens, tokens_of
from memhooks.model.hook_names import Places, find_hooks, layer_of
from memhooks.model.hooks import hooked
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.watched import Hook, has_hooks
from memhooks.progress import tracked

Edit = Sequence[tuple[Places, Hook]]
Metric = Callable[[Tensor], Tensor]
"""From the logits of all rows, [row pos d_vocab], to one number per row."""


@torch.no_grad()
def hook_sweep(
    model: HookedModel,
    rows: Rows,
    edits: Mapping[str, Edit],
    metric: Metric,
    *,
    unit: str = "metric",
    batch_size: int | None = None,
) -> xr.Dataset:
    """The metric without any edit and with each edit alone.

    Args:
        model: a hooked GPT-Neo; hooks that are on it already take part.
        rows: paragraphs, or rows of tokens.
        edits: by name, (hook points, function) pairs as for `hooked`.
        metric: is given the logits of all rows at once, in their order.
        unit: of the metric, for the result.
        batch_size: rows per pass, by default all; functions that index rows need all.

    Returns:
        Dataset over `paragraph` and `row` (the edit): `metric` and `change` (edited minus unedited); over
        `paragraph`: `unedited`.

    Raises:
        InputError: no edits, rows the model cannot read, a metric that does not give one number per row; or as
            `hooked`.
    """
    _check_edits(edits)
    check_batch_size(batch_size)
    tokens = tokens_of(rows)
    check_tokens(model, tokens)
    start = {name: _first_layer(model, edit) for name, edit in edits.items()}
    sizes = batch_size or len(tokens)
    unedited = _checked(metric(_logits(model, list(tokens.split(sizes)), 0)), tokens)
    found = dict.fromkeys(edits, unedited)
    for layer in sorted(set(start.values())):
        entering = [_entering(model, some, layer) for some in tokens.split(sizes)]
        for name in tracked([name for name in edits if start[name] == layer], "sweeping"):
            with hooked(model, edits[name]):
                found[name] = _checked(metric(_logits(model, entering, layer)), tokens)
    values = torch.stack(list(found.values()), dim=1)
    ids = getattr(rows, "ids", None) or range(len(tokens))
    labels = {"paragraph": list(ids), "row": list(edits)}
    return labelled(
        provenance(model, tokens),
        metric=Variable(values, ("paragraph", "row"), unit, labels),
        change=Variable(values - unedited[:, None], ("paragraph", "row"), f"{unit}, edited minus unedited"),
        unedited=Variable(unedited, ("paragraph",), unit),
    )


def _check_edits(edits: object) -> None:
    shape = 'pass {"name": [(("z", 0), function), ...]}, lists of (hook points, function) pairs'
    if not isinstance(edits, Mapping) or not edits:
        raise InputError(f"no edits given, or not by name; {shape}")
    for name, edit in edits.items():
        if not isinstance(edit, Sequence) or not all(isinstance(one, tuple) and len(one) == 2 for one in edit):
            raise InputError(f"edit {name!r} is no list of pairs; {shape}")


def _first_layer(model: HookedModel, edit: Edit) -> int:
    """The lowest block with a hook; from 0 if the embeddings have one, or if others have hooks on the model."""
    names = [name for places, _ in edit for name in find_hooks(model, places)]
    layers = [layer_of(name) for name in names]
    if has_hooks(model) or any(name.startswith(("hook_", "embed", "pos_embed")) for name in names):
        return 0
    return min((layer for layer in layers if layer is not None), default=model.cfg.n_layers - 1)


def _entering(model: HookedModel, tokens: Int[Tensor, "row pos"], layer: int) -> Tensor:
    """What the layer reads: the tokens themselves for layer 0."""
    return tokens if layer == 0 else model(tokens.to(model.cfg.device), stop_at_layer=layer)


def _logits(model: HookedModel, entering: list[Tensor], layer: int) -> Float[Tensor, "row pos d_vocab"]:
    start = None if layer == 0 else layer
    # A copy, because a hook may edit in place what the next edit starts from.
    return torch.cat([model(some.to(model.cfg.device).clone(), start_at_layer=start).cpu() for some in entering])


def _checked(values: object, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, " row"]:
    if not isinstance(values, Tensor) or tuple(values.shape) != (len(tokens),):
        came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(f"the metric must give one number for each of {len(tokens)} rows, got {came}")
    return values.detach().float() if not values.is_floating_point() else values.detach().cpu()
