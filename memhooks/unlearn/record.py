"""What is known of a run before each of its updates."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UnlearningStep:
    """What a step saw before its update; means over paragraphs.

    Attributes:
        step: updates made so far, 0 = the model as it was.
        loss: what is minimised: the objective plus the weighted retain term.
        forget_nll: of the text to forget, in nats per token.
        forget_em: its exact match, in tokens.
        longest_run: its longest verbatim run from any start, in tokens.
        retain_kl: to the untouched model on this step's retained paragraphs, in nats per token (0 = unchanged); NaN
            where neither the recipe nor the budget looks at them.
        best: whether this is the best step so far; always true without a budget.
    """

    step: int
    loss: float
    forget_nll: float
    forget_em: float
    longest_run: float
    retain_kl: float
    best: bool = True
