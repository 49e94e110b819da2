"""SimNPO: negative preference optimization without a reference model (Fan et al., 2024, arXiv:2410.07163).

The loss is `-2/beta * log sigmoid(beta * (1/T sum_t nll_t - delta))`, over the T continuation tokens.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.term import Retain, Term, check_positive, token_nll


@dataclass(frozen=True)
class SimNPO:
    """Mean over tokens inside the sigmoid, mean over paragraphs; in nats per token, bounded below by 0.

    Published weights are 0.125 for this term and 1 for the retained text's NLL: as one weight, 1 / 0.125 = 8.

    Attributes:
        beta: how sharply the push fades as the NLL rises above `delta`, per nat per token. Positive; published 4.5.
        delta: NLL, in nats per token, at which the push has fallen to half of its most. Any number; published 0.
    """

    beta: float = 4.5
    delta: float = 0.0
    retain: ClassVar[Retain] = "nll"
    retain_weight: ClassVar[float] = 8.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: beta is not positive, or delta no number.
        """
        check_positive("beta", self.beta)
        if not math.isfinite(self.delta):
            raise InputError(f"delta must be a finite number of nats per token, got {self.delta}")

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs; `seed` is not used.

        Raises:
            InputError: paragraphs that the model cannot read.
        """
        loss = partial(_loss, forget=forget, beta=self.beta, delta=self.delta)
        return Term(forget.check(model), loss, slice(0, len(forget)))


def _loss(
    logits: Float[Tensor, "paragraph scored d_vocab"], forget: Paragraphs, beta: float, delta: float
) -> Float[Tensor, " paragraph"]:
    nll = token_nll(logits, forget.continuation).mean(1)
    return -2 / beta * functional.logsigmoid(beta * (nll - delta))
