"""How well counting alone predicts the text: an add-one unigram and an interpolated trigram.

The trigram interpolates with the bigram, the unigram and the uniform distribution by
Witten and Bell's weights (1991): the more different tokens have followed a context, the
more is left to the shorter context. It has no parameter to tune.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

Tokens = Int[np.ndarray, " _"]  # no axis name: texts differ in length


def unigram_nll(tokens: Tokens, counts: Int[np.ndarray, " d_vocab"]) -> Float[np.ndarray, " pos"]:
    """Surprise at each token in nats under add-one smoothed counts."""
    return -np.log((counts[tokens] + 1) / (counts.sum() + len(counts)))


class Trigram:
    """Interpolated trigram fitted on texts; `nll` scores new text token by token, in nats."""

    def __init__(self, texts: Sequence[Tokens], d_vocab: int) -> None:
        self.d_vocab = d_vocab
        self._orders = [_Order(texts, n, d_vocab) for n in (1, 2, 3)]

    def nll(self, tokens: Tokens) -> Float[np.ndarray, " pos"]:
        """Surprise at each token given at most two before it."""
        p = np.full(len(tokens), 1 / self.d_vocab)
        for n, order in enumerate(self._orders, start=1):
            p[n - 1 :] = order.interpolate(tokens, p[n - 1 :])
        return -np.log(p)


class _Order:
    """Counts of one n-gram order, with how many tokens and different tokens followed each context."""

    def __init__(self, texts: Sequence[Tokens], n: int, d_vocab: int) -> None:
        self.n, self.d_vocab = n, d_vocab
        keys = np.concatenate([self._keys(text) for text in texts])
        self.keys, self.counts = np.unique(keys, return_counts=True)
        self.contexts, first = np.unique(self.keys // d_vocab, return_index=True)
        self.totals = np.add.reduceat(self.counts, first)
        self.different = np.diff(np.append(first, len(self.keys)))

    def interpolate(self, tokens: Tokens, shorter: Float[np.ndarray, " pos"]) -> Float[np.ndarray, " pos"]:
        keys = self._keys(tokens)
        count = _find(keys, self.keys, self.counts)
        total = _find(keys // self.d_vocab, self.contexts, self.totals)
        different = _find(keys // self.d_vocab, self.contexts, self.different)
        mixed = (count + different * shorter) / np.maximum(total + different, 1)
        return np.where(total > 0, mixed, shorter)

    def _keys(self, tokens: Tokens) -> Int[np.ndarray, " window"]:
        keys = np.zeros(max(len(tokens) - self.n + 1, 0), np.int64)
        for place in range(self.n):
            keys = keys * self.d_vocab + tokens[place : place + len(keys)]
        return keys


def _find(wanted: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, values[at], 0)
