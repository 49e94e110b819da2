"""What did the model expect at every token, and how far was the true one from being said?

1. One teacher-forced pass over a batch of paragraphs gives the final residual stream.
2. A few positions at a time are unembedded on the device, so that a vocabulary of 50,000
   never fills memory; a handful of numbers a token come back.
3. The least likely tokens tell most about whether a text was in the training data: their mean
   log-probability is Min-K% Prob (Shi et al., 2024, arXiv:2310.16789).
"""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.checks import check_batch_size
from memhooks.model.decoding import scored_logits
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import provenance
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

_MOST_LOGITS = 2**24
"""At a time: 64 MB in single precision."""


def token_scores(model: HookedModel, paragraphs: Paragraphs, *, k: int = 5, batch_size: int = 32) -> xr.Dataset:
    """Score every token but the first, and name what the model would rather have said.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: what to score, prefix and continuation alike.
        k: how many of the most likely tokens to name.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph` (labelled by id) and `pos` (index of the scored token, 1 to the last): `log_prob`
        (nats), `gap` (nats by which the true token leads the likeliest other one, negative where it trails),
        `rank` (tokens that come before it); over `row` too (0 = likeliest): `top_tokens` (ids) and
        `top_log_probs` (nats). Of equally likely tokens the smaller id comes first.

    Raises:
        InputError: `k` or the batch size out of range, or paragraphs that the model cannot read.
    """
    paragraphs.check(model)
    check_batch_size(batch_size)
    if k not in range(1, model.cfg.d_vocab + 1):
        raise InputError(f"k must lie in 1..{model.cfg.d_vocab} (the model's vocabulary), got {k}")
    batches = [_score_batch(model, rows, k) for rows in tracked(paragraphs.tokens.split(batch_size), "scoring")]
    log_prob, gap, rank, top_tokens, top_log_probs = (torch.cat(one) for one in zip(*batches, strict=True))
    axes, nats = ("paragraph", "pos", "row"), "nats, 0 = certain"
    labels = {"paragraph": paragraphs.ids, "pos": range(1, paragraphs.tokens.shape[1])}
    return labelled(
        provenance(model, paragraphs.tokens) | {"n_prefix": paragraphs.n_prefix, "k": k},
        log_prob=Variable(log_prob, axes[:2], f"{nats}; of the true token", labels),
        gap=Variable(gap, axes[:2], "nats by which the true token leads the likeliest other one, 0 = a tie"),
        rank=Variable(rank, axes[:2], "tokens that come before the true one, 0 = greedy decoding says it"),
        top_tokens=Variable(top_tokens, axes, "token id; row 0 is the likeliest", {"row": range(k)}),
        top_log_probs=Variable(top_log_probs, axes, nats),
    )


def min_k(scores: xr.Dataset, *, fraction: float = 0.2, first: int | None = None) -> xr.DataArray:
    """Min-K% Prob: the mean log-probability of each text's least likely tokens, in nats (0 = all certain).

    Args:
        scores: what `token_scores` returned.
        fraction: share of the tokens to average, rounded to whole tokens, at least one.
        first: index of the first token that counts; by default where the continuation begins.

    Returns:
        One number per paragraph.

    Raises:
        InputError: the fraction lies outside (0, 1], `first` is not a scored position, or the scores are others.
    """
    chosen = min_k_tokens(scores, fraction=fraction, first=first)
    return (
        scores["log_prob"].where(chosen).mean("pos").assign_attrs(units="nats of the least likely tokens, 0 = certain")
    )


def min_k_tokens(scores: xr.Dataset, *, fraction: float = 0.2, first: int | None = None) -> xr.DataArray:
    """Which tokens `min_k` averages, as booleans over all scored positions; of equally likely ones the first.

    Raises:
        InputError: as `min_k`.
    """
    if "log_prob" not in scores:
        raise InputError(f"min_k needs what token_scores returned, got {', '.join(map(str, scores)) or 'nothing'}")
    if not 0 < fraction <= 1:
        raise InputError(f"fraction must lie in (0, 1], got {fraction}")
    positions = scores["pos"].values
    start = int(scores.attrs["n_prefix"]) if first is None else first
    if start not in positions:
        raise InputError(f"first must be a scored position, {positions[0]}..{positions[-1]}, got {start}")
    counted = positions >= start
    log_prob = np.where(counted, scores["log_prob"].values, np.inf)
    number = max(1, round(fraction * int(counted.sum())))
    order = log_prob.argsort(axis=-1, kind="stable")
    chosen = np.zeros(log_prob.shape, dtype=bool)
    np.put_along_axis(chosen, order[..., :number], values=True, axis=-1)
    return xr.DataArray(chosen, scores["log_prob"].coords, scores["log_prob"].dims)


@torch.no_grad()
def _score_batch(model: HookedModel, rows: Int[Tensor, "batch pos"], k: int) -> tuple[Tensor, ...]:
    rows = rows.to(model.cfg.device)
    residual = model(rows, stop_at_layer=model.cfg.n_layers)[:, :-1]
    together = max(1, _MOST_LOGITS // (len(rows) * model.cfg.d_vocab))
    pieces = zip(residual.split(together, 1), rows[:, 1:].split(together, 1), strict=True)
    found = [_score(model, piece, true[..., None], k) for piece, true in pieces]
    return tuple(torch.cat(one, 1).cpu() for one in zip(*found, strict=True))


def _score(
    model: HookedModel, residual: Float[Tensor, "batch pos d_model"], true: Int[Tensor, "batch pos 1"], k: int
) -> tuple[Tensor, ...]:
    logits = scored_logits(model, residual)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a sum over the vocabulary needs more than half precision
    own, total = logits.gather(-1, true), logits.logsumexp(-1, keepdim=True)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    rank = ((logits > own) | ((logits == own) & (ids < true))).sum(-1)
    top = _largest(logits, k)
    top_log_probs = logits.gather(-1, top) - total
    rival = logits.scatter_(-1, true, -torch.inf).amax(-1)  # in place: nothing reads the logits after this
    return (own - total)[..., 0], own[..., 0] - rival, rank, top, top_log_probs


def _largest(logits: Float[Tensor, "batch pos d_vocab"], k: int) -> Int[Tensor, "batch pos k"]:
    """Ids of the `k` largest logits, largest first; of equal ones the smaller id, which topk does not promise."""
    ids = logits.topk(k).indices.sort(-1).values
    values = logits.gather(-1, ids)
    least = values.amin(-1, keepdim=True)
    ids = ids.gather(-1, values.sort(dim=-1, descending=True, stable=True).indices)
    torn = (logits >= least).sum(-1) > k  # topk took some of several equals
    ids[torn] = logits[torn].sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return ids
