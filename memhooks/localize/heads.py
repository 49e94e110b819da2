"""Which heads does recitation need? Every head of every layer is silenced alone.

1. Per group of paragraphs one clean run is kept.
2. For each layer all heads are batch rows: the head's output is replaced, carried through
   the rest of its layer, and replayed from the layer above.

A head matters for recitation only if silencing it hurts memorized text more than other
text: measure a control the same way. `ablation_table` adds random heads.
"""

from typing import Literal, get_args

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from memhooks.errors import InputError
from memhooks.measure.recitation import exact_match
from memhooks.model.labelled import Variable, labelled
from memhooks.model.loading import HookedModel
from memhooks.model.means import ActivationMeans
from memhooks.model.provenance import provenance
from memhooks.model.replay.clean_run import TOGETHER, CleanRun, Outcome, clean_run
from memhooks.model.replay.edits import head_edits
from memhooks.model.replay.replay import Work, joined, replay
from memhooks.model.watched import refuse_hooks
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.progress import tracked

How = Literal["zero", "mean"]


def silence_heads(
    model: HookedModel,
    paragraphs: Paragraphs,
    *,
    how: How = "zero",
    means: ActivationMeans | None = None,
    batch_size: int = 64,
) -> xr.Dataset:
    """What each head alone is worth to the continuation.

    Args:
        model: a hooked GPT-Neo.
        paragraphs: memorized ones, or a control.
        how: put zero in place of what the head writes, or its mean.
        means: of `activation_means`, for `how="mean"`.
        batch_size: rows per pass.

    Returns:
        Dataset over `paragraph`, `layer`, `head`: `nll_rise` (nats per token), `em_drop` and
        `match_drop` (tokens); over `paragraph` the untouched `nll` and `exact_match`.

    Raises:
        InputError: paragraphs the model cannot read, hooks on the model, or means that are missing or do not fit.
    """
    paragraphs.check(model)
    refuse_hooks(model)
    _check(model, paragraphs, how, means, batch_size)
    base, after, work = [], [], Work()
    for tokens in tracked(paragraphs.tokens.split(TOGETHER), "silencing heads"):
        run = clean_run(model, tokens, first=paragraphs.n_prefix)
        base.append(run.outcome)
        layers = [
            _silenced(run, layer, _fill(run, layer, means), batch_size, work) for layer in range(model.cfg.n_layers)
        ]
        after.append(Outcome(*(torch.stack(one, 1).flatten(0, 2) for one in zip(*layers, strict=True))))
    clean, scores = joined(base), joined(after)
    shape = (len(paragraphs), model.cfg.n_layers, model.cfg.n_heads)
    nll, em, matches = (
        one.reshape(shape) for one in (scores.nll.mean(-1), exact_match(scores.hits), scores.hits.sum(-1))
    )
    clean_nll, clean_em = clean.nll.mean(-1), exact_match(clean.hits)
    axes = ("paragraph", "layer", "head")
    labels = {"paragraph": paragraphs.ids, "layer": range(shape[1]), "head": range(shape[2])}
    about = provenance(model, paragraphs.tokens) | {"how": how, "means_hash": means.tokens_hash if means else ""}
    about |= work.about()
    return labelled(
        about,
        nll_rise=Variable(nll - clean_nll[:, None, None], axes, "nats per continuation token, 0 = no effect", labels),
        em_drop=Variable(clean_em[:, None, None] - em, axes, "tokens of exact match lost, 0 = no effect"),
        match_drop=Variable(clean.hits.sum(-1)[:, None, None] - matches, axes, "matching tokens lost, 0 = no effect"),
        nll=Variable(clean_nll, ("paragraph",), "nats per continuation token, untouched"),
        exact_match=Variable(clean_em, ("paragraph",), "tokens before the first miss, untouched"),
    )


def _silenced(
    run: CleanRun, layer: int, fill: Float[Tensor, "head pos d_head"], batch_size: int, work: Work
) -> tuple[Tensor, Tensor]:
    """NLL and hits, [paragraph head scored], with each head of one layer silenced."""
    n_rows, n_heads = len(run.tokens), len(fill)
    row, head = (one.flatten() for one in torch.meshgrid(torch.arange(n_rows), torch.arange(n_heads), indexing="ij"))
    edits = head_edits(run, layer, head, row, torch.zeros_like(row), fill[head])
    scores = replay(run, edits, batch_size=batch_size, work=work)
    return scores.nll.unflatten(0, (n_rows, n_heads)), scores.hits.unflatten(0, (n_rows, n_heads))


def _fill(run: CleanRun, layer: int, means: ActivationMeans | None) -> Float[Tensor, "head pos d_head"]:
    n_pos, n_heads = run.tokens.shape[1], run.weights.layers[layer].n_heads
    if means is None:
        return run.layers[layer].z.new_zeros(n_heads, n_pos, run.layers[layer].z.shape[-1] // n_heads)
    like = run.layers[layer].z[:1].unflatten(-1, (n_heads, -1))
    return means.at(f"blocks.{layer}.attn.hook_z", like)[0].transpose(0, 1)


def _check(
    model: HookedModel, paragraphs: Paragraphs, how: str, means: ActivationMeans | None, batch_size: int
) -> None:
    if how not in get_args(How):
        raise InputError(f"how must be one of {', '.join(get_args(How))}, got {how!r}")
    if (how == "mean") != (means is not None):
        raise InputError('means= goes with how="mean", and how="mean" needs means=activation_means(model, rows)')
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if means is not None:
        means.check_model(model)
        like = torch.zeros(1, paragraphs.tokens.shape[1], model.cfg.n_heads, model.cfg.d_head)
        for layer in range(model.cfg.n_layers):
            means.at(f"blocks.{layer}.attn.hook_z", like)
