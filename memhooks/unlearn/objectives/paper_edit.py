"""The published edit, aligned: learn what the model says after one replaced token (Stoehr et al., 2024, Eq. 4).

The rows are the perturbed prefix and the model's own continuation of it (PMP), so that each label is what follows the
very tokens before it. The loss is `CHANGE_WEIGHT * 1/T sum_t nll_t`, over the T tokens of that continuation
(arXiv:2403.19851; the weight from their code). What they ran is `PaperEditMisaligned`.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from memhooks.localize.objectives import CHANGE_WEIGHT
from memhooks.measure.pairs import Pairs
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.pairing import described, pairs_of
from memhooks.unlearn.objectives.term import Retain, Term, token_nll


@dataclass(frozen=True, eq=False, repr=False)
class PaperEdit:
    """`CHANGE_WEIGHT` (0.1) times the perturbed paragraphs' NLL; mean over tokens and over paragraphs, nats per token.

    Bounded below by 0. The model already says this continuation after the perturbed prefix, so the loss starts low; the
    memorized text is changed only as far as what is learned there carries over to the original prefix.

    Attributes:
        pairs: of `make_pairs`, of the paragraphs to forget or more; without them they are made when the term is built,
            one random replacement of each prefix token, by the term's seed.
    """

    pairs: Pairs | None = None
    retain: ClassVar[Retain] = "kl"
    retain_weight: ClassVar[float] = 50.0  # the published sum over 50 tokens

    def __repr__(self) -> str:
        return f"PaperEdit(pairs={described(self.pairs)})"

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs' perturbed twins: `Term.forget` is None.

        Raises:
            InputError: pairs of other paragraphs, a paragraph that the model continues as before, whatever token is
                replaced, paragraphs that it cannot read, or (without pairs) hooks on the model.
        """
        perturbed = pairs_of(model, forget, self.pairs, seed=seed).perturbed
        return Term(perturbed.check(model), partial(scaled_nll, labels=perturbed))


def scaled_nll(logits: Float[Tensor, "paragraph scored d_vocab"], labels: Paragraphs) -> Float[Tensor, " paragraph"]:
    """`CHANGE_WEIGHT` times the mean surprise at the continuations of `labels`."""
    return CHANGE_WEIGHT * token_nll(logits, labels.continuation).mean(1)
