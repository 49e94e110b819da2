"""What the report's viewer shows of each paragraph: the model's own words beside the text, and where it looks."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from memhooks.errors import InputError
from memhooks.localize.attention_rows import query_attention
from memhooks.measure.recitation import exact_match, score_tokens
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs

MOST = 200
"""Paragraphs of one set that a page shows at most."""

ALL_HEADS = "all heads"
_ROWS = 32  # of a pass


def viewed_result(model: HookedModel, rows: Paragraphs, *, heads: Sequence[tuple[int, int]]) -> xr.Dataset:
    """Tokens, surprise and the model's own choice at each continuation token, and where the last prefix token looks.

    Args:
        model: a hooked GPT-Neo.
        rows: up to `MOST` paragraphs.
        heads: (layer, head) pairs whose attention is kept beside the mean of all heads.

    Returns:
        Dataset over `paragraph` and `pos`: `tokens`; `nll` (nats; NaN in the prefix) and `said`, the model's most
        likely token with the true text before it (-1 in the prefix); over `paragraph`: `exact_match`; over
        `paragraph`, `row` (heads, such as L0H6, and `all heads`) and `key` (prefix position): `attention` of the
        last prefix token.

    Raises:
        InputError: more paragraphs than `MOST`, heads that the model does not have, or paragraphs it cannot read.
    """
    rows.check(model)
    _check(model, rows, heads)
    n = rows.n_prefix
    passes = list(score_tokens(model, rows.tokens, first=n, batch_size=_ROWS))
    nll, said = torch.cat([one.nll for one in passes]).float(), torch.cat([one.predicted for one in passes])
    seen = torch.cat([query_attention(model, some, [n - 1])[:, :, :, 0] for some in rows.tokens.split(_ROWS)])
    attention = torch.stack([*(seen[:, layer, head] for layer, head in heads), seen.flatten(1, 2).mean(1)], dim=1)
    unsaid = torch.full((len(rows), n), -1)
    axes = ("paragraph", "pos")
    labels = {"paragraph": rows.ids, "pos": range(rows.tokens.shape[1])}
    places = {"row": [*(f"L{layer}H{head}" for layer, head in heads), ALL_HEADS], "key": range(n)}
    return labelled(
        provenance(model, rows.tokens) | {"n_prefix": n, "query": n - 1},
        tokens=Variable(rows.tokens, axes, "token id", labels),
        nll=Variable(torch.cat([unsaid * np.nan, nll], dim=1), axes, "nats, 0 = certain, NaN = prefix"),
        said=Variable(torch.cat([unsaid, said], dim=1), axes, "token id, -1 = prefix"),
        exact_match=Variable(
            exact_match(said == rows.continuation), ("paragraph",), f"tokens before the first miss, of {nll.shape[1]}"
        ),
        attention=Variable(
            attention, ("paragraph", "row", "key"), "share of the last prefix token's attention, 0 = none", places
        ),
    )


def _check(model: HookedModel, rows: Paragraphs, heads: Sequence[tuple[int, int]]) -> None:
    """Refuse what a page would not show.

    Raises:
        InputError: too many paragraphs, or no such head.
    """
    if len(rows) > MOST:
        raise InputError(
            f"a page shows up to {MOST} paragraphs of a set, got {len(rows)}; pass rows.sample({MOST}, ...)"
        )
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    for layer, head in heads:
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise InputError(
                f"L{layer}H{head} is not a head of this model; layers are 0..{n_layers - 1}, heads 0..{n_heads - 1}"
            )
