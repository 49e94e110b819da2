"""A published claim about memorized paragraphs, and what a run says about it."""

from dataclasses import dataclass
from typing import Literal

from memhooks.report.estimates import Estimate

Verdict = Literal["holds", "does not hold", "undecided", "not run"]

GRADIENTS = "Which weights move it?"
ATTENTION = "Does a head look at rare tokens?"
PREFIX = "Which prefix tokens carry the continuation?"
UNLEARNING = "Can just that paragraph be removed?"

_SIGNS = {"holds": "✓", "does not hold": "✗", "undecided": "?", "not run": "–"}  # noqa: RUF001 - a dash is meant
_KINDS = {"holds": "holds", "does not hold": "fails", "undecided": "undecided", "not run": "absent"}


@dataclass(frozen=True)
class Claim:
    """A claim and what a run says about it.

    Attributes:
        claim: in words.
        verdict: what the run says.
        why: in one sentence.
        estimates: the effect, its controls and their differences.
        section: heading of the section with the figures.
    """

    claim: str
    verdict: Verdict
    why: str
    section: str
    estimates: tuple[Estimate, ...] = ()

    @property
    def sign(self) -> str:
        """One character for the verdict, so that it does not rest on colour."""
        return _SIGNS[self.verdict]

    @property
    def kind(self) -> str:
        """The verdict as the page's style names it."""
        return _KINDS[self.verdict]


def sentence(words: str) -> str:
    """Words as a sentence."""
    return words[0].upper() + words[1:] + "."
