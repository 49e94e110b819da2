"""Is a head's attention to rare tokens that to its sink? The rare-token statistic with one key left out.

1. One pass gives the attention of the last prefix token; it is normalised over the keys that the layer can see.
2. One key is left out: position 0, each head's own strongest key, or a given position of each paragraph.
3. What is left is normalised anew and correlated with the counts of its tokens.
4. Leaving out a key at the end of a ranking moves a rank correlation, whatever it is a sink of. The null is the same
   with the mirrored key in its place: as far from the middle of the head's ranking, at the other end.
"""

from typing import Literal, get_args

import torch
import xarray as xr
from jaxtyping import Float, Int, Num
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.attention_probe import check_counts, probe
from memhooks.localize.attention_rows import query_attention
from memhooks.localize.attention_statistics import Keys, head_statistics
from memhooks.model.checks import check_batch_size
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

Drop = Literal["nothing", "first", "strongest"]

_CELL = ("paragraph", "layer", "head")


def rare_token_without(
    model: HookedModel,
    paragraphs: Paragraphs,
    counts: Num[Tensor, " d_vocab"],
    *,
    drop: Drop | Int[Tensor, " paragraph"] = "first",
    mirrored: bool = False,
    n_rarest: int = 5,
    batch_size: int = 32,
) -> xr.Dataset:
    """The rare-token statistic of every head at the last prefix token, with one key left out.

    A rank correlation does not change if what is left is normalised anew; shares do.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: whose prefix tokens are looked at.
        counts: corpus count of each token id.
        drop: `nothing`; `first`, position 0; `strongest`, the key that the head looks at most in that paragraph
            (which takes from every head what it looks at: a test harder than any sink's); or a position for each
            paragraph, such as that of its massive activation. Keys that a layer cannot see are not missed.
        mirrored: leave out, in the place of that key, the one of the mirrored rank: of 20 keys in sight, the 20th
            for the head's strongest, the 19th for its second. A key in the middle of an odd number mirrors itself.
        n_rarest: how many of the keys count as the rarest.
        batch_size: paragraphs per pass.

    Returns:
        Dataset over `paragraph`, `layer`, `head`: `spearman`, `partial_spearman` (distance taken out; both -1 =
        rarest first, 0 = none), `share_on_rarest`; `dropped` (whether a key was left out).

    Raises:
        InputError: an unknown `drop` or positions that are not one per paragraph in the prefix; counts of another
            vocabulary; a prefix with fewer than 4 keys in some layer's sight; a batch size below one.
    """
    check_counts(model, counts)
    check_batch_size(batch_size)
    what = probe(model, paragraphs, n_rarest=n_rarest)
    n, query = paragraphs.n_prefix, paragraphs.n_prefix - 1
    _check_drop(drop, len(paragraphs), n)
    if any(len(what.reach(query, layer)) < 4 for layer in range(len(what.layers))):
        raise InputError("with one key left out a rank correlation needs at least 4 in sight; use a longer prefix")
    shape = (len(paragraphs), model.cfg.n_layers, model.cfg.n_heads)
    found = {name: torch.zeros(shape, dtype=torch.float64) for name in ("spearman", "partial_spearman")}
    found |= {"share_on_rarest": torch.zeros(shape, dtype=torch.float64)}
    missing = torch.zeros(shape, dtype=torch.bool)
    for rows in tracked(torch.arange(len(paragraphs)).split(batch_size), "attention"):
        tokens = paragraphs.prefix[rows]
        seen = query_attention(model, tokens, [query])[:, :, :, 0].double()
        for layer in range(shape[1]):
            low = what.reach(query, layer).start
            own, theirs = seen[:, layer, :, low:], counts.cpu().double()[tokens[:, low:]]
            gone = _dropped(drop, rows, own, low)
            gone = _mirror(gone, own) if mirrored else gone
            values, missing[rows, layer] = _statistics(own, theirs, gone, n_rarest)
            for name, one in found.items():
                one[rows, layer] = values[name]
    places = {"paragraph": paragraphs.ids, "layer": range(shape[1]), "head": range(shape[2])}
    about = {
        "drop": drop if isinstance(drop, str) else "given",
        "n_prefix": n,
        "n_rarest": n_rarest,
        "mirrored": int(mirrored),
    }
    correlation = "rank correlation of attention and count, 0 = none, -1 = rarest first"
    return labelled(
        provenance(model, paragraphs.tokens) | about,
        spearman=Variable(found["spearman"], _CELL, correlation, places),
        partial_spearman=Variable(found["partial_spearman"], _CELL, f"{correlation}; without distance"),
        share_on_rarest=Variable(found["share_on_rarest"], _CELL, "share of attention on the n rarest keys, 0 = none"),
        dropped=Variable(missing, _CELL, "whether a key was left out"),
    )


def _check_drop(drop: object, n: int, n_prefix: int) -> None:
    if isinstance(drop, str):
        if drop not in get_args(Drop):
            raise InputError(f"drop must be one of {', '.join(get_args(Drop))}, or positions, got {drop!r}")
        return
    positions = torch.as_tensor(drop)
    if positions.shape != (n,) or int(positions.min()) < 0 or int(positions.max()) >= n_prefix:
        raise InputError(f"drop must name one prefix position (0..{n_prefix - 1}) for each of {n} paragraphs")


def _dropped(
    drop: str | Tensor, rows: Int[Tensor, " row"], own: Float[Tensor, "row head key"], low: int
) -> Int[Tensor, "row head"]:
    """Which key is left out, counted from the first in sight; -1 for none."""
    heads = own.shape[1]
    if isinstance(drop, Tensor):
        place = drop[rows] - low
        return torch.where(place >= 0, place, -1)[:, None].expand(-1, heads)
    if drop == "strongest":
        return own.argmax(-1)
    return torch.full(own.shape[:2], 0 if drop == "first" and low == 0 else -1)


def _mirror(gone: Int[Tensor, "row head"], own: Float[Tensor, "row head key"]) -> Int[Tensor, "row head"]:
    """The key as far from the middle of the head's ranking, at its other end; -1 stays."""
    order = own.sort(dim=-1, stable=True).indices
    place = order.argsort(-1).gather(-1, gone.clamp(min=0)[..., None])
    return torch.where(gone >= 0, order.gather(-1, own.shape[-1] - 1 - place)[..., 0], -1)


def _statistics(
    own: Float[Tensor, "row head key"],
    theirs: Float[Tensor, "row key"],
    gone: Int[Tensor, "row head"],
    n_rarest: int,
) -> tuple[dict[str, Float[Tensor, "row head"]], Tensor]:
    """Statistics of every row and head without its dropped key, and whether one was dropped."""
    width, missing = own.shape[-1], gone >= 0
    flat, counts = own.flatten(0, 1), theirs[:, None].expand_as(own).flatten(0, 1)
    found = {}
    for without in (False, True):
        chosen = (missing if without else ~missing).flatten()
        if not chosen.any():
            continue
        kept = torch.arange(width) != gone.flatten()[chosen, None]
        some, other = (one[chosen][kept].reshape(int(chosen.sum()), -1) for one in (flat, counts))
        total = some.sum(-1, keepdim=True)
        some = torch.where(total > 0, some / total, 1 / some.shape[-1])
        values, _ = head_statistics(some[:, None], Keys(other), n_rarest=n_rarest)
        for name in ("spearman", "partial_spearman", "share_on_rarest"):
            found.setdefault(name, torch.zeros(len(flat), dtype=torch.float64))[chosen] = values[name][:, 0]
    return {name: one.reshape(missing.shape) for name, one in found.items()}, missing
