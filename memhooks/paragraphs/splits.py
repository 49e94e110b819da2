"""Splits that keep near-duplicates together, so that no test set is half a training set."""

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from memhooks.errors import InputError
from memhooks.paragraphs.ngrams import ngram_hashes
from memhooks.paragraphs.paragraphs import Paragraphs


def clusters(paragraphs: Paragraphs, *, n: int = 20) -> Int[Tensor, " paragraph"]:
    """The cluster of each paragraph, from 0: linked if they share `n` tokens in a row, directly or through others.

    Paragraphs shorter than `n` are linked if they are identical.
    The 442 published paragraphs of GPT-Neo 125M form 71 (n = 20).
    """
    hashes = ngram_hashes(paragraphs.tokens.numpy(), min(n, paragraphs.tokens.shape[1]))
    _, gram = np.unique(hashes.reshape(-1), return_inverse=True)
    row = np.repeat(np.arange(len(paragraphs)), hashes.shape[1])
    # A bipartite graph of paragraphs and n-grams: its connected components are the clusters.
    n_nodes = len(paragraphs) + int(gram.max()) + 1
    graph = coo_array((np.ones(len(row), bool), (row, gram + len(paragraphs))), shape=(n_nodes, n_nodes))
    _, label = connected_components(graph, directed=False)
    _, dense = np.unique(label[: len(paragraphs)], return_inverse=True)
    return torch.from_numpy(dense.astype(np.int64))


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
