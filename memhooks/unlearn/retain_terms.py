"""What holds the model where it was on text to keep: two terms beside any objective.

Each is a mean over tokens and one number per paragraph; the mean over paragraphs is multiplied by the recipe's one
weight. Rows are of equal length, so there is no padding that could take part.
"""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor

from memhooks.localize.objectives import kl_divergence
from memhooks.model.decoding import at_least_float32
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.term import Term, frozen_log_probabilities, token_nll


def retained_nll(model: HookedModel, retain: Paragraphs) -> Term:
    """The NLL of the text to keep: `1/T sum_t nll_t`, in nats per token (0 = certain).

    It may learn the retained text itself, where `retained_kl` only holds the model where it was.

    Raises:
        InputError: paragraphs that the model cannot read.
    """
    return Term(retain.check(model), partial(_mean_nll, retain=retain))


def retained_kl(model: HookedModel, retain: Paragraphs) -> Term:
    """KL(frozen || model) of the next-token distributions: `1/T sum_t KL_t`, in nats per token (0 = unchanged).

    The frozen log-probabilities are computed here, once, at the continuation tokens alone: `n_continuation x d_vocab`
    numbers of at least 32 bits per paragraph (10 MB for 50 tokens of GPT-Neo's). At the frozen model itself the
    gradient is exactly zero, so that the first step only forgets.

    Raises:
        InputError: paragraphs that the model cannot read.
    """
    return Term(retain.check(model), partial(_mean_kl, frozen=frozen_log_probabilities(model, retain)))


RETAIN: dict[str, Callable[[HookedModel, Paragraphs], Term]] = {"nll": retained_nll, "kl": retained_kl}
"""Retain terms by name: `function(model, retain) -> Term`, built while the model still is as it was."""


def _mean_nll(logits: Float[Tensor, "paragraph scored d_vocab"], retain: Paragraphs) -> Float[Tensor, " paragraph"]:
    return token_nll(logits, retain.continuation).mean(1)


def _mean_kl(
    logits: Float[Tensor, "paragraph scored d_vocab"], frozen: Float[Tensor, "paragraph scored d_vocab"]
) -> Float[Tensor, " paragraph"]:
    return kl_divergence(at_least_float32(logits), frozen).mean(1)
