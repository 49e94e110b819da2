"""Scalar losses whose gradients localize and unlearn."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from memhooks.model.decoding import scored_logits
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs

Objective = Callable[[HookedModel, Paragraphs], Float[Tensor, ""]]


def continuation_nll(model: HookedModel, paragraphs: Paragraphs) -> Float[Tensor, ""]:
    """Mean surprise over all continuation tokens of all paragraphs, in nats per token (0 = certain)."""
    return token_nll(model, paragraphs.tokens, first=paragraphs.n_prefix).mean()


def forget_nll(model: HookedModel, paragraphs: Paragraphs) -> Float[Tensor, ""]:
    """Minus `continuation_nll`: minimising it makes the continuation unlikely; in nats per token, unbounded below."""
    return -continuation_nll(model, paragraphs)


def token_nll(
    model: HookedModel, tokens: Int[Tensor, "paragraph pos"], *, first: int
) -> Float[Tensor, "paragraph scored"]:
    """Surprise at each token from index `first` on, in nats, with its gradient."""
    logits = continuation_logits(model, tokens, first=first)
    true = tokens[:, first:].to(logits.device)
    return functional.cross_entropy(logits.transpose(1, 2), true, reduction="none")


def retain_kl(
    model: HookedModel, paragraphs: Paragraphs, frozen: Float[Tensor, "paragraph scored d_vocab"]
) -> Float[Tensor, ""]:
    """KL(frozen || model) of the next-token distributions, mean over continuation tokens, in nats (0 = unchanged).

    Args:
        model: the model that is being edited.
        paragraphs: the retain set.
        frozen: log-probabilities of the unedited model at the same positions.
    """
    logits = continuation_logits(model, paragraphs.tokens, first=paragraphs.n_prefix)
    # Mean over positions, unlike torch's "batchmean", which sums them: the term must
    # weigh the same for paragraphs of any length.
    return functional.kl_div(logits.log_softmax(-1), frozen, log_target=True, reduction="none").sum(-1).mean()


def continuation_logits(
    model: HookedModel, tokens: Int[Tensor, "paragraph pos"], *, first: int
) -> Float[Tensor, "paragraph scored d_vocab"]:
    """Logits that predict the tokens from index `first` on; nothing else is unembedded."""
    residual = model(tokens.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
    return scored_logits(model, residual[:, first - 1 : -1])
