"""Gradient ascent: make the continuation unlikely, and nothing else (Jang et al., 2023, arXiv:2210.01504).

The loss is `-1/T sum_t nll_t`, over the T continuation tokens.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.term import Retain, Term, token_nll


@dataclass(frozen=True)
class GradientAscent:
    """Minus the NLL of the continuation; mean over tokens, mean over paragraphs, in nats per token.

    From 0 (each token certain) down without bound: nothing but the number of steps stops it, and nothing is kept.
    """

    retain: ClassVar[Retain] = "none"
    retain_weight: ClassVar[float] = 0.0

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs; `seed` is not used.

        Raises:
            InputError: paragraphs that the model cannot read.
        """
        return Term(forget.check(model), partial(minus_mean_nll, forget=forget), slice(0, len(forget)))


def minus_mean_nll(
    logits: Float[Tensor, "paragraph scored d_vocab"], forget: Paragraphs
) -> Float[Tensor, " paragraph"]:
    """Minus the mean surprise over each paragraph's continuation, in nats per token."""
    return -token_nll(logits, forget.continuation).mean(1)
