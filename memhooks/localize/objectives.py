"""What gradients are taken of: one number for each paragraph, from the logits that predict its continuation.

An objective is any `function(logits, paragraphs) -> [paragraph]`; means over paragraphs are taken by
whoever needs one number. Reductions differ between published codes: here every term is a mean over
tokens, so that it weighs the same for paragraphs of any length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from memhooks.errors import InputError
from memhooks.model.decoding import scored_logits
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash
from memhooks.paragraphs.paragraphs import Paragraphs

Logits = Float[Tensor, "paragraph scored d_vocab"]
Objective = Callable[[Tensor, Paragraphs], Tensor]
"""`function(logits, paragraphs) -> [paragraph]`, each paragraph's number from its own logits alone.

The logits are those of `continuation_logits`, `[paragraph, n_continuation, d_vocab]`: `logits[:, 0]` predicts
`paragraphs.tokens[:, paragraphs.n_prefix]`, the first token of the continuation.
"""

CHANGE_WEIGHT = 0.1
"""Weight of the changed paragraphs' NLL in the published objective (`c_set_norm`; official code, not in the paper)."""


def continuation_nll(logits: Logits, paragraphs: Paragraphs) -> Float[Tensor, " paragraph"]:
    """Mean surprise over the continuation tokens of each paragraph, in nats per token (0 = certain)."""
    return surprise(logits, paragraphs).mean(1)


def forget_nll(logits: Logits, paragraphs: Paragraphs) -> Float[Tensor, " paragraph"]:
    """Minus `continuation_nll`: minimising it makes the continuation unlikely; in nats per token, unbounded below."""
    return -continuation_nll(logits, paragraphs)


@dataclass(frozen=True)
class SpanNLL:
    """Mean surprise over the tokens `first` to `stop` (not included) of the row, in nats per token.

    `SpanNLL(50, 51)` is the first continuation token of a prefix of 50.
    """

    first: int
    stop: int

    def __call__(self, logits: Logits, paragraphs: Paragraphs) -> Float[Tensor, " paragraph"]:
        """The span's mean for each paragraph.

        Raises:
            InputError: the span is empty or not within the continuation.
        """
        length = paragraphs.tokens.shape[1]
        if not paragraphs.n_prefix <= self.first < self.stop <= length:
            raise InputError(
                f"a span must lie within the continuation, tokens {paragraphs.n_prefix}..{length}, "
                f"got {self.first}..{self.stop}"
            )
        return surprise(logits, paragraphs)[:, self.first - paragraphs.n_prefix : self.stop - paragraphs.n_prefix].mean(
            1
        )


class TokenNLL:
    """Surprise at one token of each paragraph, such as the impact token of a pair, in nats."""

    def __init__(self, paragraphs: Paragraphs, positions: Int[Tensor, " paragraph"]) -> None:
        """Keep where each paragraph's token stands.

        Args:
            paragraphs: found again by their ids, so that batches of them may be asked for.
            positions: index in the row of each one's token.

        Raises:
            InputError: another number of positions, one outside the continuation, or ids that are not unique.
        """
        if tuple(positions.shape) != (len(paragraphs),):
            raise InputError(
                f"one position for each of {len(paragraphs)} paragraphs, got shape {tuple(positions.shape)}"
            )
        first, length = paragraphs.n_prefix, paragraphs.tokens.shape[1]
        if int(positions.min()) < first or int(positions.max()) >= length:
            raise InputError(
                f"positions must lie within the continuation, {first}..{length - 1}, "
                f"got {int(positions.min())}..{int(positions.max())}; leave pairs without an impact token out"
            )
        if len(set(paragraphs.ids)) < len(paragraphs):
            raise InputError("the paragraphs' ids must be unique, so that each one's position is known")
        self.place = {name: int(position) - first for name, position in zip(paragraphs.ids, positions, strict=True)}

    def __repr__(self) -> str:
        return f"TokenNLL({self.place})"

    def __call__(self, logits: Logits, paragraphs: Paragraphs) -> Float[Tensor, " paragraph"]:
        """The token's surprise for each paragraph."""
        own = torch.tensor([self.place[name] for name in paragraphs.ids], device=logits.device)
        return surprise(logits, paragraphs).gather(1, own[:, None])[:, 0]


