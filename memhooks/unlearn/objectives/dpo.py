"""Direct preference optimization towards the perturbed continuation, after the original prefix.

1. The win is what the model says after one replaced token (PMP), the loser the original continuation.
2. Both follow the **original** prefix; rows hold the original paragraphs first, then the winners in the same order.
3. The loss is `-2/beta * log sigmoid(beta * (win - lose))`, each being `log p - log p0` of a whole continuation, a
   **sum** over its T tokens; `p0` is the model as it was.

Rafailov et al., 2023 (arXiv:2305.18290); the factor 2, which makes NPO its half without a winner, as in unlearning
codes.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from memhooks.measure.pairs import Pairs
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.pairing import described, pairs_of
from memhooks.unlearn.objectives.term import Retain, Term, check_positive, frozen_nll, token_nll


@dataclass(frozen=True, eq=False, repr=False)
class DPO:
    """Sum over tokens, mean over paragraphs; in nats of the whole continuation.

    `2/beta * log 2` at the frozen model, bounded below by 0. The retain term is the NLL with weight 1, as in common
    toolkits.

    Attributes:
        beta: how early the push fades, per nat between both continuations' log-probabilities. Positive; published 0.1.
        pairs: of `make_pairs`, of the paragraphs to forget or more; without them they are made when the term is built,
            one random replacement of each prefix token, by the term's seed.
    """

    beta: float = 0.1
    pairs: Pairs | None = None
    retain: ClassVar[Retain] = "nll"
    retain_weight: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: beta is not positive.
        """
        check_positive("beta", self.beta)

    def __repr__(self) -> str:
        return f"DPO(beta={self.beta}, pairs={described(self.pairs)})"

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs, with this model's log-probabilities as `log p0`.

        Raises:
            InputError: pairs of other paragraphs, a paragraph that the model continues as before, whatever token is
                replaced, paragraphs that it cannot read, or (without pairs) hooks on the model.
        """
        rows = _with_winners(forget, pairs_of(model, forget, self.pairs, seed=seed))
        frozen = frozen_nll(model, rows).sum(1)
        return Term(rows, partial(_loss, rows=rows, frozen=frozen, beta=self.beta), slice(0, len(forget)))


def _with_winners(forget: Paragraphs, pairs: Pairs) -> Paragraphs:
    winners = forget.with_continuation(pairs.perturbed.continuation)
    ids = forget.ids + tuple(f"{name} (perturbed continuation)" for name in forget.ids)
    return replace(winners, tokens=torch.cat([forget.tokens, winners.tokens]), ids=ids, counts=None, sources=None)


def _loss(
    logits: Float[Tensor, "row scored d_vocab"], rows: Paragraphs, frozen: Float[Tensor, " row"], beta: float
) -> Float[Tensor, " paragraph"]:
    rise = token_nll(logits, rows.continuation).sum(1) - frozen
    lose, win = rise.chunk(2)  # a rise in NLL is a fall in log-probability
    return -2 / beta * functional.logsigmoid(beta * (lose - win))
