"""How often each token occurs: unigram counts from token arrays, token files and text."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError
from memhooks.paragraphs.files import read_array


def unigram_counts(
    sources: Iterable[str | Path | Tensor | np.ndarray],
    *,
    d_vocab: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Int[Tensor, " d_vocab"]:
    """Occurrences of every token id in all sources together.

    Args:
        sources: token tensors or arrays, `.npy` token files, or text files.
        d_vocab: size of the vocabulary.
        tokenizer: needed for text files.

    Raises:
        InputError: an id lies outside the vocabulary, a file is missing, or text comes without tokenizer.
    """
    counts = np.zeros(d_vocab, np.int64)
    for source in sources:
        tokens = _tokens(source, tokenizer).reshape(-1)
        if not len(tokens):
            continue
        if not np.issubdtype(tokens.dtype, np.integer):
            raise InputError(f"tokens must be integers, got {tokens.dtype}")
        if tokens.min() < 0 or tokens.max() >= d_vocab:
            raise InputError(f"token ids must lie in 0..{d_vocab - 1}, got {tokens.min()}..{tokens.max()}")
        counts += np.bincount(tokens, minlength=d_vocab)
    return torch.from_numpy(counts)


def load_counts(path: str | Path, *, d_vocab: int) -> Int[Tensor, " d_vocab"]:
    """Counts saved as one `.npy` array with an entry per token id.

    Raises:
        InputError: the file is missing, damaged or of another vocabulary.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no counts file at {path}")
    counts = read_array(path)
    if counts.shape != (d_vocab,):
        raise InputError(f"{path}: expected {d_vocab} integer counts, got shape {counts.shape}")
    return torch.from_numpy(counts)


def _tokens(source: str | Path | Tensor | np.ndarray, tokenizer: PreTrainedTokenizerBase | None) -> np.ndarray:
    if isinstance(source, Tensor):
        return source.cpu().numpy()
    if isinstance(source, np.ndarray):
        return source
    path = Path(source)
    if not path.is_file():
        raise InputError(f"no token or text file at {path}")
    if path.suffix == ".npy":
        return read_array(path)
    if tokenizer is None:
        raise InputError(f"{path}: text needs a tokenizer")
    return np.array(tokenizer.encode(path.read_text("utf8"), add_special_tokens=False), dtype=np.int64)
