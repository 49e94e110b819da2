"""The published objective of unlearning (Stoehr et al., 2024, arXiv:2403.19851, Eq. 3, as their code has it).

The loss is `-CHANGE_WEIGHT * 1/T sum_t nll_t`, over the T continuation tokens. Their KL of retained paragraphs is
summed over 50 tokens, not averaged: with means over tokens, as here, its weight is 50. The equations show no
weights.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from memhooks.localize.objectives import CHANGE_WEIGHT
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.gradient_ascent import minus_mean_nll
from memhooks.unlearn.objectives.term import Retain, Term


@dataclass(frozen=True)
class PaperUnlearn:
    """`CHANGE_WEIGHT` (0.1) times minus the NLL; mean over tokens, mean over paragraphs, in nats per token.

    From 0 down without bound, against a retain term that weighs 500 times as much per token. For continuations of
    another length than 50 the published sum is a retain weight of that length.
    """

    retain: ClassVar[Retain] = "kl"
    retain_weight: ClassVar[float] = 50.0

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs; `seed` is not used.

        Raises:
            InputError: paragraphs that the model cannot read.
        """
        return Term(forget.check(model), partial(_loss, forget=forget), slice(0, len(forget)))


def _loss(logits: Float[Tensor, "paragraph scored d_vocab"], forget: Paragraphs) -> Float[Tensor, " paragraph"]:
    return CHANGE_WEIGHT * minus_mean_nll(logits, forget)
