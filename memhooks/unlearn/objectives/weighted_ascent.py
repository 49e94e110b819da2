"""Weighted gradient ascent: tokens that are already forgotten are pushed less (WGA; Wang et al., 2025).

The loss is `-1/T sum_t p_t^beta nll_t`, over the T continuation tokens, where `p_t = exp(-nll_t)` is a weight through
which no gradient flows (arXiv:2502.19301).
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.term import Retain, Term, check_positive, token_nll


@dataclass(frozen=True)
class WeightedAscent:
    """Mean over tokens, mean over paragraphs; in nats per token.

    Its value lies in `[-1/(e beta), 0]` and is near 0 both for certain and for forgotten tokens: it does not say how
    far one has come, only its gradient is meant. The retain term is the NLL with weight 1, as in common toolkits.

    Attributes:
        beta: power of the weight. Positive; published 1; near 0 this is gradient ascent.
    """

    beta: float = 1.0
    retain: ClassVar[Retain] = "nll"
    retain_weight: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: beta is not positive.
        """
        check_positive("beta", self.beta)

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs; `seed` is not used.

        Raises:
            InputError: paragraphs that the model cannot read.
        """
        return Term(forget.check(model), partial(_loss, forget=forget, beta=self.beta), slice(0, len(forget)))


def _loss(
    logits: Float[Tensor, "paragraph scored d_vocab"], forget: Paragraphs, beta: float
) -> Float[Tensor, " paragraph"]:
    nll = token_nll(logits, forget.continuation)
    return -((-beta * nll.detach()).exp() * nll).mean(1)
