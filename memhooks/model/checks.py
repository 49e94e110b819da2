"""Checks of tokens against a model, before any work starts."""

import torch
from jaxtyping import Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.loading import HookedModel

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


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
