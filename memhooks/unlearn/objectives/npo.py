"""Negative preference optimization: ascent that slows down as the text is forgotten (Zhang et al., 2024).

The loss is `-2/beta * log sigmoid(-beta * (log p - log p0))` of whole continuations: `log p` is the **sum** of the
log-probabilities of its T tokens, `log p0` the same of the model as it was (arXiv:2404.05868). Its gradient is that of
`log p` times `2 p^beta / (p^beta + p0^beta)`, which starts at 1 and falls as p does.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.term import Retain, Term, check_positive, frozen_nll, token_nll


@dataclass(frozen=True)
class NPO:
    """Sum over tokens, mean over paragraphs; in nats of the whole continuation.

    `2/beta * log 2` at the frozen model, bounded below by 0. At the start its gradient is T times that of
    `GradientAscent`, which is a mean over tokens. The retain term is the per-token KL with weight 1, the paper's
    variant "NPO+KL"; their "NPO+RT", and the default of common toolkits, is `retain="nll"`.

    Attributes:
        beta: how early the push fades, per nat of the continuation's log-probability: it has fallen to a quarter of its
            start once the continuation is `log(7)/beta` nats less likely. Positive; published 0.1; near 0 it never
            fades (gradient ascent).
    """

    beta: float = 0.1
    retain: ClassVar[Retain] = "kl"
    retain_weight: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: beta is not positive.
        """
        check_positive("beta", self.beta)

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs, with this model's log-probabilities as `log p0`; `seed` is not used.

        Raises:
            InputError: paragraphs that the model cannot read.
        """
        frozen = frozen_nll(model, forget.check(model)).sum(1)
        return Term(forget, partial(_loss, forget=forget, frozen=frozen, beta=self.beta), slice(0, len(forget)))


def _loss(
    logits: Float[Tensor, "paragraph scored d_vocab"],
    forget: Paragraphs,
    frozen: Float[Tensor, " paragraph"],
    beta: float,
) -> Float[Tensor, " paragraph"]:
    rise = token_nll(logits, forget.continuation).sum(1) - frozen
    return -2 / beta * functional.logsigmoid(beta * rise)
