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
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.model.replay.clean_run import TOGETHER, activation, clean_run
from memhooks.model.replay.edits import site_edits
from memhooks.model.replay.replay import Work, replay
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

Site = Literal["resid_pre", "attn_out", "mlp_out"]
BATCH = 64  # edits of one layer in a batch; fixed, so that results are the same bit for bit


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
        InputError: rows of another shape, a position outside the prefix, or hooks on the model.
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
    refuse_hooks(model)
    parts = zip(paragraphs.tokens.split(TOGETHER), corrupted.split(TOGETHER), at.split(TOGETHER), strict=True)
    work = Work()
    found = [
        _restored(model, clean, other, position, sites, paragraphs.n_prefix, work)
        for clean, other, position in tracked(list(parts), "patching")
    ]
    clean_nll, corrupted_nll, drop = (torch.cat([one[i] for one in found]) for i in range(3))
    labels = {"paragraph": paragraphs.ids, "site": list(sites), "layer": range(model.cfg.n_layers)}
    return labelled(
        provenance(model, paragraphs.tokens) | {"direction": "denoising"} | work.about(),
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


def _restored(
    model: HookedModel,
    tokens: Int[Tensor, "paragraph pos"],
    corrupted: Int[Tensor, "paragraph pos"],
    at: Int[Tensor, " paragraph"],
    sites: Sequence[Site],
    first: int,
    work: Work,
) -> tuple[Float[Tensor, " paragraph"], Float[Tensor, " paragraph"], Float[Tensor, "paragraph site layer"]]:
    """Mean NLL of the clean and of the corrupted rows, and what each restored activation takes off the latter."""
    clean, run = (clean_run(model, rows, first=first) for rows in (tokens, corrupted))
    row, at = torch.arange(len(tokens)), at.to(run.tokens.device)
    clean_nll, corrupted_nll = (one.outcome.nll.mean(-1) for one in (clean, run))
    drops = []
    for site in sites:
        for layer in range(model.cfg.n_layers):
            put = activation(clean, site, layer)[row, at][:, None]
            after = replay(run, site_edits(run, site, layer, row, at, put), batch_size=BATCH, work=work)
            drops.append(corrupted_nll - after.nll.mean(-1))
    return clean_nll.cpu(), corrupted_nll.cpu(), torch.stack(drops, 1).unflatten(1, (len(sites), -1)).cpu()
