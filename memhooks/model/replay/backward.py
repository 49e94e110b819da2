"""One forward pass that keeps a graph of activations alone, and one backward pass through it.

The gradient of a weight matrix is the product of what the matrix reads and of what pulls on what it
writes, so the weights themselves need no graph: the batch shares both passes, and each paragraph's own
gradient is one matrix product more (Goodfellow, 2015, arXiv:1510.01799).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.model.loading import HookedModel
from memhooks.model.replay.block import attended
from memhooks.model.replay.clean_run import Site
from memhooks.model.replay.layouts import Layer, layouts

Place = tuple[Site, int]
"""A site of a layer."""


class Matrix(NamedTuple):
    """A weight matrix in one pass.

    Its gradient for a paragraph is `rows.T @ columns`; the rows are the side that heads share out.

    Attributes:
        name: the parameter.
        rows: what the matrix reads, or for W_Q, W_K and W_V the gradient of what it writes.
        columns: the other of the two.
    """

    name: str
    rows: Float[Tensor, "paragraph pos rows"]
    columns: Float[Tensor, "paragraph pos columns"]


@dataclass(frozen=True)
class Trace:
    """A forward pass with a graph.

    Attributes:
        activations: by site and layer, heads apart where there are heads.
        linear: the matrices, layer by layer: name, what it reads, what it writes.
        logits: that predict the continuation.
    """

    activations: dict[Place, Tensor]
    linear: list[tuple[str, Tensor, Tensor]]
    logits: Float[Tensor, "paragraph scored d_vocab"]

    def gradients(self, losses: Float[Tensor, " paragraph"], wanted: Sequence[Place]) -> dict[Place, Tensor]:
        """Each paragraph's gradient of its own loss at these sites, `[paragraph pos ...]`; frees the graph."""
        return dict(zip(wanted, _pulls(losses, [self.activations[place] for place in wanted]), strict=True))

    def matrices(self, losses: Float[Tensor, " loss"], *, names: Collection[str] | None = None) -> list[Matrix]:
        """The matrices of the grid, layer by layer, all or those of these parameters; frees the graph.

        The backward pass ends at the lowest one that is asked for.
        """
        wanted = [one for one in self.linear if names is None or not set(_parameters(one[0])).isdisjoint(names)]
        pulls = _pulls(losses, [written for _, _, written in wanted])
        found = []
        for (name, read, _), pull in zip(wanted, pulls, strict=True):
            own = [pull] if len(_parameters(name)) == 1 else pull.chunk(3, dim=-1)
            for parameter, each in zip(_parameters(name), own, strict=True):
                if name.endswith("qkv"):
                    found.append(Matrix(parameter, each, read.detach()))
                else:
                    found.append(Matrix(parameter, read.detach(), each))
        return found


def trace(model: HookedModel, tokens: Int[Tensor, "paragraph pos"], *, first: int) -> Trace:
    """Run the model on paragraphs whose tokens from index `first` on are scored; needs grad mode on."""
    weights = layouts(model)
    tokens = tokens.to(weights.embed.device)
    x = F.embedding(tokens, weights.embed) + weights.positions[: tokens.shape[1]]
    x.requires_grad_()
    activations: dict[Place, Tensor] = {}
    linear: list[tuple[str, Tensor, Tensor]] = []
    for number, layer in enumerate(weights.layers):
        x, sites, matrices = _block(layer, x)
        activations |= {(site, number): value for site, value in sites.items()}
        linear += [(f"blocks.{number}.{name}", read, written) for name, read, written in matrices]
    logits = F.linear(weights.norm(x[:, first - 1 : -1]), weights.unembed, weights.unembed_bias)
    return Trace(activations, linear, logits)


def _block(layer: Layer, x: Tensor) -> tuple[Tensor, dict[Site, Tensor], list[tuple[str, Tensor, Tensor]]]:
    normed = layer.norm1(x)
    qkv = F.linear(normed, layer.qkv, layer.qkv_bias)
    split = rearrange(qkv, "row pos (three head d_head) -> three row pos head d_head", three=3, head=layer.n_heads)
    q, k, v = split.unbind()
    z = attended(layer, *(one.transpose(1, 2) for one in (q, k, v)), start=0, low=0)
    by_head = rearrange(z, "row pos (head d_head) -> row pos head d_head", head=layer.n_heads)
    z = by_head.flatten(-2)
    attn_out = F.linear(z, layer.out, layer.out_bias)
    mid = x + attn_out
    middle = layer.norm2(mid)
    hidden = F.linear(middle, layer.mlp_in, layer.mlp_in_bias)
    active = layer.mlp_active(hidden)
    mlp_out = layer.mlp_written(active)
    post = mid + mlp_out
    sites: dict[Site, Tensor] = {
        "resid_pre": x,
        "q": q,
        "k": k,
        "v": v,
        "z": by_head,
        "attn_out": attn_out,
        "resid_mid": mid,
        "mlp_pre": hidden,
        "mlp_post": active,
        "mlp_out": mlp_out,
        "resid_post": post,
    }
    matrices = [
        ("attn.qkv", normed, qkv),
        ("attn.W_O", z, attn_out),
        ("mlp.W_in", middle, hidden),
        ("mlp.W_out", active, mlp_out),
    ]
    return post, sites, matrices


def _parameters(name: str) -> list[str]:
    """The parameters behind a product; queries, keys and values share one."""
    return [name.replace("qkv", f"W_{letter}") for letter in "QKV"] if name.endswith("qkv") else [name]


def _pulls(losses: Float[Tensor, " paragraph"], at: list[Tensor]) -> list[Tensor]:
    # A paragraph's loss depends on its own activations alone, so the sum's gradient holds each one's own.
    found = torch.autograd.grad(losses, at, torch.ones_like(losses), allow_unused=True)
    return [torch.zeros_like(one) if pull is None else pull for one, pull in zip(at, found, strict=True)]
