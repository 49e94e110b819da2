"""Further numbers to read off the logits of an edit: distance from the clean prediction, one token against another."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.model.replay.clean_run import CleanRun, Reader, unembedded


@torch.no_grad()
def divergence(run: CleanRun) -> Reader:
    """Mean over scored tokens of KL(run || edited) of the next-token distribution, in nats; 0 = same prediction."""
    return divergence_from(unembedded(run.weights, run.final[:, run.first - 1 : -1]))


def divergence_from(logits: Float[Tensor, "paragraph scored d_vocab"]) -> Reader:
    """The same from the logits of the untouched paragraphs."""
    clean = logits.log_softmax(-1)

    def read(logits: Float[Tensor, "row scored d_vocab"], paragraph: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        found = logits.new_empty(len(logits))
        for row, own in enumerate(paragraph):  # one row at a time: three more tensors of this size would not pay
            reference = clean[own]
            found[row] = (reference.exp() * (reference - logits[row].log_softmax(-1))).sum(-1).mean()
        return found

    return read


def at_token(
    scored: Int[Tensor, " paragraph"], token: Int[Tensor, " paragraph"], other: Int[Tensor, " paragraph"]
) -> Reader:
    """Of one scored position per paragraph: NLL of a token, NLL of another, logit of the first minus the second.

    The result is [row 3]; `scored` counts from the first scored token.
    """

    def read(logits: Float[Tensor, "row scored d_vocab"], paragraph: Int[Tensor, " row"]) -> Float[Tensor, "row three"]:
        own = logits[torch.arange(len(logits), device=logits.device), scored[paragraph]]
        total = own.logsumexp(-1)
        first, second = (own.gather(-1, one[paragraph][:, None])[:, 0] for one in (token, other))
        return torch.stack([total - first, total - second, first - second], dim=-1)

    return read
