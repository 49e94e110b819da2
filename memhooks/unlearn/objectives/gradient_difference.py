"""Gradient difference: ascent on the text to forget, descent on text to keep (Liu et al., 2022, arXiv:2203.12817).

The loss is `-1/T sum_t nll_t`, over the T continuation tokens, beside `1/T sum_t nll_t` of retained paragraphs.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.gradient_ascent import minus_mean_nll
from memhooks.unlearn.objectives.term import Retain, Term


@dataclass(frozen=True)
class GradientDifference:
    """Gradient ascent with a retain term: mean over tokens, mean over paragraphs, in nats per token.

    From 0 down without bound. Published weights are 1 for both terms.
    """

    retain: ClassVar[Retain] = "nll"
    retain_weight: ClassVar[float] = 1.0

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs; `seed` is not used.

        Raises:
            InputError: paragraphs that the model cannot read.
        """
        return Term(forget.check(model), partial(minus_mean_nll, forget=forget), slice(0, len(forget)))
