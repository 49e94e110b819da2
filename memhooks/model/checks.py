"""Checks of tokens against a model, before any work starts."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel


@runtime_checkable
class HasTokens(Protocol):
    """Something with rows of tokens, such as `Paragraphs`."""

    @property
    def tokens(self) -> Tensor:
        """One row per paragraph."""
        ...


Rows = Int[Tensor, "row pos"] | HasTokens
"""Paragraphs, or their tokens."""

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def tokens_of(rows: Rows) -> Int[Tensor, "row pos"]:
    """The rows' tokens.

    Raises:
        InputError: they are neither paragraphs nor a tensor.
    """
    tokens = getattr(rows, "tokens", rows)
    if not isinstance(tokens, Tensor):
        raise InputError(f"expected Paragraphs or an integer tensor [row, pos], got {type(rows).__name__}")
    return tokens


def check_tokens(model: HookedModel, tokens: Int[Tensor, "paragraph pos"], *, n_more: int = 0) -> None:
    """Refuse tokens that this model cannot read.

    Raises:
        InputError: no rows, wrong dtype, ids outside the vocabulary, or longer than the context.
    """
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise InputError(f"tokens must be a non-empty [paragraph, pos] tensor, got shape {tuple(tokens.shape)}")
    if tokens.dtype not in _INTEGERS:
        raise InputError(f"tokens must be integers, got {tokens.dtype}")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.cfg.d_vocab:
        raise InputError(
            f"token ids must lie in 0..{model.cfg.d_vocab - 1} (the model's vocabulary), got {low}..{high}; "
            "were the paragraphs made with another tokenizer?"
        )
    length = tokens.shape[1] + n_more
    if length > model.cfg.n_ctx:
        raise InputError(f"{length} tokens do not fit the model's context of {model.cfg.n_ctx}; use shorter paragraphs")


def check_batch_size(asked: int | None) -> None:
    """Refuse batches of nothing, before any work.

    Raises:
        InputError: fewer than one row is asked for.
    """
    if asked is not None and asked < 1:
        raise InputError(f"batch_size must be at least 1, got {asked}")
