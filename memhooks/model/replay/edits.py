"""From a change of tokens or activations to what the next layer sees of it.

An edit of the stream, of what attention or the MLP writes, or of one head's output touches
only its own positions until the next layer reads them. So it is carried through the rest of
its layer here, at those positions alone, and replayed from the layer above.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.model.replay.clean_run import CleanRun
from memhooks.model.replay.clean_run import activation as clean_activation
from memhooks.model.replay.replay import Edits

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]


def token_edits(
    run: CleanRun, paragraph: Int[Tensor, " row"], position: Int[Tensor, " row"], token: Int[Tensor, " row"]
) -> Edits:
    """Row r reads another token at one position of its paragraph."""
    stream = F.embedding(token, run.weights.embed) + run.weights.positions[position]
    return Edits(0, paragraph, position, stream[:, None])


@torch.no_grad()
def site_edits(
    run: CleanRun,
    site: Site,
    layer: int,
    paragraph: Int[Tensor, " row"],
    position: Int[Tensor, " row"],
    activation: Float[Tensor, "row span d_model"],
) -> Edits:
    """Row r has another activation at a site of one layer, at the positions from `position` on."""
    if site == "resid_pre":
        return Edits(layer, paragraph, position, activation)
    own = run.layers[layer]
    at = paragraph[:, None], position[:, None] + torch.arange(activation.shape[1])
    match site:
        case "resid_mid":
            post = _through_mlp(run, layer, activation)
        case "attn_out":
            post = _through_mlp(run, layer, own.pre[at] + activation)
        case "mlp_out":
            post = own.mid[at] + activation
        case "resid_post":
            post = activation
    return _leaving(run, layer, at, post, same=activation == clean_activation(run, site, layer)[at])


@torch.no_grad()
def head_edits(
    run: CleanRun,
    layer: int,
    head: Int[Tensor, " row"],
    paragraph: Int[Tensor, " row"],
    position: Int[Tensor, " row"],
    z: Float[Tensor, "row span d_head"],
) -> Edits:
    """Row r has another output z of one head, at the positions from `position` on."""
    weights, d_head = run.weights.layers[layer], z.shape[-1]
    at = paragraph[:, None], position[:, None] + torch.arange(z.shape[1])
    heads = run.layers[layer].z[at].unflatten(-1, (-1, d_head))  # [row span head d_head]
    change = z - heads[torch.arange(len(head)), :, head]
    out = weights.out.unflatten(1, (-1, d_head))[:, head]  # [d_model row d_head]
    mid = run.layers[layer].mid[at] + torch.einsum("rsd,mrd->rsm", change, out)
    return _leaving(run, layer, at, _through_mlp(run, layer, mid), same=change == 0)


def _leaving(
    run: CleanRun, layer: int, at: tuple[Tensor, Tensor], post: Float[Tensor, "row span d_model"], *, same: Tensor
) -> Edits:
    """Edits of the stream that leaves a layer; where nothing was edited it is the clean one, bit for bit."""
    untouched = same.flatten(2).all(-1, keepdim=True)
    return Edits(layer + 1, at[0][:, 0], at[1][:, 0], torch.where(untouched, run.layers[layer].post[at], post))


def _through_mlp(run: CleanRun, layer: int, mid: Float[Tensor, "row span d_model"]) -> Tensor:
    return mid + run.weights.layers[layer].mlp(mid)
