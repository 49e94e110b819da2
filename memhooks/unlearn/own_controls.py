"""Controls that are recited in full: the model's own words, as near to memorized text in NLL as there are."""

import numpy as np

from memhooks.errors import InputError
from memhooks.measure.recitation import in_loop, with_own_continuation
from memhooks.model.loading import HookedModel
from memhooks.paragraphs.matching import MatchedPairs, matched_pairs
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.unlearn.attacks.measured import measured


def own_controls(model: HookedModel, memorized: Paragraphs, candidates: Paragraphs) -> MatchedPairs:
    """Controls that are recited in full, one for each memorized paragraph, nearest to it in NLL.

    A control is a candidate's prefix with what the model itself says next; continuations that run into a loop are left
    out, for a loop is a text of its own kind.

    Args:
        model: that recites.
        memorized: paragraphs that it recites.
        candidates: text it never read, of the same shape; the more, the nearer the match.

    Returns:
        The pairs; their `balance` says what difference in NLL (nats per token) is left.

    Raises:
        InputError: all candidates run into loops, other shapes, or paragraphs that the model cannot read.
    """
    own = with_own_continuation(model, candidates.check(model))
    straight = np.array([not in_loop(row) for row in own.continuation])
    if not straight.any():
        raise InputError("every candidate's continuation runs into a loop; give more or other text")
    own = own.select(straight)
    nll = [measured(model, rows)["nll"] for rows in (memorized.check(model), own)]
    return matched_pairs(memorized, own, on={"nll": (nll[0], nll[1])})
