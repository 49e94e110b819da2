"""What a layer's attention writes when a query, a key, a value, a weight or a head's output is another.

Another query, pattern row or output changes only its own position; another key or value
changes every later position that can see it. Only the heads asked for are computed again.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.replay.block import visible
from memhooks.model.replay.clean_run import CleanRun, Site


@dataclass(frozen=True)
class Attention:
    """Some heads of one layer, row by row: one head each, or all of them."""

    run: CleanRun
    layer: int
    paragraph: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    head: Int[Tensor, " row"] | None
    key: Int[Tensor, " row"] | None

    def written(self, z: Float[Tensor, "row own span d_head"]) -> Float[Tensor, "row span d_model"]:
        """What these outputs of the rows' heads write to the stream."""
        out = self.run.weights.layers[self.layer].out
        if self.head is None:
            return F.linear(z.transpose(1, 2).flatten(2), out)
        own = out.unflatten(1, (-1, z.shape[-1]))[:, self.head]  # [d_model row d_head]
        return torch.einsum("rsd,mrd->rsm", z[:, 0], own)

    def of_heads(self, tensor: Float[Tensor, "paragraph head pos d_head"]) -> Float[Tensor, "row own pos d_head"]:
        """The rows' heads of queries, keys or values."""
        return tensor[self.paragraph] if self.head is None else tensor[self.paragraph, self.head][:, None]

    def z(self, position: Int[Tensor, "row span"]) -> Float[Tensor, "row own span d_head"]:
        """The clean outputs of the rows' heads at these positions."""
        own = self.run.layers[self.layer].z[self.paragraph[:, None], position]
        heads = own.unflatten(-1, (self.run.weights.layers[self.layer].n_heads, -1)).transpose(1, 2)
        if self.head is None:
            return heads
        return heads[torch.arange(len(heads), device=heads.device), self.head][:, None]


def changed_attention(
    place: Attention, site: Site, put: Tensor, same: Bool[Tensor, "row span"]
) -> tuple[Int[Tensor, " row"], Float[Tensor, "row touched d_model"], Bool[Tensor, "row touched"]]:
    """First position, the stream after attention from there on, and which positions of it differ from the clean one."""
    span = torch.arange(put.shape[1], device=put.device)
    position = place.position[:, None] + span
    changed = ~same
    if site in ("k", "v"):
        low = int(place.position.min())
        after = torch.arange(low, place.run.tokens.shape[1], device=put.device)
        layer = place.run.weights.layers[place.layer]
        seen = visible(after, torch.arange(place.run.tokens.shape[1], device=put.device), layer.window)
        # A query differs if it sees any of the row's changed keys.
        edited = torch.zeros(len(put), place.run.tokens.shape[1], dtype=torch.bool, device=put.device)
        edited[torch.arange(len(put), device=put.device)[:, None], position] = changed
        z = _other_keys(place, site, put, position, after, seen)
        changed = (edited.float() @ seen.T.float()) > 0
        position = after.expand(len(put), -1)
    elif site == "q":
        z = _other_queries(place, put, position)
    elif site == "pattern":
        z = _other_pattern(place, put, position)
    else:
        z = _heads_first(put, place)
    difference = (z - place.z(position)) * changed[:, None, :, None]
    mid = place.run.layers[place.layer].mid[place.paragraph[:, None], position] + place.written(difference)
    return position[:, 0], mid, changed


def _heads_first(put: Tensor, place: Attention) -> Float[Tensor, "row own span d_head"]:
    return put.transpose(1, 2) if place.head is None else put[:, None]


def _other_keys(
    place: Attention,
    site: Site,
    put: Tensor,
    position: Int[Tensor, "row span"],
    after: Int[Tensor, " query"],
    seen: Bool[Tensor, "query key"],
) -> Float[Tensor, "row own query d_head"]:
    own = place.run.layers[place.layer]
    keys, values = (place.of_heads(one).clone() for one in (own.keys, own.values))
    row = torch.arange(len(put), device=put.device)[:, None]
    other = keys if site == "k" else values
    other.transpose(1, 2)[row, position] = _heads_first(put, place).transpose(1, 2)
    queries = place.of_heads(own.queries)[:, :, after]
    scale = place.run.weights.layers[place.layer].scale
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, scale=scale)


def _other_queries(
    place: Attention, put: Tensor, position: Int[Tensor, "row span"]
) -> Float[Tensor, "row own span d_head"]:
    own, layer = place.run.layers[place.layer], place.run.weights.layers[place.layer]
    keys, values = (place.of_heads(one) for one in (own.keys, own.values))
    seen = visible(position, torch.arange(keys.shape[2], device=put.device), layer.window)[:, None]
    return F.scaled_dot_product_attention(_heads_first(put, place), keys, values, attn_mask=seen, scale=layer.scale)


def _other_pattern(
    place: Attention, put: Tensor, position: Int[Tensor, "row span"]
) -> Float[Tensor, "row own span d_head"]:
    """Other weights times the clean values; a single weight adds what it has more of one value."""
    own = place.run.layers[place.layer]
    values = place.of_heads(own.values)
    if place.key is None:
        return _heads_first(put, place) @ values
    queries, keys = place.of_heads(own.queries), place.of_heads(own.keys)
    layer, row = place.run.weights.layers[place.layer], torch.arange(len(put), device=put.device)
    scores = queries.transpose(1, 2)[row[:, None], position].transpose(1, 2) @ keys.transpose(-1, -2) * layer.scale
    seen = visible(position, torch.arange(keys.shape[2], device=put.device), layer.window)[:, None]
    pattern = scores.masked_fill(~seen, -torch.inf).softmax(-1)  # [row 1 span key]
    before = pattern[row, :, :, place.key]  # [row 1 span]
    value = values[row, :, place.key]  # [row 1 d_head]
    return place.z(position) + (put.transpose(1, 2) - before)[..., None] * value[:, :, None]
