"""Which layers carry a prefix token's information onwards? Clean activations copied into a corrupted run.

1. The corrupted run reads the paragraph with one prefix token replaced (denoising).
2. At one hook point, at the replaced position alone, the clean activation is put back.
3. How much of the continuation's likelihood comes back says how much of what the token
   contributes passes through there, at that depth, still at that position.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.recitation import score_tokens
from memhooks.model.hooks import recorded
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.patched import patched
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

Site = Literal["resid_pre", "attn_out", "mlp_out"]


@torch.no_grad()
def patch_positions(
    model: HookedModel,
    paragraphs: Paragraphs,
    corrupted: Int[Tensor, "row length"],  # its fit to the paragraphs is checked with a message below
    *,
    at: Int[Tensor, " position"],
    sites: Sequence[Site] = get_args(Site),
) -> xr.Dataset:
    """Restore each paragraph's clean activation at its own position, site by site and layer by layer.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: the clean rows.
        corrupted: the same rows with changed tokens.
        at: the position that is restored, one per paragraph.
        sites: kinds of hook point.

    Returns:
        Dataset over `paragraph`, `site`, `layer`: `drop_in_nll`; over `paragraph`: `clean_nll`,
        `corrupted_nll` and `position`.

    Raises:
        InputError: rows of another shape, or a position outside the prefix.
    """
    paragraphs.check(model)
    if corrupted.shape != paragraphs.tokens.shape:
        raise InputError(
            f"corrupted must have the paragraphs' shape {tuple(paragraphs.tokens.shape)}, got {tuple(corrupted.shape)}"
        )
    if len(at) != len(paragraphs) or int(at.min()) < 0 or int(at.max()) >= paragraphs.n_prefix:
        raise InputError(
            f"at must give one position in 0..{paragraphs.n_prefix - 1} for each of {len(paragraphs)} paragraphs"
        )
    names = [f"blocks.{layer}.hook_{site}" for site in sites for layer in range(model.cfg.n_layers)]
    with recorded(model, names) as store:
        model(paragraphs.tokens.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    clean_nll, corrupted_nll = (_mean_nll(model, rows, paragraphs.n_prefix) for rows in (paragraphs.tokens, corrupted))
    drops = []
    for name in tracked(names, "patching"):
        with patched(model, name, store[name], at=at.to(model.cfg.device)):
            drops.append(corrupted_nll - _mean_nll(model, corrupted, paragraphs.n_prefix))
    drop = torch.stack(drops, dim=1).reshape(len(paragraphs), len(sites), model.cfg.n_layers)
    labels = {"paragraph": paragraphs.ids, "site": list(sites), "layer": range(model.cfg.n_layers)}
    return labelled(
        provenance(model, paragraphs.tokens) | {"direction": "denoising"},
        drop_in_nll=Variable(
            drop,
            ("paragraph", "site", "layer"),
            "nats per continuation token, corrupted minus patched; 0 = no effect",
            labels,
        ),
        clean_nll=Variable(clean_nll, ("paragraph",), "nats per continuation token"),
        corrupted_nll=Variable(corrupted_nll, ("paragraph",), "nats per continuation token"),
        position=Variable(at, ("paragraph",), "token position that was corrupted and restored"),
    )


def _mean_nll(model: HookedModel, tokens: Int[Tensor, "paragraph pos"], n_prefix: int) -> Float[Tensor, " paragraph"]:
    (scores,) = score_tokens(model, tokens, first=n_prefix, batch_size=len(tokens))
    return scores.nll.mean(-1)
