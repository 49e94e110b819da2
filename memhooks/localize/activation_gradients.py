"""Which activations move a paragraph's likelihood? Their gradients by layer, head and position.

One forward and one backward pass give the gradient at every site. A cell's vector is pooled to its largest and
its root mean square |entry|; `directions` keeps the vectors themselves, for cosines.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.objectives import Objective, continuation_nll, evaluated, objective_name
from memhooks.localize.patch_grid import At, own_position, positions, rectangle
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.replay.backward import Place, trace
from memhooks.model.replay.clean_run import Site
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

TRACED: tuple[Site, ...] = tuple(site for site in get_args(Site) if site != "pattern")


def activation_gradients(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    sites: Sequence[Site] = ("q", "k", "v"),
    objective: Objective = continuation_nll,
    at: At = None,
    batch_size: int = 8,
) -> xr.Dataset:
    """Pooled |gradient| with respect to the activations, for each paragraph on its own.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: each with its own gradient.
        sites: either some of q, k, v, z, which go head by head, or some of resid_pre, resid_mid, resid_post,
            attn_out, mlp_out, mlp_pre, mlp_post.
        objective: what the gradient is of: by default the mean NLL of the continuation; `TokenNLL` for impact tokens.
        at: positions, by default all of the prefix; or a tensor with one position for each paragraph, such as the
            perturbed tokens of pairs. What predicts a token stands one position before it: at the token itself (and
            after it) the gradient of its surprise is 0.
        batch_size: paragraphs that share their passes.

    Returns:
        Dataset over `paragraph`, `site`, `layer` (, `head`) (, `pos`): `max_gradient` (as in the paper) and
        `rms_gradient` over the cell's entries (nats per unit of activation, 0 = no influence: so all
        positions after the last scored one); over `paragraph`: `loss`, and `position` where it differs.

    Raises:
        InputError: other sites or sites of both kinds, positions outside the paragraph, paragraphs the model cannot
            read, hooks on the model, or a batch size below one.
    """
    where, places = _check(model, paragraphs, sites, at, batch_size)
    largest, mean, losses = [], [], []
    for batch in _batches(model, paragraphs, sites, where, objective, batch_size, backward=True):
        largest.append(torch.stack([one.abs().amax(-1) for one in batch.vectors], dim=1))
        mean.append(torch.stack([one.pow(2).mean(-1).sqrt() for one in batch.vectors], dim=1))
        losses.append(batch.losses)
    labels = {"paragraph": paragraphs.ids} | places
    unit = "nats per token and unit of activation, 0 = no influence"
    return labelled(
        provenance(model, paragraphs.tokens) | {"objective": objective_name(objective)},
        max_gradient=Variable(torch.cat(largest), tuple(labels), f"largest |gradient| of the cell, {unit}", labels),
        rms_gradient=Variable(torch.cat(mean), tuple(labels), f"root mean square gradient of the cell, {unit}"),
        loss=Variable(torch.cat(losses), ("paragraph",), "the objective, nats per token"),
        **own_position(where),
    )


def directions(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    sites: Sequence[Site] = ("q", "k", "v"),
    objective: Objective = continuation_nll,
    at: At = None,
    backward: bool = True,
    batch_size: int = 8,
) -> xr.Dataset:
    """The vectors themselves: gradients, or the activations if not `backward`; arguments and errors as above.

    Returns:
        Dataset over `paragraph`, `site`, `layer` (, `head`) (, `pos`) and the site's own axis: `vector`. One
        kind of site at a time: all of them must be as wide.

    Raises:
        InputError: as `activation_gradients`, or sites of different width.
    """
    where, places = _check(model, paragraphs, sites, at, batch_size)
    widths = {
        site: "d_mlp" if site.startswith("mlp_p") else "d_head" if "head" in places else "d_model" for site in sites
    }
    if len(set(widths.values())) > 1:
        raise InputError(f"vectors of {', '.join(f'{site} ({axis})' for site, axis in widths.items())} differ in width")
    found = [
        torch.stack(batch.vectors, dim=1)
        for batch in _batches(model, paragraphs, sites, where, objective, batch_size, backward=backward)
    ]
    labels = {"paragraph": paragraphs.ids} | places
    unit = "gradient, nats per token and unit of activation" if backward else "activation"
    vector = Variable(torch.cat(found), (*labels, next(iter(widths.values()))), unit, labels)
    about = provenance(model, paragraphs.tokens) | {"objective": objective_name(objective), "backward": int(backward)}
    return labelled(about, vector=vector, **own_position(where))


class _Batch(NamedTuple):
    vectors: list[Tensor]
    """For each site `[paragraph layer (head) (place) entry]`."""
    losses: Float[Tensor, " paragraph"]


def _check(
    model: HookedModel, paragraphs: Paragraphs, sites: Sequence[Site], at: At, batch_size: int
) -> tuple[Tensor | list[int], dict[str, Sequence]]:
    for site in sites:
        if site not in TRACED:
            raise InputError(f"gradients are taken at {', '.join(TRACED)}, got {site!r}")
    check_batch_size(batch_size)
    where = positions(paragraphs, at)
    places = rectangle(model, sites, where)
    paragraphs.check(model)
    refuse_hooks(model)
    return where, places


def _batches(
    model: HookedModel,
    paragraphs: Paragraphs,
    sites: Sequence[Site],
    where: Tensor | list[int],
    objective: Objective,
    batch_size: int,
    *,
    backward: bool,
) -> Iterator[_Batch]:
    layers = range(model.cfg.n_layers)
    wanted: list[Place] = [(site, layer) for site in sites for layer in layers]
    for begin in tracked(range(0, len(paragraphs), batch_size), "activation gradients" if backward else "activations"):
        rows = slice(begin, min(begin + batch_size, len(paragraphs)))
        some = paragraphs.select(rows)
        with torch.inference_mode(mode=False), torch.set_grad_enabled(backward):
            traced = trace(model, some.tokens, first=some.n_prefix)
            losses = evaluated(objective, traced.logits, some)
            found = traced.gradients(losses, wanted) if backward else traced.activations
        vectors = [torch.stack([_at(found[site, layer], where, rows) for layer in layers], dim=1) for site in sites]
        del traced, found  # or they would be held while the next batch is run
        yield _Batch([_single(one) for one in vectors], losses.detach().cpu())


def _single(values: Tensor) -> Tensor:
    """In main memory, half precision as single: the square of a small gradient would be 0."""
    values = values.detach().cpu()
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _at(values: Tensor, where: Tensor | list[int], rows: slice) -> Tensor:
    """`[paragraph pos (head) entry]` at the wanted positions: `[paragraph (head) (place) entry]`."""
    if isinstance(where, Tensor):
        return values[torch.arange(len(values)), where[rows].to(values.device)]
    return values[:, where].movedim(1, -2)
