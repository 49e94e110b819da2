"""Token paragraphs: a prefix the model is given and a continuation it may recite."""

from dataclasses import KW_ONLY, dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError
from memhooks.model.checks import check_tokens
from memhooks.model.loading import HookedModel

_MOST_TOKENS = 2**31  # of any vocabulary; what lies above is damage, and tokenizers fail on it


@dataclass(frozen=True, repr=False)
class Paragraphs:
    """Paragraphs of equal length as raw token rows: no BOS or EOS is ever added.

    Attributes:
        tokens: one row per paragraph.
        n_prefix: how many tokens are given; the rest is the continuation.
        ids: a name for each paragraph; numbered from 0 by default.
        counts: how often each occurs in the training data, where known.
        sources: where each comes from, where known.
        text: each paragraph's text, where a tokenizer is known.

    Example:
        >>> import memhooks, torch
        >>> rows = memhooks.Paragraphs(torch.arange(24).reshape(2, 12), n_prefix=8)
        >>> rows
        Paragraphs(2 of 8 + 4 tokens, 0..1)
        >>> rows.continuation
        tensor([[ 8,  9, 10, 11],
                [20, 21, 22, 23]])
        >>> rows.select([1]).ids
        ('1',)
    """

    tokens: Int[Tensor, "paragraph pos"]
    n_prefix: int = 50
    _: KW_ONLY
    ids: tuple[str, ...] = ()
    counts: tuple[int, ...] | None = None
    sources: tuple[str, ...] | None = None
    text: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check shapes and number the rows.

        Raises:
            InputError: no paragraphs, ids of no vocabulary, a prefix that leaves no continuation, or labels of
                another number.
        """
        if self.tokens.ndim != 2 or self.tokens.numel() == 0:
            raise InputError(
                f"paragraphs need a non-empty [paragraph, pos] tensor, got shape {tuple(self.tokens.shape)}"
            )
        if self.tokens.is_floating_point() or self.tokens.dtype == torch.bool:
            raise InputError(f"paragraphs need integer tokens, got {self.tokens.dtype}")
        if int(self.tokens.min()) < 0:
            raise InputError(f"token ids must not be negative, got {int(self.tokens.min())}")
        if int(self.tokens.max()) >= _MOST_TOKENS:
            raise InputError(f"token ids must lie below {_MOST_TOKENS}, got {int(self.tokens.max())}")
        n_pos = self.tokens.shape[1]
        if not 0 < self.n_prefix < n_pos:
            raise InputError(
                f"n_prefix must lie in 1..{n_pos - 1} for paragraphs of {n_pos} tokens, got {self.n_prefix}"
            )
        object.__setattr__(self, "tokens", self.tokens.long())
        object.__setattr__(self, "ids", self.ids or tuple(map(str, range(len(self.tokens)))))
        for name in ("ids", "counts", "sources", "text"):
            labels = getattr(self, name)
            if labels is not None and len(labels) != len(self.tokens):
                raise InputError(f"{name} must name {len(self.tokens)} paragraphs, got {len(labels)}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        labels = [name for name in ("counts", "sources", "text") if getattr(self, name) is not None]
        return (
            f"Paragraphs({len(self)} of {self.n_prefix} + {self.n_continuation} tokens, {self.ids[0]}..{self.ids[-1]}"
            + (f", with {', '.join(labels)})" if labels else ")")
        )

    @property
    def prefix(self) -> Int[Tensor, "paragraph n_prefix"]:
        """The tokens the model is given."""
        return self.tokens[:, : self.n_prefix]

    @property
    def continuation(self) -> Int[Tensor, "paragraph n_continuation"]:
        """The tokens that follow in the text."""
        return self.tokens[:, self.n_prefix :]

    @property
    def n_continuation(self) -> int:
        """Tokens after the prefix."""
        return self.tokens.shape[1] - self.n_prefix

    def select(self, rows: ArrayLike | Tensor | slice) -> "Paragraphs":
        """The paragraphs of these rows (numbers, a slice, or one boolean per paragraph), with their labels.

        Raises:
            InputError: nothing is selected, a row does not exist, or booleans of another number.
        """
        if isinstance(rows, slice):
            rows = range(len(self))[rows]
        chosen = np.atleast_1d(np.asarray(rows))
        if chosen.dtype == bool:
            if len(chosen) != len(self):
                raise InputError(f"one boolean per paragraph is needed, {len(self)} in all, got {len(chosen)}")
            chosen = np.nonzero(chosen)[0]
        if not len(chosen):
            raise InputError("no paragraphs selected")
        if chosen.min() < -len(self) or chosen.max() >= len(self):
            raise InputError(f"rows must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        labels = {
            name: None if (values := getattr(self, name)) is None else tuple(values[row] for row in chosen)
            for name in ("ids", "counts", "sources", "text")
        }
        return replace(self, tokens=self.tokens[torch.from_numpy(chosen.astype(np.int64))], **labels)

    def sample(self, n: int, *, seed: int) -> "Paragraphs":
        """`n` different paragraphs drawn at random, or all in their order if there are no more."""
        if n >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:n]
        return self.select(order.sort().values)

    def parts(self, *sizes: int) -> "tuple[Paragraphs, ...]":
        """The first so many paragraphs, the next so many, and so on.

        Raises:
            InputError: there are too few for the last part to have any.
        """
        ends = np.cumsum([0, *sizes]).tolist()
        return tuple(self.select(slice(start, end)) for start, end in pairwise(ends))

    def joined(self, *others: "Paragraphs") -> "Paragraphs":
        """These paragraphs, then others of the same prefix and length, with their ids; other labels are dropped.

        Raises:
            InputError: another prefix or length.
        """
        for one in others:
            if one.n_prefix != self.n_prefix or one.tokens.shape[1] != self.tokens.shape[1]:
                raise InputError(f"only paragraphs of the same prefix and length can be joined, got {self} and {one}")
        ids = tuple(name for one in (self, *others) for name in one.ids)
        return Paragraphs(torch.cat([self.tokens, *(one.tokens for one in others)]), self.n_prefix, ids=ids)

    def with_continuation(self, continuation: Int[Tensor, "paragraph n_continuation"]) -> "Paragraphs":
        """The same prefixes followed by other tokens; the text is dropped."""
        return replace(self, tokens=torch.cat([self.prefix, continuation.cpu()], dim=1), text=None)

    def after(self, lead: Int[Tensor, "paragraph lead"]) -> "Paragraphs":
        """The same paragraphs, each with its own `lead` before it as part of the prefix; the text is dropped."""
        tokens = torch.cat([lead.long(), self.tokens], dim=1)
        return replace(self, tokens=tokens, n_prefix=self.n_prefix + lead.shape[1], text=None)

    def with_text(self, tokenizer: PreTrainedTokenizerBase | None) -> "Paragraphs":
        """The same paragraphs with their decoded text, if there is a tokenizer to decode with."""
        if tokenizer is None or self.text is not None:
            return self
        return replace(self, text=tuple(tokenizer.decode(row) for row in self.tokens.tolist()))

    def halves(self, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
        """Each paragraph's prefix and continuation as text."""
        pairs = zip(self.prefix.tolist(), self.continuation.tolist(), strict=True)
        return [(str(tokenizer.decode(prefix)), str(tokenizer.decode(rest))) for prefix, rest in pairs]

    def check(self, model: HookedModel) -> "Paragraphs":
        """These paragraphs, if `model` can read them.

        Raises:
            InputError: ids outside its vocabulary or more tokens than its context.
        """
        check_tokens(model, self.tokens)
        return self
