"""The published edit as it was run, with labels that do not belong to their context; for comparison only.

The logits come from the **original** prefix and the **original** continuation, the labels from the continuation of the
perturbed prefix (PMP). Up to the first token that differs they agree; each later label is a PMP token that is asked
for after original tokens, which it does not follow. The loss is `CHANGE_WEIGHT * 1/T sum_t -log p(PMP_t | prefix,
original_<t)`, over the T tokens of the continuation (Stoehr et al., 2024, arXiv:2403.19851, code).
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from memhooks.measure.pairs import Pairs
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.objectives.pairing import described, pairs_of
from memhooks.unlearn.objectives.paper_edit import scaled_nll
from memhooks.unlearn.objectives.term import Retain, Term


@dataclass(frozen=True, eq=False, repr=False)
class PaperEditMisaligned:
    """`CHANGE_WEIGHT` (0.1) times the NLL of PMP tokens after original ones; mean over tokens and paragraphs, in nats.

    What is wrong: after the first difference labels do not follow their context, so no text that the model could say
    has a low loss, and what lowers it is not the perturbed continuation. Use `PaperEdit`, or `DPO`, which keeps the
    original prefix.

    Attributes:
        pairs: as in `PaperEdit`.
    """

    pairs: Pairs | None = None
    retain: ClassVar[Retain] = "kl"
    retain_weight: ClassVar[float] = 50.0  # the published sum over 50 tokens

    def __repr__(self) -> str:
        return f"PaperEditMisaligned(pairs={described(self.pairs)})"

    def __call__(self, model: HookedModel, forget: Paragraphs, *, seed: int) -> Term:
        """The term of these paragraphs.

        Raises:
            InputError: pairs of other paragraphs, a paragraph that the model continues as before, whatever token is
                replaced, paragraphs that it cannot read, or (without pairs) hooks on the model.
        """
        labels = pairs_of(model, forget, self.pairs, seed=seed).perturbed
        return Term(forget, partial(scaled_nll, labels=labels), slice(0, len(forget)))