@dataclass(frozen=True, repr=False)
class FrozenKL:
    """KL(frozen || model) of the next-token distributions, mean over continuation tokens, in nats (0 = unchanged).

    At the frozen model itself this is at its minimum and its gradient exactly zero: it localizes a change, not a text.
    """

    frozen: HookedModel

    def __repr__(self) -> str:
        return f"FrozenKL({model_hash(self.frozen)})"

    def __call__(self, logits: Logits, paragraphs: Paragraphs) -> Float[Tensor, " paragraph"]:
        """The mean KL for each paragraph."""
        with torch.no_grad():
            theirs = continuation_logits(self.frozen, paragraphs).log_softmax(-1)
        return kl_divergence(logits, theirs).mean(1)


def contrastive(
    logits: Logits,
    change: Paragraphs,
    keep_logits: Float[Tensor, "keep scored d_vocab"],
    frozen: Float[Tensor, "keep scored d_vocab"],
    *,
    edit: bool = False,
) -> Float[Tensor, ""]:
    """The published objective, to be minimised, in nats (Stoehr et al., 2024, Eqs. 3 and 4, as their code has it).

    `CHANGE_WEIGHT` times the mean NLL per token of the paragraphs to change, negative to unlearn, positive to `edit`
    (then `change` holds the perturbed paragraphs); plus KL(frozen || model) of the paragraphs to keep, **summed** over
    tokens and averaged over paragraphs. At the frozen model the second term has no gradient, so what this
    objective localizes there is `CHANGE_WEIGHT` times the gradient of the NLL.

    Args:
        logits: of `change`.
        change: the paragraphs to change.
        keep_logits: of the paragraphs to keep.
        frozen: log-probabilities of the unedited model at the same tokens.
        edit: make `change` likely instead of unlikely.
    """
    sign = 1.0 if edit else -1.0
    changed = continuation_nll(logits, change).mean()
    return sign * CHANGE_WEIGHT * changed + kl_divergence(keep_logits, frozen).sum(1).mean()


def surprise(logits: Logits, paragraphs: Paragraphs) -> Float[Tensor, "paragraph scored"]:
    """Surprise at each continuation token, in nats."""
    true = paragraphs.continuation.to(logits.device)
    return functional.cross_entropy(logits.transpose(1, 2), true, reduction="none")


def kl_divergence(logits: Logits, frozen: Logits) -> Float[Tensor, "paragraph scored"]:
    """KL(frozen || model) at each token, in nats; `frozen` holds log-probabilities."""
    return functional.kl_div(logits.log_softmax(-1), frozen, log_target=True, reduction="none").sum(-1)


def continuation_logits(model: HookedModel, paragraphs: Paragraphs) -> Logits:
    """Logits that predict the continuation tokens, by the model's own pass; nothing else is unembedded."""
    residual = model(paragraphs.tokens.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    return scored_logits(model, residual[:, paragraphs.n_prefix - 1 : -1])


def evaluated(objective: Objective, logits: Logits, paragraphs: Paragraphs) -> Float[Tensor, " paragraph"]:
    """The objective of each paragraph, if gradients can be taken of it.

    Raises:
        InputError: it is not one number for each paragraph, does not depend on the logits, or is NaN or infinite.
    """
    values = objective(logits, paragraphs)
    if values.shape != (len(paragraphs),):
        raise InputError(
            f"an objective gives one number for each of {len(paragraphs)} paragraphs, got shape {tuple(values.shape)}"
        )
    if logits.requires_grad and not values.requires_grad:
        raise InputError(f"{objective_name(objective)} does not depend on the logits, so it has no gradient")
    lost = ~torch.isfinite(values)
    if lost.any():
        name = paragraphs.ids[int(lost.nonzero()[0])]
        raise InputError(
            f"{objective_name(objective)} is NaN or infinite for {int(lost.sum())} of {len(paragraphs)} paragraphs, "
            f"such as {name}; are the model's weights numbers?"
        )
    return values


def objective_name(objective: Callable[..., object]) -> str:
    """For a result's provenance: the function's name, or the object with its settings."""
    return getattr(objective, "__name__", None) or repr(objective)
