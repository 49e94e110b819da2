"""Which paragraphs are copies or near-copies of each other, or of another set's?

1. Every run of `n` tokens gets an exact hash (`ngrams.py`), and every distinct paragraph the set of its hashes.
2. A sparse product of these sets, some rows at a time, counts what any two of them share.
3. Similarity is the share of a paragraph's distinct n-grams that one other paragraph holds.
"""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from memhooks.errors import InputError
from memhooks.model.labelled import Variable, labelled
from memhooks.model.provenance import tensor_hash
from memhooks.paragraphs.ngrams import ngram_hashes
from memhooks.paragraphs.paragraphs import Paragraphs
from memhooks.paragraphs.splits import clusters

_BLOCK = 256  # rows of one product; even 15,000 paragraphs that all share n-grams then need some 50 MB
_SIMILARITY = "share of the distinct n-grams that the nearest holds; 0 = no n-gram shared, 1 = all"


def duplicates(paragraphs: Paragraphs, *, n: int = 20) -> xr.Dataset:
    """Find for each paragraph its copies, its cluster and the paragraph most like it in the same set.

    Returns:
        Dataset over `paragraph`: `copies` and `prefix_copies` (other rows with the same tokens, the same
        prefix), `cluster` (see `splits.clusters`) and `cluster_size` (itself included), `nearest` (the id of
        the most similar other paragraph, the first of equals; empty if none shares an n-gram) and `similarity`.

    Raises:
        InputError: `n` tokens do not fit into a paragraph.
    """
    _check_length(paragraphs, n)
    kind, n_alike = _kinds(paragraphs.tokens)
    _, n_prefix_alike = _kinds(paragraphs.prefix)
    first = np.unique(kind, return_index=True)[1]
    grams, _ = _gram_sets(paragraphs.tokens.numpy()[first], None, n)
    near, similarity = _most_similar(grams, grams, apart=True)
    near, similarity = first[near][kind], similarity[kind]
    has_copy, copy = _first_copies(kind)
    near[has_copy] = np.where(similarity[has_copy] < 1, copy, np.minimum(copy, near[has_copy]))
    similarity[has_copy] = 1.0
    cluster = clusters(paragraphs, n=n)
    names = [paragraphs.ids[other] if share else "" for other, share in zip(near, similarity, strict=True)]
    rows = ("paragraph",)
    return labelled(
        _provenance(paragraphs, n),
        copies=Variable(
            n_alike - 1, rows, "other rows with the same tokens; 0 = unique", {"paragraph": paragraphs.ids}
        ),
        prefix_copies=Variable(n_prefix_alike - 1, rows, "other rows with the same prefix; 0 = unique"),
        cluster=Variable(cluster, rows, "number of the cluster, from 0"),
        cluster_size=Variable(cluster.bincount()[cluster], rows, "rows in the cluster; 1 = alone"),
        nearest=Variable(np.array(names), rows, "id of the most similar other paragraph; empty = none"),
        similarity=Variable(similarity, rows, _SIMILARITY),
    )


def overlap(one: Paragraphs, other: Paragraphs, *, n: int = 20) -> xr.Dataset:
    """Find what each paragraph of `one` has in common with the set `other`.

    Returns:
        Dataset over the paragraphs of `one`: `identical` (the whole row stands in `other`), `shares_ngram`
        (some `n` tokens in a row do), `nearest` (the id of the most similar paragraph of `other`, the first
        of equals; empty if none shares an n-gram) and `similarity`.

    Raises:
        InputError: `n` tokens do not fit into a paragraph.
    """
    _check_length(one, n)
    _check_length(other, n)
    known = {row.tobytes() for row in other.tokens.numpy()}
    identical = np.array([row.tobytes() in known for row in one.tokens.numpy()])
    near, similarity = _most_similar(*_gram_sets(one.tokens.numpy(), other.tokens.numpy(), n), apart=False)
    names = [other.ids[row] if share else "" for row, share in zip(near, similarity, strict=True)]
    rows = ("paragraph",)
    return labelled(
        _provenance(one, n) | {"other_hash": tensor_hash(other.tokens)},
        identical=Variable(identical, rows, "1 = the whole row stands in the other set", {"paragraph": one.ids}),
        shares_ngram=Variable(similarity > 0, rows, f"1 = {n} tokens in a row stand in the other set"),
        nearest=Variable(np.array(names), rows, "id of the most similar paragraph of the other set; empty = none"),
        similarity=Variable(similarity, rows, _SIMILARITY),
    )


