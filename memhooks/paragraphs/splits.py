"""Splits that keep near-duplicates together, so that no test set is half a training set."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from memhooks.errors import InputError
from memhooks.paragraphs.ngrams import ngram_hashes
from memhooks.paragraphs.paragraphs import Paragraphs

_MOST_NAMED = 20


def clusters(paragraphs: Paragraphs, *, n: int = 20) -> Int[Tensor, " paragraph"]:
    """The cluster of each paragraph, from 0: linked if they share `n` tokens in a row, directly or through others.

    Paragraphs shorter than `n` are linked if they are identical.
    The 442 published paragraphs of GPT-Neo 125M form 71 (n = 20).
    """
    return _linked([paragraphs], n)


def split(paragraphs: Paragraphs, *, share: float, seed: int, n: int = 20) -> tuple[Paragraphs, Paragraphs]:
    """Two parts, the first with about `share` of the paragraphs; no cluster is on both sides.

    Raises:
        InputError: the share is not between 0 and 1, or the clusters leave one side empty.
    """
    if not 0 < share < 1:
        raise InputError(f"share must lie between 0 and 1, got {share}")
    label = clusters(paragraphs, n=n)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(int(label.max()) + 1, generator=generator)
    sizes = torch.bincount(label)[order]
    first = order[(sizes.cumsum(0) - sizes / 2) < share * len(paragraphs)]
    chosen = torch.isin(label, first)
    if chosen.all() or not chosen.any():
        raise InputError(
            f"{len(paragraphs)} paragraphs form {len(order)} clusters, which cannot be split at {share}; "
            "give more or other paragraphs"
        )
    return paragraphs.select(chosen), paragraphs.select(~chosen)


def check_apart(sets: Mapping[str, Paragraphs], *, allow_shared: bool = False, n: int = 20) -> None:
    """Refuse sets of which the first shares a cluster of near-duplicates with any of the others.

    What is unlearned and also stands in the text to keep is pulled both ways, and no measure of either means
    anything. Later sets may share clusters with each other.

    Args:
        sets: by name, such as forget, retain, held_out; the first is held against each of the others.
        allow_shared: let them.
        n: paragraphs that share so many tokens in a row are near-duplicates, directly or through others.

    Raises:
        InputError: they share a cluster; the message names the paragraphs.
    """
    if allow_shared or len(sets) < 2:
        return
    first, *rest = sets
    label = _linked(list(sets.values()), n).numpy()
    own, *others = np.split(label, np.cumsum([len(one) for one in sets.values()])[:-1])
    for name, theirs in zip(rest, others, strict=True):
        if np.isin(own, theirs).any():
            raise InputError(
                f"{first} and {name} share near-duplicates ({n} tokens in a row): "
                f"{_named(sets[first], np.isin(own, theirs))} of {first} and "
                f"{_named(sets[name], np.isin(theirs, own))} of {name}; "
                f"leave them out of {name}, or pass allow_shared=True"
            )


def _linked(sets: Sequence[Paragraphs], n: int) -> Int[Tensor, " paragraph"]:
    """The cluster of each paragraph of all sets, in their order."""
    n = min(n, *(one.tokens.shape[1] for one in sets))
    hashes = [ngram_hashes(one.tokens.numpy(), n) for one in sets]
    sizes = np.concatenate([np.full(len(own), own.shape[1]) for own in hashes])
    _, gram = np.unique(np.concatenate([own.reshape(-1) for own in hashes]), return_inverse=True)
    row = np.repeat(np.arange(len(sizes)), sizes)
    # A bipartite graph of paragraphs and n-grams: its connected components are the clusters.
    n_nodes = len(sizes) + int(gram.max()) + 1
    graph = coo_array((np.ones(len(row), bool), (row, gram + len(sizes))), shape=(n_nodes, n_nodes))
    _, label = connected_components(graph, directed=False)
    _, dense = np.unique(label[: len(sizes)], return_inverse=True)
    return torch.from_numpy(dense.astype(np.int64))


def _named(paragraphs: Paragraphs, chosen: np.ndarray) -> str:
    names = [name for name, taken in zip(paragraphs.ids, chosen, strict=True) if taken]
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
