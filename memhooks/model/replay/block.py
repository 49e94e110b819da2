"""One block on some positions of some rows, with keys and values of earlier positions already at hand."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.replay.layouts import Layer

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each [row head key d_head]."""


def run_block(
    layer: Layer, x: Float[Tensor, "row pos d_model"], past: KeysValues, *, start: int, low: int, cut: int = 0
) -> tuple[Float[Tensor, "row pos_out d_model"], KeysValues]:
    """What the block makes of the stream at the positions from `start` on.

    Args:
        layer: the block's weights.
        x: the stream that enters it there.
        past: keys and values of the positions `low` to `start`.
        start: position of the first of `x`.
        low: position of the first key.
        cut: this many of the first positions only lend their keys and values; nothing above them is wanted.

    Returns:
        The stream after the block without the first `cut` positions, and all keys and values from `low` on.
    """
    normed = layer.norm1(x)
    width = layer.qkv.shape[0] // 3
    if cut:
        q = F.linear(normed[:, cut:], layer.qkv[:width], layer.qkv_bias[:width])
        kv = F.linear(normed, layer.qkv[width:], layer.qkv_bias[width:])
        k, v = (split_heads(one, layer.n_heads) for one in kv.split(width, dim=-1))
        q = split_heads(q, layer.n_heads)
    else:
        q, k, v = projected(layer, x)
    keys, values = (torch.cat([old, new], dim=2) if start > low else new for old, new in zip(past, (k, v), strict=True))
    z = attended(layer, q, keys, values, start=start + cut, low=low)
    mid = F.linear(z, layer.out, layer.out_bias).add_(x[:, cut:])
    return layer.mlp(mid).add_(mid), (keys, values)


def split_heads(x: Float[Tensor, "row pos head_d_head"], n_heads: int) -> Float[Tensor, "row head pos d_head"]:
    """One matrix for each head."""
    return rearrange(x, "row pos (head d_head) -> row head pos d_head", head=n_heads)


def projected(layer: Layer, x: Float[Tensor, "row pos d_model"]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [row head pos d_head]."""
    qkv = F.linear(layer.norm1(x), layer.qkv, layer.qkv_bias)
    q, k, v = rearrange(qkv, "row pos (three head d_head) -> three row head pos d_head", three=3, head=layer.n_heads)
    return q, k, v


def attended(
    layer: Layer,
    q: Float[Tensor, "row head query d_head"],
    keys: Float[Tensor, "row head key d_head"],
    values: Float[Tensor, "row head key d_head"],
    *,
    start: int,
    low: int,
) -> Float[Tensor, "row query head_d_head"]:
    """What all heads read; queries stand at `start` and on, keys at `low` and on."""
    seen = reachable(layer.window, start, q.shape[2], low, keys.shape[2]).to(q.device)
    z = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, scale=layer.scale)
    return rearrange(z, "row head query d_head -> row query (head d_head)")


def reachable(window: int | None, start: int, n_queries: int, low: int, n_keys: int) -> Bool[Tensor, "query key"]:
    """Which keys each query may see: none after it, and in local layers only the last `window`."""
    return visible(torch.arange(start, start + n_queries), torch.arange(low, low + n_keys), window)


def visible(
    query: Int[Tensor, "*row query"], key: Int[Tensor, " key"], window: int | None
) -> Bool[Tensor, "*row query key"]:
    """The same for queries at any positions."""
    query = query[..., None]
    seen = key <= query
    return seen if window is None else seen & (key > query - window)
