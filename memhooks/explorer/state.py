"""What somebody has changed so far: prefix tokens that were replaced and heads that were silenced."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from memhooks.paragraphs.paragraphs import Paragraphs

How = Literal["zero", "mean"]


@dataclass(frozen=True)
class State:
    """All changes; none by default. Every change gives a new state, so that old ones can be gone back to.

    Attributes:
        replaced: (position in the prefix, token id), in order of position.
        heads: (layer, head) of every silenced head, in order.
        how: what stands in place of what a silenced head does: zero, or its mean over the control.
    """

    replaced: tuple[tuple[int, int], ...] = ()
    heads: tuple[tuple[int, int], ...] = ()
    how: How = "zero"

    def with_token(self, position: int, token: int) -> "State":
        """Another token at this position."""
        return replace(self, replaced=tuple(sorted((dict(self.replaced) | {position: token}).items())))

    def without_token(self, position: int) -> "State":
        """The text's own token there again."""
        return replace(self, replaced=tuple(pair for pair in self.replaced if pair[0] != position))

    def toggled(self, heads: Iterable[tuple[int, int]]) -> "State":
        """These heads silenced; or at work again, if all of them were silenced."""
        asked, silenced = set(heads), set(self.heads)
        return replace(self, heads=tuple(sorted(silenced - asked if asked <= silenced else silenced | asked)))

    def by(self, how: How) -> "State":
        """The same heads silenced in another way."""
        return replace(self, how=how)

    def on(self, paragraphs: Paragraphs) -> Paragraphs:
        """These paragraphs with the replaced tokens, at the same positions of every row."""
        if not self.replaced:
            return paragraphs
        tokens = paragraphs.tokens.clone()
        for position, token in self.replaced:
            tokens[:, position] = token
        return replace(paragraphs, tokens=tokens, text=None)

    def does_the_same_as(self, other: "State") -> bool:
        """Whether both change the same; how heads are silenced matters only where some are."""
        same = (self.replaced, self.heads) == (other.replaced, other.heads)
        return same and (self.how == other.how or not self.heads)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing is changed."""
        return not self.replaced and not self.heads
