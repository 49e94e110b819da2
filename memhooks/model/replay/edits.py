"""From a change of tokens or activations to what the next layer sees of it.

A change inside a layer touches only some of its positions until the next layer reads them.
So it is carried through the rest of its own layer here, at those positions alone, and
replayed from the layer above. What is put back as it was is exactly nothing, bit for bit.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.replay.attention_edits import Attention, changed_attention
from memhooks.model.replay.clean_run import CleanRun, Site, activation
from memhooks.model.replay.replay import Edits
from memhooks.model.replay.work import Work

STREAM_SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEAD_SITES: tuple[Site, ...] = ("q", "k", "v", "z", "pattern")
MLP_SITES: tuple[Site, ...] = ("mlp_pre", "mlp_post")


@dataclass(frozen=True)
class Cells:
    """Where an activation is replaced; one intervention per row.

    Attributes:
        paragraph: which paragraph of the run.
        position: the first replaced position (of the queries, for pattern).
        part: at q, k, v, z, pattern the head, at mlp_pre and mlp_post the hidden unit; None means all of them.
        key: at pattern the one key whose weight is replaced; None means the whole row.
    """

    paragraph: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    part: Int[Tensor, " row"] | None = None
    key: Int[Tensor, " row"] | None = None

    def __len__(self) -> int:
        return len(self.position)

    def select(self, rows: Tensor) -> "Cells":
        """Some of the rows."""
        part, key = (None if one is None else one[rows] for one in (self.part, self.key))
        return Cells(self.paragraph[rows], self.position[rows], part, key)

    def at(self, span: int) -> tuple[Tensor, Tensor]:
        """Paragraph and position of every replaced entry, [row 1] and [row span], for indexing."""
        return self.paragraph[:, None], self.position[:, None] + torch.arange(span, device=self.position.device)

    def read(self, values: Tensor, site: Site, span: int) -> Tensor:
        """What an activation of all paragraphs, as `activation` gives it, has at these cells; [row span ...]."""
        paragraph, position = self.at(span)
        by_position = values.transpose(1, 2) if site == "pattern" else values
        rows = by_position[paragraph, position]  # of pattern [row span head key]
        if self.part is None:
            return rows
        row = torch.arange(len(self), device=rows.device)
        own = rows[row, :, self.part] if site in HEAD_SITES else rows[row, :, self.part, None]
        return own if self.key is None else own[row, :, self.key, None]


def token_edits(
    run: CleanRun, paragraph: Int[Tensor, " row"], position: Int[Tensor, " row"], token: Int[Tensor, "row span"]
) -> Edits:
    """Row r reads other tokens at the positions of its paragraph from `position` on."""
    at = position[:, None] + torch.arange(token.shape[1], device=token.device)
    return Edits(0, paragraph, position, F.embedding(token, run.weights.embed) + run.weights.positions[at])


@torch.no_grad()
def activation_edits(
    run: CleanRun, site: Site, layer: int, cells: Cells, put: Tensor, *, work: Work | None = None
) -> Edits:
    """Row r has another activation at a site of one layer, at the positions from `cells.position` on.

    Args:
        run: the run that is edited.
        site: kind of hook point.
        layer: of the site.
        cells: where, row by row.
        put: what stands there instead, shaped as `cells.read` gives it: [row span d_model]; at q, k, v, z
            [row span (head) d_head]; at pattern [row span (head) key] or, for one key, [row span 1]; at mlp_pre
            and mlp_post [row span d_mlp] or, for one unit, [row span 1].
        work: counts what is done.
    """
    if site == "resid_pre":
        return Edits(layer, cells.paragraph, cells.position, put)
    span, own = put.shape[1], run.layers[layer]
    at = cells.at(span)
    same = (put == cells.read(activation(run, site, layer), site, span)).flatten(2).all(-1)
    if site == "resid_post":
        return _leaving(run, layer, at, put, ~same)
    if site in MLP_SITES:
        return _leaving(run, layer, at, _changed_mlp(run, site, layer, cells, put, work), ~same)
    if site == "mlp_out":
        return _leaving(run, layer, at, own.mid[at] + put, ~same)
    if site in HEAD_SITES:
        place = Attention(run, layer, cells.paragraph, cells.position, cells.part, cells.key)
        start, mid, changed = changed_attention(place, site, put, same)
        at = at[0], start[:, None] + torch.arange(mid.shape[1], device=start.device)
    else:
        mid, changed = put if site == "resid_mid" else own.pre[at] + put, ~same
    return _leaving(run, layer, at, _through_mlp(run, layer, at, mid, changed, work), changed)


def _leaving(
    run: CleanRun,
    layer: int,
    at: tuple[Tensor, Tensor],
    post: Float[Tensor, "row span d_model"],
    changed: Bool[Tensor, "row span"],
) -> Edits:
    """Edits of the stream that leaves a layer; where nothing was edited it is the clean one, bit for bit."""
    stream = torch.where(changed[..., None], post, run.layers[layer].post[at])
    return Edits(layer + 1, at[0][:, 0], at[1][:, 0], stream)


def _through_mlp(
    run: CleanRun,
    layer: int,
    at: tuple[Tensor, Tensor],
    mid: Float[Tensor, "row span d_model"],
    changed: Bool[Tensor, "row span"],
    work: Work | None,
) -> Float[Tensor, "row span d_model"]:
    """The stream after the MLP, which runs at the changed positions alone."""
    post, touched = run.layers[layer].post[at], mid[changed]
    if work is not None:
        work.add_own_layer(run.weights.layers[layer], len(touched))
    post[changed] = touched + run.weights.layers[layer].mlp(touched)
    return post


def _changed_mlp(run: CleanRun, site: Site, layer: int, cells: Cells, put: Tensor, work: Work | None) -> Tensor:
    """The stream after an MLP with other hidden units; a single unit only adds its own output vector."""
    weights, at = run.weights.layers[layer], cells.at(put.shape[1])
    active = weights.mlp_active(put) if site == "mlp_pre" else put
    if cells.part is None:
        if work is not None:
            work.add_own_layer(weights, at[1].numel() // 2)  # one of the two matrices
        return run.layers[layer].mid[at] + weights.mlp_written(active)
    before = cells.read(activation(run, "mlp_post", layer), "mlp_post", put.shape[1])
    return run.layers[layer].post[at] + (active - before) * weights.mlp_out.T[cells.part][:, None]