def _check_length(paragraphs: Paragraphs, n: int) -> None:
    length = paragraphs.tokens.shape[1]
    if not 1 <= n <= length:
        raise InputError(f"n must lie in 1..{length} for paragraphs of {length} tokens, got {n}; give a smaller n")


def _provenance(paragraphs: Paragraphs, n: int) -> dict[str, object]:
    return {"tokens_hash": tensor_hash(paragraphs.tokens), "n_prefix": paragraphs.n_prefix, "n": n}


def _kinds(
    tokens: Int[torch.Tensor, "paragraph _"],
) -> tuple[Int[np.ndarray, " paragraph"], Int[np.ndarray, " paragraph"]]:
    """A number for each distinct row, in order of first appearance, and how many rows have it."""
    number: dict[bytes, int] = {}
    kind = np.array([number.setdefault(row.tobytes(), len(number)) for row in tokens.contiguous().numpy()])
    return kind, np.bincount(kind)[kind]


def _first_copies(kind: Int[np.ndarray, " paragraph"]) -> tuple[Int[np.ndarray, " copied"], Int[np.ndarray, " copied"]]:
    """The rows that have a copy, and the first copy of each."""
    order = np.argsort(kind, kind="stable")
    starts = np.unique(kind[order], return_index=True)[1]
    seconds = np.minimum(starts + 1, len(order) - 1)
    copy = np.where(order[starts][kind] == np.arange(len(kind)), order[seconds][kind], order[starts][kind])
    has_copy = np.nonzero(np.bincount(kind)[kind] > 1)[0]
    return has_copy, copy[has_copy]


def _gram_sets(
    one: Int[np.ndarray, "paragraph _"], other: Int[np.ndarray, "other _"] | None, n: int
) -> tuple[csr_array, csr_array]:
    """Rows of ones at each paragraph's distinct n-grams, over columns common to both sets."""
    hashes = [ngram_hashes(tokens, n) for tokens in ((one,) if other is None else (one, other))]
    distinct, gram = np.unique(np.concatenate([own.reshape(-1) for own in hashes]), return_inverse=True)
    matrices = []
    for own, columns in zip(hashes, np.split(gram, [hashes[0].size]), strict=False):
        cells = (np.repeat(np.arange(len(own)), own.shape[1]), columns)
        matrix = csr_array((np.ones(own.size, np.int32), cells), shape=(len(own), len(distinct)))
        matrix.sum_duplicates()
        matrix.data[:] = 1
        matrices.append(matrix)
    return matrices[0], matrices[-1]


def _most_similar(
    one: csr_array, other: csr_array, *, apart: bool
) -> tuple[Int[np.ndarray, " paragraph"], Float[np.ndarray, " paragraph"]]:
    """The first of the rows of `other` that share most with each row of `one`, and that share of its n-grams.

    With `apart` the sets are the same, and no row is compared with itself.
    """
    n_grams = np.asarray(one.sum(1))
    near, shared = np.zeros(len(n_grams), np.int64), np.zeros(len(n_grams))
    columns = csr_array(other.T)
    for start in range(0, len(n_grams), _BLOCK):
        common = (one[start : start + _BLOCK] @ columns).tocoo()
        row, column = common.coords
        keep = row + start != column if apart else np.ones(len(row), bool)
        row, column, count = row[keep], column[keep], common.data[keep]
        best = np.lexsort((column, -count, row))
        row, at = np.unique(row[best], return_index=True)
        near[start + row], shared[start + row] = column[best][at], count[best][at]
    return near, shared / n_grams
