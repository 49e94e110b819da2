"""What an unlearning objective is: the rows of one pass, and one loss for each paragraph from their logits.

1. Before the first step an objective is asked for a `Term`; frozen references are of the model as it is then.
2. At each step one pass over `Term.rows` gives the logits that predict their continuations.
3. `Term.loss` turns them into one loss per paragraph, to be minimised; whoever needs one number takes the mean.

Reductions differ between published codes, so each objective says its own: over tokens the mean, except for NPO
and DPO, which are of whole continuations and take the sum; over paragraphs always the mean. Rows are of equal
length, so there is no padding that could take part. Each paragraph's loss comes from its own rows alone: the terms of
parts of a set give the losses that the term of the whole set gives, so that many paragraphs can be run part by part.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.localize.objectives import continuation_logits
from memhooks.model.decoding import at_least_float32
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

Retain = Literal["kl", "nll", "none"]
"""Names of the retain terms in `memhooks.unlearn.retain_terms.RETAIN`, and `"none"`."""

BATCH = 32
"""Rows per pass where references are computed; gradients are never taken there."""


@dataclass(frozen=True)
class Term:
    """One summand of what an unlearning step minimises.

    Attributes:
        rows: what one pass runs, all of one prefix and length.
        loss: `function(logits) -> [paragraph]`, from the logits that predict the rows' continuations, `[row,
            n_continuation, d_vocab]`; each paragraph's loss from its own rows alone, to be minimised.
        forget: which rows are the paragraphs to forget themselves, in order, so that EM can be read from the same
            logits; None if they are not run.
    """

    rows: Paragraphs
    loss: Callable[[Tensor], Tensor]
    forget: slice | None = None


class Objective(Protocol):
    """What moves the model away from a text, such as those in `memhooks.unlearn.objectives.OBJECTIVES`.

    Attributes:
        retain: name of the retain term that belongs to it.
        retain_weight: weight of that term's mean over paragraphs, beside the objective's own mean.
    """

    retain: ClassVar[Retain]
    retain_weight: ClassVar[float]

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs; `model` still is as it was before the first step."""
        ...


def token_nll(
    logits: Float[Tensor, "row scored d_vocab"], labels: Int[Tensor, "row scored"]
) -> Float[Tensor, "row scored"]:
    """Surprise at each label, in nats (0 = certain)."""
    true = labels.to(logits.device)[..., None]
    return -at_least_float32(logits).log_softmax(-1).gather(-1, true)[..., 0]


@torch.no_grad()
def frozen_log_probabilities(model: HookedModel, rows: Paragraphs) -> Float[Tensor, "row scored d_vocab"]:
    """Log-probabilities of every token at each continuation position, without a graph, in nats."""
    passes = (continuation_logits(model, some) for some in _batches(rows))
    return torch.cat([at_least_float32(logits).log_softmax(-1) for logits in passes])


@torch.no_grad()
def frozen_nll(model: HookedModel, rows: Paragraphs) -> Float[Tensor, "row scored"]:
    """Surprise at each continuation token, without a graph, in nats."""
    return torch.cat([token_nll(continuation_logits(model, some), some.continuation) for some in _batches(rows)])


def check_positive(name: str, value: float) -> None:
    """Refuse a setting that must be a positive number.

    Raises:
        InputError: it is none.
    """
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{name} must be a positive finite number, got {value}")


def _batches(rows: Paragraphs) -> Iterator[Paragraphs]:
    return (rows.select(slice(first, first + BATCH)) for first in range(0, len(rows), BATCH))
