"""What a stream predicts: NLL and hits of the scored tokens, without ever holding all logits.

The vocabulary is gone through in slices small enough for the processor's cache; a running maximum
and sum make `logsumexp - gather` of them. Further numbers are read off the normed stream and the sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memhooks.model.replay.layouts import Layouts

SLICE = 2048
"""Tokens of the vocabulary whose logits are held at once."""

ROWS = 2048
"""Positions whose logits are held at once."""


@dataclass(frozen=True)
class Scored:
    """Some rows whose every scored position has been unembedded.

    Attributes:
        weights: the model's.
        normed: what the unembedding reads.
        total: logsumexp of the logits.
        paragraph: which paragraph each row is of.
    """

    weights: Layouts
    normed: Float[Tensor, "row scored d_model"]
    total: Float[Tensor, "row scored"]
    paragraph: Int[Tensor, " row"]

    def select(self, rows: slice) -> "Scored":
        """Some of the rows."""
        return Scored(self.weights, self.normed[rows], self.total[rows], self.paragraph[rows])

    @property
    def logits(self) -> Float[Tensor, "row scored d_vocab"]:
        """All logits, for whoever needs them."""
        return _single(F.linear(self.normed, self.weights.unembed, self.weights.unembed_bias))


Reader = Callable[[Scored], Tensor]
"""Reads one entry per row, of any shape."""


@dataclass(frozen=True)
class Outcome:
    """What became of the scored tokens, row by row.

    Attributes:
        nll: of each scored token, in nats.
        hits: whether it is the most likely one.
        read: what further readers found, by name.
    """

    nll: Float[Tensor, "row scored"]
    hits: Bool[Tensor, "row scored"]
    read: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor) -> "Outcome":
        """Some of the rows, in this order."""
        return Outcome(self.nll[rows], self.hits[rows], {name: values[rows] for name, values in self.read.items()})

    def on_cpu(self) -> "Outcome":
        """The same in main memory."""
        return Outcome(self.nll.cpu(), self.hits.cpu(), {name: one.cpu() for name, one in self.read.items()})


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """The rows of several, in order."""
    return Outcome(
        torch.cat([one.nll for one in outcomes]),
        torch.cat([one.hits for one in outcomes]),
        {name: torch.cat([one.read[name] for one in outcomes]) for name in outcomes[0].read},
    )


@torch.no_grad()
def compared(
    weights: Layouts,
    stream: Float[Tensor, "row scored d_model"],
    targets: Int[Tensor, "row scored"],
    paragraph: Int[Tensor, " row"],
) -> tuple[Outcome, Scored]:
    """Unembed these positions of the final stream and compare with the tokens that follow them."""
    normed = weights.norm(stream)
    parts = zip(normed.flatten(0, 1).split(ROWS), targets.flatten().split(ROWS), strict=True)
    found = [_streamed(weights, *part) for part in parts]
    total, logit, best = (torch.cat(one).unflatten(0, targets.shape) for one in zip(*found, strict=True))
    return Outcome(total - logit, best == targets), Scored(weights, normed, total, paragraph)


def _streamed(
    weights: Layouts, normed: Float[Tensor, "position d_model"], targets: Int[Tensor, " position"]
) -> tuple[Float[Tensor, " position"], Float[Tensor, " position"], Int[Tensor, " position"]]:
    """Logsumexp over the vocabulary, logit of the target, and the most likely token (of equals the smaller id)."""
    most = _single(normed.new_full((len(normed),), -torch.inf))
    total, logit, best = torch.zeros_like(most), torch.zeros_like(most), torch.zeros_like(targets)
    for start in range(0, len(weights.unembed), SLICE):
        logits = vocabulary_slice(weights, normed, start)
        token = logits.argmax(-1)
        top = logits.gather(-1, token[:, None])[:, 0]
        here = ((targets >= start) & (targets < start + SLICE)).nonzero()[:, 0]
        logit[here] = logits[here, targets[here] - start]
        best = torch.where(top > most, token + start, best)
        higher = torch.maximum(most, top)
        total = total * (most - higher).exp() + logits.sub_(higher[:, None]).exp_().sum(-1)
        most = higher
    return most + total.log(), logit, best


def vocabulary_slice(
    weights: Layouts, normed: Float[Tensor, "position d_model"], start: int
) -> Float[Tensor, "position slice"]:
    """Logits of the tokens from `start` on; a sum over the vocabulary needs more than half precision."""
    here = slice(start, start + SLICE)
    return _single(F.linear(normed, weights.unembed[here], weights.unembed_bias[here]))


def _single(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
