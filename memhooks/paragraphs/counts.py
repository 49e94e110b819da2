"""How often each token occurs: unigram counts from token arrays, token files and text."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memhooks.errors import InputError
from memhooks.paragraphs.contents import check_file, read_array, read_text


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
    if d_vocab < 1:
        raise InputError(f"d_vocab must be at least 1, got {d_vocab}")
    counts = np.zeros(d_vocab, np.int64)
    for source in sources:
        place = f"{source}: " if isinstance(source, str | Path) else ""
        tokens = _tokens(source, tokenizer).reshape(-1)
        if not len(tokens):
            continue
        if not np.issubdtype(tokens.dtype, np.integer):
            raise InputError(f"{place}tokens must be integers, got {tokens.dtype}")
        if tokens.min() < 0 or tokens.max() >= d_vocab:
            raise InputError(f"{place}token ids must lie in 0..{d_vocab - 1}, got {tokens.min()}..{tokens.max()}")
        counts += np.bincount(tokens, minlength=d_vocab)
    return torch.from_numpy(counts)


def load_counts(path: str | Path, *, d_vocab: int) -> Int[Tensor, " d_vocab"]:
    """Counts saved as one `.npy` array with an entry per token id.

    Raises:
        InputError: the file is missing, damaged or of another vocabulary, or a count is negative.
    """
    path = Path(path)
    check_file(path, "counts file")
    counts = read_array(path, what="counts")
    if counts.shape != (d_vocab,):
        raise InputError(f"{path}: expected {d_vocab} integer counts, got shape {counts.shape}")
    if d_vocab and counts.min() < 0:
        raise InputError(f"{path}: counts must not be negative, got {counts.min()}")
    return torch.from_numpy(counts)


def _tokens(source: str | Path | Tensor | np.ndarray, tokenizer: PreTrainedTokenizerBase | None) -> np.ndarray:
    if isinstance(source, Tensor):
        return source.cpu().numpy()
    if isinstance(source, np.ndarray):
        return source
    path = Path(source)
    check_file(path, "token or text file")
    if path.suffix == ".npy":
        return read_array(path)
    if tokenizer is None:
        raise InputError(f"{path}: text needs a tokenizer")
    return np.array(tokenizer.encode(read_text(path), add_special_tokens=False, verbose=False), dtype=np.int64)
