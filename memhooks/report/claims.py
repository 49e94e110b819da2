"""Five published claims about memorized paragraphs: what this very run says about each.

A difference from never-seen text alone is no sign of memorization: its loss is high, and much follows the loss.
What decides is the same words under the twin, the model's own continuation (which it says as well), and contrasts at
equal loss; where these are missing, the verdict is "undecided". So it is where too few paragraphs were measured: no
difference found is not the same as no difference.
"""

from memhooks.report.claim import Claim
from memhooks.report.claims_intervening import corruption_claim, prefix_claim, unlearning_claim
from memhooks.report.claims_looking import attention_claim, gradients_claim
from memhooks.report.estimates import Results


def claims(results: Results, *, seed: int = 0) -> list[Claim]:
    """The verdict on each claim, from the results of one run alone; a claim whose stage was not run says so.

    Args:
        results: of the study, by stage and condition.
        seed: of the intervals.
    """
    return [
        gradients_claim(results, seed=seed),
        attention_claim(results, seed=seed),
        prefix_claim(results, seed=seed),
        corruption_claim(results, seed=seed),
        unlearning_claim(results, seed=seed),
    ]
