"""Further numbers to read off an edit: distance from the clean prediction, one token against another."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.model.replay.clean_run import CleanRun
from memhooks.model.replay.scoring import ROWS, SLICE, Reader, Scored, vocabulary_slice


@torch.no_grad()
def divergence(run: CleanRun) -> Reader:
    """Mean over scored tokens of KL(run || edited) of the next-token distribution, in nats; 0 = same prediction.

    Logits are linear in the normed stream, so their mean under the run's prediction is one product with the mean
    unembedding vector: KL = (logsumexp - clean logsumexp) - (normed - clean normed) . mean vector.
    """
    clean = run.scored
    if clean.normed.dtype in (torch.float16, torch.bfloat16):
        return divergence_from(clean.logits)  # the difference of two large numbers would be all rounding
    mean = _mean_vectors(clean)

    def read(rows: Scored) -> Float[Tensor, " row"]:
        own = rows.paragraph
        along = ((rows.normed - clean.normed[own]) * mean[own]).sum(-1)
        return (rows.total - clean.total[own] - along).mean(-1)

    return read


def _mean_vectors(clean: Scored) -> Float[Tensor, "paragraph scored d_model"]:
    """Unembedding vectors averaged with the clean prediction's probabilities."""
    found = []
    normed, total = clean.normed.flatten(0, 1), clean.total.flatten()
    for some, sums in zip(normed.split(ROWS), total.split(ROWS), strict=True):
        mean = torch.zeros_like(some)
        for start in range(0, len(clean.weights.unembed), SLICE):
            share = vocabulary_slice(clean.weights, some, start).sub_(sums[:, None]).exp_()
            mean += share @ clean.weights.unembed[start : start + SLICE]
        found.append(mean)
    return torch.cat(found).unflatten(0, clean.total.shape)


def divergence_from(logits: Float[Tensor, "paragraph scored d_vocab"]) -> Reader:
    """The same from the logits of the untouched paragraphs, by its definition."""
    clean = logits.log_softmax(-1)

    def read(rows: Scored) -> Float[Tensor, " row"]:
        # One row at a time: three more tensors of all logits would not pay.
        each = (rows.select(slice(row, row + 1)) for row in range(len(rows.paragraph)))
        return torch.cat([mean_divergence(clean[one.paragraph], one.logits.log_softmax(-1)) for one in each])

    return read


def mean_divergence(
    clean: Float[Tensor, "row scored d_vocab"], edited: Float[Tensor, "row scored d_vocab"]
) -> Float[Tensor, " row"]:
    """KL(clean || edited) of log-probabilities, mean over the scored tokens."""
    return (clean.exp() * (clean - edited)).sum(-1).mean(-1)


def at_token(
    place: Int[Tensor, " paragraph"], token: Int[Tensor, " paragraph"], other: Int[Tensor, " paragraph"]
) -> Reader:
    """Of one scored position per paragraph: NLL of a token, NLL of another, logit of the first minus the second.

    The result is [row 3]; `place` counts from the first scored token.
    """

    def read(rows: Scored) -> Float[Tensor, "row three"]:
        row, here = torch.arange(len(rows.paragraph), device=rows.paragraph.device), place[rows.paragraph]
        normed, total = rows.normed[row, here].to(rows.total), rows.total[row, here]
        first, second = (
            (normed * rows.weights.unembed[one]).sum(-1) + rows.weights.unembed_bias[one]
            for one in (token[rows.paragraph], other[rows.paragraph])
        )
        return torch.stack([total - first, total - second, first - second], dim=-1)

    return read
